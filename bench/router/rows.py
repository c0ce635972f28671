"""Policies on the statistics of somebody else's fleet: a CSV with one row for each round that was measured there.

    context,arm,tokens,milliseconds
    support-tickets,none,1,31.2
    support-tickets,small:4x1x4,3,40.8

The arm is `none`, or DRAFTER:DEPTHxBRANCHINGxBUDGET. A policy that chooses an arm in a context gets one of its rows by
chance. That says how fast it would have been if rounds do not depend on each other; it is no exact replay. Which node
of a tree was taken is not in a row: the first candidates are taken to have been.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.figures import Figure, figure
from bench.spread import median
from forerun.progress import steps
from router_models.catalogue import all_policies
from router_models.plan import Plan
from router_models.planner import PlannerPolicy
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings
from router_models.ranks import likeliest_nodes
from speculation.acceptance import walk
from speculation.errors import ConfigurationError, InvalidRequestError
from speculation.tree import EMPTY_TREE, ROOT, TokenTree, TreeShape
from speculation.verdict import Verdict

COLUMNS = ("context", "arm", "tokens", "milliseconds")
NS_PER_MS = 1e6
REQUEST_TOKENS = 64
"""Of each request that is made up from rows."""

BEYOND = 64
"""Tokens that it may still want at its end, so that no shape is cut to one that nobody measured."""

NOBODYS_TOKEN = 99
"""What the target says after the last accepted node; nodes carry their rank."""

Arm = tuple[str, TreeShape] | None
"""A drafter and a shape; None for plain decoding."""


@dataclass(frozen=True, slots=True)
class Row:
    """One round: what it emitted and what it took."""

    tokens: int
    milliseconds: float


Table = Mapping[str, Mapping[Arm, Sequence[Row]]]
"""Rows by context and arm."""


def read_rows(file: Path) -> Table:
    """The rows of a file.

    Raises:
        ConfigurationError: It cannot be read, or a line is wrong; the message names the line.
    """
    table: dict[str, dict[Arm, list[Row]]] = {}
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise ConfigurationError(f"{file}, line 1", f"must be {','.join(COLUMNS)}")
            for entry in reader:
                context, arm, row = _read(entry, where=f"{file}, line {reader.line_num}")
                table.setdefault(context, {}).setdefault(arm, []).append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(str(file), f"cannot be read: {error}") from error
    if not table:
        raise ConfigurationError(str(file), "has no rows")
    for context, arms in table.items():
        if None not in arms:
            raise ConfigurationError(str(file), f"context {context!r} has no rows of arm 'none', which all are held to")
    return table


def _read(entry: Mapping[str | None, str | None], *, where: str) -> tuple[str, Arm, Row]:
    if None in entry or None in entry.values():
        raise ConfigurationError(where, f"has not {len(COLUMNS)} columns")
    context, arm, tokens, milliseconds = (str(entry[name]).strip() for name in COLUMNS)
    try:
        row = Row(int(tokens), float(milliseconds))
    except ValueError as error:
        raise ConfigurationError(where, f"tokens must be whole and milliseconds a number: {error}") from error
    chosen = _arm(arm, where=where)
    most = 1 if chosen is None else chosen[1].depth + 1
    if not 1 <= row.tokens <= most:
        raise ConfigurationError(where, f"{row.tokens} tokens; a round of arm {arm!r} emits 1 to {most}")
    if not 0.0 < row.milliseconds < np.inf:
        raise ConfigurationError(where, f"{milliseconds} milliseconds are no length of time")
    return context, chosen, row


def _arm(text: str, *, where: str) -> Arm:
    if text == "none":
        return None
    drafter, _, form = text.rpartition(":")
    try:
        depth, branching, budget = map(int, form.split("x"))
        shape = TreeShape(depth=depth, branching=branching, budget=budget)
    except (ValueError, InvalidRequestError) as error:
        problem = f"arm {text!r} is neither none nor DRAFTER:DEPTHxBRANCHINGxBUDGET ({error})"
        raise ConfigurationError(where, problem) from error
    if not drafter:
        raise ConfigurationError(where, f"arm {text!r} names no drafter")
    return drafter, shape


def measure_rows(
    table: Table, *, warm_up: int, measured: int, seeds: Sequence[int], seed: int
) -> tuple[tuple[Figure, ...], tuple[str, ...]]:
    """Figures of every policy that the rows can serve, and why others are left out.

    Args:
        table: Rows.
        warm_up: Requests before anything is measured.
        measured: Requests measured then.
        seeds: Of orders and resampling.
        seed: Of the intervals.
    """
    goodput: dict[str, list[float]] = {}
    remarks: list[str] = []
    with steps("policies on rows", len(_policies(table))) as step:
        for name in _policies(table):
            try:
                goodput[name] = [
                    _tokens_per_ms(table, _policies(table)[name], warm_up, measured, seed=number) for number in seeds
                ]
            except MissingRowsError as missing:
                remarks.append(f"{name} is left out: {missing}")
            step()
    oracle = [_oracle(table, warm_up, measured, seed=number) for number in seeds]
    figures = [
        figure(f"rows.{name}_of_oracle", median((np.array(values) / np.array(oracle)).tolist(), seed=seed), "x")
        for name, values in goodput.items()
    ]
    return tuple(figures), tuple(remarks)


def _policies(table: Table) -> Mapping[str, Policy]:
    """Fresh ones; the planner chooses among the shapes that there are rows of."""
    shapes = sorted(
        {arm[1] for arms in table.values() for arm in arms if arm}, key=lambda shape: (shape.budget, shape.depth)
    )
    policies = dict(all_policies(shape=shapes[0]) if shapes else all_policies())
    if shapes:
        policies[PlannerPolicy().name] = PlannerPolicy(shapes=shapes)
    return policies


class MissingRowsError(Exception):
    """Expected: a policy chose what nobody measured."""


def _requests(table: Table, count: int, *, seed: int) -> Iterator[tuple[str, np.random.Generator]]:
    """Contexts in an order of chance, and where each request's luck comes from."""
    rng = np.random.default_rng(seed)
    contexts = sorted(table)
    for place in rng.integers(len(contexts), size=count):
        yield contexts[place], rng


