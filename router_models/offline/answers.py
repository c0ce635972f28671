"""Logged answers whose every token the drafters have scored, made once more by another policy.

The text of an answer does not depend on what is speculated. So a policy can be asked for a plan, its accepted tokens
looked up in what the plan's drafter said of each token, and the policy asked again behind them, to the answer's end.
Two things are not looked up:

- A tree whose nodes compete for its budget, of which only bounds are known (`counterfactual`). An answer in which a
  policy plans one can be made cautiously or hopefully, with the least or the most that the tree can have held.
- What was drafted beside the text, from which a policy learns within the request. The first candidates are put there.

A plan that was carried out at that very place brings what it brought, whatever its tree and however many its drafters.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from router_models.counterfactual import accepted_length, told_chance
from router_models.offline.logged import LoggedRound, LoggedScores
from router_models.offline.round_model import Choice
from router_models.plan import Plan
from router_models.policy import Policy, RoundOutcome, RoundTimings, TextScores
from speculation.calibration import UNCALIBRATED
from speculation.tree import EMPTY_TREE, ROOT, TokenTree
from speculation.verdict import Verdict


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A logged answer of which all is known: every round, and what every drafter on offer says of every token.

    Attributes:
        rounds: As served.
        scores: By drafter.
    """

    rounds: tuple[LoggedRound, ...]
    scores: Mapping[str, TextScores]

    @property
    def request_id(self) -> str:
        """Whose it is."""
        return self.rounds[0].request_id

    @cached_property
    def token_ids(self) -> tuple[int, ...]:
        """Its tokens."""
        return tuple(token for entry in self.rounds for token in entry.outcome.verdict.token_ids[: entry.tokens])

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The token at which each round began."""
        return tuple(entry.context.emitted_tokens for entry in self.rounds)

    @property
    def unused(self) -> int:
        """Tokens that could have followed it."""
        return self.rounds[-1].context.remaining_tokens - self.rounds[-1].tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Remade:
    """An answer, made again by a policy.

    Attributes:
        answer: Which.
        choices: The policy's, round by round.
        tokens: Of each round.
        doubtful: Rounds of which only bounds are known.
    """

    answer: Answer
    choices: tuple[Choice, ...]
    tokens: tuple[int, ...]
    doubtful: int


def answers_of(rounds: Sequence[LoggedRound], scores: Sequence[LoggedScores]) -> tuple[Answer, ...]:
    """The answers of which all is known, in the order in which they began."""
    served: dict[str, list[LoggedRound]] = {}
    for entry in rounds:
        served.setdefault(entry.request_id, []).append(entry)
    told: dict[str, dict[str, TextScores]] = {}
    for scored in scores:
        told.setdefault(scored.request_id, {})[scored.drafter] = scored.scores
    answers = [Answer(rounds=tuple(own), scores=told.get(request, {})) for request, own in served.items()]
    return tuple(answer for answer in answers if _is_known(answer))


def _is_known(answer: Answer) -> bool:
    """Whether no round is missing, and no drafter's word."""
    counts = [entry.tokens for entry in answer.rounds]
    on_offer = {name for entry in answer.rounds for name in entry.context.drafters}
    return (
        [entry.context.round for entry in answer.rounds] == list(range(len(counts)))
        and list(answer.starts) == list(accumulate(counts[:-1], initial=0))
        and bool(on_offer)
        and on_offer <= answer.scores.keys()
        and all(scores.fit(sum(counts)) for scores in answer.scores.values())
    )


def play(policy: Policy, answer: Answer, *, hopefully: bool = False) -> Remade | None:
    """Let a policy make an answer, round by round.

    Args:
        policy: It learns from its rounds.
        answer: Which.
        hopefully: Whether doubtful trees held the most that they can have held, and not the least.

    Returns:
        None if it planned what is not known at all: several drafters at once, other than as served.
    """
    request_id = f"{answer.request_id}, replayed {'hopefully' if hopefully else 'cautiously'}"
    token_ids, starts = answer.token_ids, answer.starts
    choices: list[Choice] = []
    tokens: list[int] = []
    start = doubtful = 0
    while start < len(token_ids):
        served = answer.rounds[bisect_right(starts, start) - 1]
        context = replace(
            served.context,
            request_id=request_id,
            round=len(choices),
            emitted_tokens=start,
            remaining_tokens=len(token_ids) - start + answer.unused,
        )
        plan = policy.plan(context).within(context.remaining_tokens)
        choices.append((context, plan))
        if served.context.emitted_tokens == start and _choice(plan) == _choice(served.plan):
            outcome = served.outcome
            tokens.append(served.tokens)
        elif len(plan.drafters) > 1:
            return None
        else:
            bounds = _foretold(answer, plan, start)
            doubtful += bounds[0] < bounds[1]
            outcome = _outcome(answer, plan, start, bounds[hopefully], served.outcome.timings)
            tokens.append(len(outcome.verdict.token_ids))
        policy.learn(context, plan, outcome)
        start += tokens[-1]
    return Remade(answer=answer, choices=tuple(choices), tokens=tuple(tokens), doubtful=doubtful)


