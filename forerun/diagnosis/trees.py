"""The cause in the tree itself: levels and siblings that cost more than they bring.

What a smaller tree would have brought is known exactly, round by round: the path that was kept, as far as the smaller
tree has it. What it would have cost is estimated from what a level costs the drafter and a node the target.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from forerun.diagnosis.evidence import MIN_GROUP, Evidence, grouped, mean, pace
from forerun.diagnosis.findings import Cause, Suspicion
from forerun.diagnosis.rows import Row
from router_models.cost_model import levels_forwarded
from speculation.tree import ROOT, TokenTree, TreeShape

MOST_LOOKED_AT = 500
"""Rounds of one shape that are looked at: more make it slower and hardly surer."""

Choice = tuple[tuple[str, ...], TreeShape]


Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of one more level to the drafters, and of one more node to the target, in milliseconds."""

    level_ms: float
    node_ms: float


@dataclass(frozen=True, slots=True)
class Cut:
    """What is kept of a tree: so many levels, so many candidates each. No level is plain decoding."""

    depth: int
    width: int

    def __str__(self) -> str:
        if not self.depth:
            return "plain decoding"
        return f"{self.depth} levels" + (f", {self.width} wide" if self.width > 1 else " of one candidate")


def overgrown_trees(evidence: Evidence) -> Iterator[Suspicion]:
    """Trees that a smaller one of the same drafters would have beaten."""
    _, node_ms = evidence.forward_costs
    rows = (row for row in evidence.rows if row.drafters and not row.explained)
    for (drafters, shape), group in grouped(rows, _choice).items():
        if shape is None or len(group) < MIN_GROUP:
            continue
        costs = Costs(level_ms=evidence.level_ms(drafters), node_ms=node_ms)
        looked_at = group[:: max(1, len(group) // MOST_LOOKED_AT)]
        drafted = Drafted(looked_at)
        best = min(_cuts(shape), key=lambda cut: drafted.after(cut, costs).ms_per_token)
        then = drafted.after(best, costs).ms_per_token
        if then < pace(looked_at):
            yield _suspicion((drafters, shape), looked_at, best, then, costs)


def _suspicion(choice: Choice, rows: Sequence[Row], best: Cut, then: float, costs: Costs) -> Suspicion:
    drafters, shape = choice
    nodes, accepted = mean(len(row.tree) for row in rows), mean(len(row.accepted) for row in rows)
    deep, now = max((len(row.accepted) for row in rows), default=0), pace(rows)
    return Suspicion(
        cause=Cause.OVERGROWN_TREE,
        subject=" + ".join(drafters),
        says=f"trees of {' + '.join(drafters)}, {shape.depth} deep, {shape.branching} wide, {shape.budget} nodes, have "
        f"{nodes:.1f} nodes of which {accepted:.1f} are kept (never more than {deep}): {now:.1f} ms a token, "
        f"{best} would take {then:.1f} ms",
        advice=f"ask for {best}: router.shape, the pin of the rule or of the request, or a rule's max_depth and "
        "max_nodes"
        if best.depth
        else "decode plainly here (a rule with mode: off), or let the planner choose",
        figures={
            "nodes": nodes,
            "accepted": accepted,
            "depth": float(best.depth),
            "width": float(best.width),
            "ms_per_token": now,
            "best_ms_per_token": then,
        },
        mend=lambda row: _smaller(row, best, costs) if not row.explained and _choice(row) == choice else row,
    )


def _choice(row: Row) -> tuple[tuple[str, ...], TreeShape | None]:
    return row.drafters, row.shape


def _cuts(shape: TreeShape) -> Iterator[Cut]:
    """Smaller trees to think of: every depth, and widths by doubling."""
    widths = [width for width in (1, 2, 4, 8, 16, 32) if width < shape.branching] + [shape.branching]
    yield Cut(0, 1)
    yield from (Cut(depth, width) for depth in range(1, shape.depth + 1) for width in widths)


def _smaller(row: Row, cut: Cut, costs: Costs) -> Row:
    """A round, had its tree been smaller."""
    after = Drafted([row]).after(cut, costs)
    return replace(
        row,
        draft_ms=float(after.draft_ms[0]),
        verify_ms=float(after.verify_ms[0]),
        tokens=float(after.tokens[0]),
        accepted=row.accepted[: int(after.accepted[0])],
    )


class Drafted:
    """Rounds that drafted alike, as arrays over rounds and over nodes."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        places = [_places(row.tree) for row in rows]
        self._places = np.concatenate(places)
        self._round_of_node = np.repeat(np.arange(len(rows)), [len(row.tree) for row in rows])
        self._kept_places = np.concatenate(
            [of_tree[list(row.accepted)] for of_tree, row in zip(places, rows, strict=True)]
        )
        self._round_of_kept = np.repeat(np.arange(len(rows)), [len(row.accepted) for row in rows])
        self._levels = np.array([levels_forwarded(row.shape, row.tree) if row.shape else 0 for row in rows])
        self._times = np.array([(row.draft_ms, row.verify_ms, row.other_ms) for row in rows]).T
        self._tokens = np.array([row.tokens for row in rows])
        self._batch = np.array([row.batch for row in rows])

    def after(self, cut: Cut, costs: Costs) -> "After":
        """What they would have cost and brought with smaller trees."""
        count = len(self._rows)
        dropped = np.bincount(self._round_of_node[~_within(self._places, cut)], minlength=count)
        accepted = np.bincount(self._round_of_kept[_within(self._kept_places, cut)], minlength=count)
        lost = np.bincount(self._round_of_kept, minlength=count) - accepted
        draft_ms, verify_ms, other_ms = self._times
        saved_ms = np.maximum(self._levels - cut.depth, 0) * costs.level_ms
        return After(
            draft_ms=np.maximum(draft_ms - saved_ms, 0.0) if cut.depth else np.zeros(count),
            verify_ms=np.maximum(verify_ms - dropped * costs.node_ms * self._batch, 0.0),
            other_ms=other_ms,
            tokens=np.maximum(self._tokens - lost, 1.0),
            accepted=accepted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """(rounds,) each."""

    draft_ms: Array
    verify_ms: Array
    other_ms: Array
    tokens: Array
    accepted: NDArray[np.int64]

    @property
    def ms_per_token(self) -> float:
        """Of all of them."""
        return float((self.draft_ms + self.verify_ms + self.other_ms).sum() / self.tokens.sum())


def nodes_within(tree: TokenTree, cut: Cut) -> frozenset[int]:
    """The nodes that a smaller tree would have had, too: not too deep, and on every level of their path among the
    likeliest siblings."""
    return frozenset(np.flatnonzero(_within(_places(tree), cut)).tolist())


def _within(places: NDArray[np.int64], cut: Cut) -> NDArray[np.bool_]:
    within: NDArray[np.bool_] = (places[:, 0] <= cut.depth) & (places[:, 1] <= cut.width)
    return within


def _places(tree: TokenTree) -> NDArray[np.int64]:
    """(nodes, 2): the level of each node, and the worst place among siblings on the path to it, the likeliest first."""
    places = np.zeros((len(tree), 2), dtype=np.int64)
    for node, siblings in sorted(tree.children.items()):
        level, worst = (0, 0) if node == ROOT else places[node]
        for place, sibling in enumerate(siblings, start=1):
            places[sibling] = level + 1, max(worst, place)
    return places