def _tokens_per_ms(table: Table, policy: Policy, warm_up: int, measured: int, *, seed: int) -> float:
    tokens, took_ms = 0, 0.0
    for number, (name, rng) in enumerate(_requests(table, warm_up + measured, seed=seed)):
        emitted = rounds = 0
        while emitted < REQUEST_TOKENS:
            context = RoundContext(
                request_id=f"request {number}",
                round=rounds,
                drafters=tuple(sorted({arm[0] for arm in table[name] if arm})),
                task=name,
                prompt_tokens=1,
                emitted_tokens=emitted,
                remaining_tokens=REQUEST_TOKENS - emitted + BEYOND,
            )
            plan = policy.plan(context)
            outcome = _outcome(table[name], plan, rng, where=name)
            policy.learn(context, plan, outcome)
            emitted += len(outcome.verdict.token_ids)
            rounds += 1
            if number >= warm_up:
                tokens += len(outcome.verdict.token_ids)
                took_ms += outcome.timings.round_ns / NS_PER_MS
    return tokens / took_ms


def _outcome(arms: Mapping[Arm, Sequence[Row]], plan: Plan, rng: np.random.Generator, *, where: str) -> RoundOutcome:
    """A row of the plan's arm, dressed as a round."""
    if len(plan.drafters) > 1:
        raise MissingRowsError("it asks several drafters at once, and a row is of one")
    arm = (plan.drafters[0], plan.shape) if plan.drafters else None
    if arm not in arms:
        raise MissingRowsError(f"there are no rows of {_spelt(arm)} in context {where!r}")
    row = arms[arm][int(rng.integers(len(arms[arm])))]
    plain_ms = float(np.mean([entry.milliseconds for entry in arms[None]]))
    verify_ms = row.milliseconds if arm is None else min(plain_ms, row.milliseconds)
    tree = EMPTY_TREE if arm is None else _tree(plan.shape)
    emitted = (0,) * (row.tokens - 1) + (NOBODYS_TOKEN,)
    walked = walk(
        tree, emitted[0], [emitted[depth] if depth < len(emitted) else NOBODYS_TOKEN for depth in tree.depths]
    )
    return RoundOutcome(
        drafts={} if arm is None else {arm[0]: tree},
        tree=tree,
        verdict=Verdict(accepted=walked.accepted, token_ids=emitted, logprobs=()),
        timings=RoundTimings(
            draft_ns=int((row.milliseconds - verify_ms) * NS_PER_MS),
            verify_ns=int(verify_ms * NS_PER_MS),
            round_ns=int(row.milliseconds * NS_PER_MS),
        ),
    )


def _tree(shape: TreeShape) -> TokenTree:
    """The likeliest nodes of a shape; each node's token is its rank."""
    nodes = sorted(likeliest_nodes(shape), key=lambda node: (len(node), node))
    place = {node: index for index, node in enumerate(nodes)}
    return TokenTree(
        token_ids=tuple(node[-1] for node in nodes),
        parents=tuple(place.get(node[:-1], ROOT) for node in nodes),
        confidences=tuple(0.9 / (node[-1] + 1) for node in nodes),
    )


def _oracle(table: Table, warm_up: int, measured: int, *, seed: int) -> float:
    """The best arm of each context, by its mean rows; contexts as often as they come."""
    tokens, took_ms = 0.0, 0.0
    for number, (name, _) in enumerate(_requests(table, warm_up + measured, seed=seed)):
        if number >= warm_up:
            best = max(_speed(rows) for rows in table[name].values())
            tokens, took_ms = tokens + REQUEST_TOKENS, took_ms + REQUEST_TOKENS / best
    return tokens / took_ms


def _speed(rows: Sequence[Row]) -> float:
    return sum(row.tokens for row in rows) / sum(row.milliseconds for row in rows)


def _spelt(arm: Arm) -> str:
    return "none" if arm is None else f"{arm[0]}:{arm[1].depth}x{arm[1].branching}x{arm[1].budget}"
