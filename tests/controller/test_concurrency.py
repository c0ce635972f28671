"""How many requests run at once: the slots of the fleet, and fewer while it is strained."""

from types import SimpleNamespace
from typing import Any

import pytest

from controller.concurrency import CUT, LEAST_ROUNDS, WINDOW_S, ConcurrencyLimit

MS = 1_000_000


def a_round(*, waited_ms: float = 0.0, forward_ms: float = 10.0, took_ms: float = 20.0, tokens: int = 2) -> Any:
    """A round as far as the limit looks at it."""
    timings = SimpleNamespace(queue_ns=int(waited_ms * MS), compute_ns=int(forward_ms * MS), forwards=1)
    outcome = SimpleNamespace(
        verdict=SimpleNamespace(timings=timings), timings=SimpleNamespace(round_ns=int(took_ms * MS))
    )
    return SimpleNamespace(outcome=outcome, emitted=(0,) * tokens)


class World:
    """A limit whose windows pass when told to."""

    def __init__(self, most: int = 100, *, slots: int = 20) -> None:
        self.now = 0.0
        self.slots = slots
        self.limit = ConcurrencyLimit(most, slots=lambda: self.slots, now=lambda: self.now)

    def window(self, done: Any, *, objective_ms: float | None = None, running: int | None = None) -> int:
        """A window of rounds like that, and the limit after it."""
        self.now += WINDOW_S
        for _ in range(LEAST_ROUNDS):
            self.limit.note(done, objective_ms=objective_ms, running=self.limit.value if running is None else running)
        return self.limit.value


def test_as_many_run_as_the_fleet_has_slots_and_the_operator_allows() -> None:
    world = World(most=100, slots=20)
    assert world.limit.value == 20
    world.limit.most = 8
    assert world.limit.value == 8


def test_workers_that_join_or_leave_count_at_once_and_a_target_away_for_a_moment_changes_nothing() -> None:
    world = World(slots=20)
    assert world.limit.value == 20
    world.slots = 36
    assert world.limit.value == 36
    world.slots = 0
    assert world.limit.value == 36
    world.slots = 4
    assert world.limit.value == 4


def test_before_any_target_has_served_the_operators_number_holds() -> None:
    assert World(most=7, slots=0).limit.value == 7


def test_rounds_that_wait_for_the_engine_much_longer_than_a_forward_takes_cut_it() -> None:
    world = World()
    assert world.window(a_round(waited_ms=9.0)) == 20
    assert world.window(a_round(waited_ms=30.0)) == int(CUT * 20)
    assert world.window(a_round(waited_ms=30.0)) == int(CUT**2 * 20)


def test_it_grows_again_by_one_a_window_and_only_where_it_is_made_use_of() -> None:
    world = World()
    world.window(a_round(waited_ms=30.0))

    assert world.window(a_round(), running=2) == 18
    assert world.window(a_round()) == 19
    assert world.window(a_round()) == 20
    assert world.window(a_round()) == 20


def test_an_objective_that_is_missed_cuts_it_and_one_that_is_kept_does_not() -> None:
    world = World()
    assert world.window(a_round(took_ms=20.0, tokens=2), objective_ms=10.5) == 20
    assert world.window(a_round(took_ms=20.0, tokens=2), objective_ms=9.5) == 18


def test_at_least_one_request_always_runs() -> None:
    world = World(slots=3)
    for _ in range(50):
        world.window(a_round(waited_ms=1000.0))
    assert world.limit.value == 1
    world.slots = 100
    assert world.limit.value > 1


@pytest.mark.parametrize("rounds", [1, LEAST_ROUNDS - 1])
def test_a_few_rounds_say_nothing(rounds: int) -> None:
    world = World()
    world.now += 10 * WINDOW_S
    for _ in range(rounds):
        world.limit.note(a_round(waited_ms=1000.0), objective_ms=None, running=20)
    assert world.limit.value == 20


def test_an_operator_can_do_without() -> None:
    world = World()
    world.window(a_round(waited_ms=30.0))
    world.limit.adaptive = False
    assert world.limit.value == 20


def test_controllers_that_share_a_fleet_come_to_equal_parts_of_it() -> None:
    """Each is told nothing but whether the fleet is strained (Chiu and Jain 1989)."""
    greedy, modest = World(slots=40), World(slots=40)
    for _ in range(12):
        modest.window(a_round(waited_ms=30.0))
    assert greedy.limit.value > 3 * modest.limit.value

    for _ in range(300):
        strained = a_round(waited_ms=30.0 if greedy.limit.value + modest.limit.value > 40 else 0.0)
        greedy.window(strained)
        modest.window(strained)

    assert abs(greedy.limit.value - modest.limit.value) <= 4
    assert 30 <= greedy.limit.value + modest.limit.value <= 42