def _choice(plan: Plan) -> Plan:
    """All of it that its outcome depends on."""
    return replace(plan, propensity=1.0, explanation="", model_version="")


def _accepted(answer: Answer, served: LoggedRound) -> int:
    """Nodes of a logged round that were of use: one that ended the answer may have accepted what nobody wanted."""
    return min(served.outcome.verdict.num_accepted, _most(answer, served.context.emitted_tokens))


def _most(answer: Answer, start: int) -> int:
    """Tokens that a round can be said to accept there: the answer's last counts as the one that every round emits."""
    return len(answer.token_ids) - start - 1


def _foretold(answer: Answer, plan: Plan, start: int) -> tuple[int, int]:
    """Least and most tokens that a plan of at most one drafter would have had accepted there, by the scores."""
    if not plan.speculates or not plan.verify_budget:
        return 0, 0
    (name,) = plan.drafters
    # What is cut away before verification are the least likely nodes: as if the drafter had been given that budget.
    shape = replace(plan.shape, budget=min(plan.shape.budget, plan.verify_budget))
    calibration = plan.calibrations.get(name, UNCALIBRATED)
    scores, most = answer.scores[name], _most(answer, start)
    bounds = accepted_length(scores, start, shape, remaining=answer.unused, calibration=calibration)
    return min(bounds[0], most), min(bounds[1], most)


def _outcome(answer: Answer, plan: Plan, start: int, accepted: int, timings: RoundTimings) -> RoundOutcome:
    """What a policy is told of a round that was not served; of what its run would have taken nothing is known."""
    tree, path = _tree(answer, plan, start, accepted) if plan.speculates else (EMPTY_TREE, ())
    token_ids = answer.token_ids[start : start + accepted + 1 + plan.run]
    return RoundOutcome(
        drafts=dict.fromkeys(plan.drafters, tree),
        tree=tree,
        verdict=Verdict(accepted=path, token_ids=token_ids, logprobs=(0.0,) * len(token_ids)),
        timings=timings,
    )


def _tree(answer: Answer, plan: Plan, start: int, accepted: int) -> tuple[TokenTree, tuple[int, ...]]:
    """One drafter's tree as far as it is known, and the accepted nodes: these with their better siblings, and the first
    candidates of where the text left the tree, if the drafter may have believed in them."""
    (name,) = plan.drafters
    scores, shape, calibration = answer.scores[name], plan.shape, plan.calibrations.get(name, UNCALIBRATED)
    text = answer.token_ids[start : start + min(accepted + 1, shape.depth)]
    nodes: list[tuple[int, int, float]] = []
    path: list[int] = []
    path_chance = 1.0
    for place, token in enumerate(text):
        rank, confidence = scores.ranks[start + place], scores.confidences[start + place]
        chance = told_chance(confidence, calibration)
        better = min(rank - 1, shape.branching, shape.budget - len(nodes))
        if place == accepted and path_chance * told_chance(1.0 - confidence, calibration) < shape.least_confidence:
            better = 0
        parent = path[-1] if path else ROOT
        nodes += [(token + 1 + other, parent, chance) for other in range(better)]
        if place < accepted:
            path.append(len(nodes))
            path_chance *= chance
            nodes.append((token, parent, chance))
    token_ids, parents, confidences = zip(*nodes, strict=True) if nodes else ((), (), ())
    return TokenTree(token_ids=token_ids, parents=parents, confidences=confidences), tuple(path)


def as_served(answer: Answer) -> Remade:
    """As it was served."""
    return Remade(
        answer=answer,
        choices=tuple((entry.context, entry.plan) for entry in answer.rounds),
        tokens=tuple(entry.tokens for entry in answer.rounds),
        doubtful=0,
    )


def agreements(answer: Answer) -> Iterator[bool]:
    """Of each round in which one drafter drafted, whether it accepted what the scores say."""
    for entry in answer.rounds:
        if len(entry.plan.drafters) == 1 and entry.outcome.drafts:
            least, most = _foretold(answer, entry.plan, entry.context.emitted_tokens)
            yield least <= _accepted(answer, entry) <= most
