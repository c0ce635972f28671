"""The cause in the tree itself: levels and siblings that cost more than they bring.

What a smaller tree would have brought is known exactly, round by round: the path that was kept, as far as the smaller
tree has it. What it would have cost is estimated from what a level costs the drafter and a node the target.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from forerun.diagnosis.evidence import MIN_GROUP, Evidence, grouped, mean, pace
from forerun.diagnosis.findings import Cause, Suspicion
from forerun.diagnosis.rows import Row
from router_models.cost_model import levels_forwarded
from speculation.tree import ROOT, TokenTree, TreeShape

MOST_LOOKED_AT = 500
"""Rounds of one shape that are looked at: more make it slower and hardly surer."""

Choice = tuple[tuple[str, ...], TreeShape]


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
    rows = (row for row in evidence.rows if row.drafters and not row.explained)
    for (drafters, shape), group in grouped(rows, _choice).items():
        looked_at = group[:: max(1, len(group) // MOST_LOOKED_AT)]
        if shape is None or len(group) < MIN_GROUP:
            continue
        cuts = {cut: _cutting(evidence, drafters, cut) for cut in _cuts(shape)}
        best = min(cuts, key=lambda cut: pace(cuts[cut](row) for row in looked_at))
        if pace(cuts[best](row) for row in looked_at) >= pace(looked_at):
            continue
        yield _suspicion((drafters, shape), looked_at, best, cuts[best])


def _suspicion(choice: Choice, rows: Sequence[Row], best: Cut, cut: Callable[[Row], Row]) -> Suspicion:
    drafters, shape = choice
    nodes, accepted = mean(len(row.tree) for row in rows), mean(len(row.accepted) for row in rows)
    deep = max((len(row.accepted) for row in rows), default=0)
    now, then = pace(rows), pace(cut(row) for row in rows)
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
        mend=lambda row: cut(row) if not row.explained and _choice(row) == choice else row,
    )


def _choice(row: Row) -> tuple[tuple[str, ...], TreeShape | None]:
    return row.drafters, row.shape


def _cuts(shape: TreeShape) -> Iterator[Cut]:
    """Smaller trees to think of: every depth, and widths by doubling."""
    widths = [width for width in (1, 2, 4, 8, 16, 32) if width < shape.branching] + [shape.branching]
    yield Cut(0, 1)
    yield from (Cut(depth, width) for depth in range(1, shape.depth + 1) for width in widths)


def _cutting(evidence: Evidence, drafters: tuple[str, ...], cut: Cut) -> Callable[[Row], Row]:
    """Rounds with smaller trees."""
    level_ms = evidence.level_ms(drafters)
    _, node_ms = evidence.forward_costs

    def mend(row: Row) -> Row:
        if row.shape is None:
            return row
        kept = nodes_within(row.tree, cut)
        levels = levels_forwarded(row.shape, row.tree)
        saved_levels = max(levels - cut.depth, 0)
        draft_ms = row.draft_ms - saved_levels * level_ms if cut.depth else 0.0
        path = _unbroken(row.accepted, kept)
        return replace(
            row,
            draft_ms=max(draft_ms, 0.0),
            verify_ms=max(row.verify_ms - (len(row.tree) - len(kept)) * node_ms * row.batch, 0.0),
            tokens=max(row.tokens - (len(row.accepted) - path), 1.0),
            accepted=row.accepted[:path],
        )

    return mend


def nodes_within(tree: TokenTree, cut: Cut) -> frozenset[int]:
    """The nodes that a smaller tree would have had, too: not too deep, and on every level of their path among the
    likeliest siblings."""
    kept: set[int] = set()
    frontier = [ROOT]
    for _ in range(cut.depth):
        frontier = [child for node in frontier for child in tree.children.get(node, ())[: cut.width]]
        kept.update(frontier)
    return frozenset(kept)


def _unbroken(path: Sequence[int], kept: frozenset[int]) -> int:
    """Nodes of a path up to the first that is not kept."""
    return next((place for place, node in enumerate(path) if node not in kept), len(path))
