"""The fit of a cost profile finds costs that are known."""

import numpy as np
import pytest

from bench.router.costs import CostProfile, DraftCosts
from bench.router.profiling import Timed, fit
from bench.speed import chain_of
from router_models.policy import RoundTimings
from speculation.tree import EMPTY_TREE, TreeShape, chain

KNOWN = CostProfile(
    drafters={"a": DraftCosts(1.5, 2.0, 0.25, 0.02, 4.0), "b": DraftCosts(2.5, 1.0, 0.5, 0.05, 2.0)},
    verify_call_ms=25.0,
    verify_node_ms=0.6,
    target_open_ms=2.0,
    target_token_ms=0.1,
    rest_ms=0.5,
    crowding=0.4,
    spread=0.0,
)
SHAPES = (
    chain_of(2),
    chain_of(5),
    TreeShape(depth=2, branching=3, budget=6),
    TreeShape(depth=4, branching=2, budget=8),
)


def timed(drafters: tuple[str, ...], shape: TreeShape, unread: int, *, first: bool, noise: float = 1.0) -> Timed:
    tree = chain(range(shape.depth)) if drafters else EMPTY_TREE
    alone = max((KNOWN.draft_ms(name, shape, tree, unread, first=first) for name in drafters), default=0.0)
    reading = KNOWN.target_read_ms(unread) if first and not drafters else 0.0
    draft_ms, verify_ms = KNOWN.crowded(alone, len(drafters)) * noise, KNOWN.verify_ms(len(tree)) * noise
    round_ms = draft_ms + verify_ms + reading + KNOWN.rest_ms
    timings = RoundTimings(
        draft_ns=round(draft_ms * 1e6), verify_ns=round(verify_ms * 1e6), round_ns=round(round_ms * 1e6)
    )
    return Timed(drafters=drafters, shape=shape, tree=tree, unread=unread, first=first, timings=timings)


def rounds(noise: float) -> list[Timed]:
    rng = np.random.default_rng(4)
    ways = [((), SHAPES[0]), (("a", "b"), SHAPES[0]), *(((name,), shape) for name in "ab" for shape in SHAPES)]
    return [
        timed(drafters, shape, unread, first=first, noise=float(np.exp(rng.normal(0.0, noise))))
        for drafters, shape in ways
        for unread, first in [(30, True), (90, True), (200, True), *[(1, False), (2, False), (4, False)] * 10]
    ]


def test_the_fit_finds_what_rounds_take() -> None:
    found = fit(rounds(0.0), ("a", "b"))

    for name, costs in KNOWN.drafters.items():
        assert found.drafters[name] == pytest.approx(costs, abs=1e-3)
    for part in ("verify_call_ms", "verify_node_ms", "target_open_ms", "target_token_ms", "rest_ms", "crowding"):
        assert getattr(found, part) == pytest.approx(getattr(KNOWN, part), abs=1e-3)
    assert found.spread < 1e-3


def test_the_fit_finds_how_far_times_spread() -> None:
    assert fit(rounds(0.1), ("a", "b")).spread == pytest.approx(0.1, rel=0.3)


def test_a_machine_that_was_elsewhere_does_not_move_the_fit() -> None:
    disturbed = [*rounds(0.01), *(timed(("a",), shape, 2, first=False, noise=8.0) for shape in SHAPES)]

    found = fit(disturbed, ("a", "b"))

    assert found.verify_ms(4) == pytest.approx(KNOWN.verify_ms(4), rel=0.05)
