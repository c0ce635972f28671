"""The trees that learning policies choose from, unless request or operator say otherwise."""

from speculation.tree import TreeShape

LONG = 20
"""Most levels of a chain. Where one more token to draft and to judge costs a twentieth of a round, drafters that are
nearly always right gain by every level up to here (docs/decisions/0034-longer-chains.md)."""


def chain_of(length: int, least_confidence: float = 0.0) -> TreeShape:
    """A tree without branches."""
    return TreeShape(depth=length, branching=1, budget=length, least_confidence=least_confidence)


SHAPES = (
    *(chain_of(length) for length in (1, 2, 3, 4, 5, 6, 8, 12, LONG)),
    *(chain_of(LONG, least) for least in (0.05, 0.1, 0.2, 0.3, 0.55)),
    TreeShape(depth=4, branching=4, budget=12),
    TreeShape(depth=6, branching=4, budget=16),
    TreeShape(depth=6, branching=4, budget=16, least_confidence=0.04),
)
"""Chains of fixed length, chains that end where the drafter is unsure, and trees."""
