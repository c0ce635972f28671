"""An answer that turns to something else is noticed within a few rounds, and one that does not is left alone."""

from dataclasses import replace

import numpy as np
import pytest

from router_models.contexts import LEVELS, is_of_a_request, path_of
from router_models.plan import Plan, no_speculation
from router_models.planner import PlannerPolicy
from router_models.policy import RoundContext, RoundOutcome
from router_models.turns import STRAIGHT, Turn
from tests.router_models.world import World

GOOD = np.array([0.9, 0.3, 0.1, 0.1])
BAD = np.array([0.03, 0.02, 0.02, 0.02])
LENGTH = 64


def rounds_until_turned(rate: float, believed: float, *, seed: int, most: int = 60) -> int:
    """Rounds of up to four first candidates, the last of which is the first miss."""
    rng, turn = np.random.default_rng(seed), STRAIGHT
    for number in range(most):
        hits = min(int(rng.geometric(1.0 - rate)) - 1, 4)
        turn = turn.seen("json", hits, min(hits + 1, 4), believed)
        if turn.number:
            return number + 1
    return most


@pytest.mark.parametrize("seed", range(10))
def test_a_drafter_that_suddenly_fails_has_turned_within_a_few_rounds(seed: int) -> None:
    assert rounds_until_turned(0.05, 0.95, seed=seed) <= 6
    assert rounds_until_turned(0.05, 0.7, seed=seed) <= 20


def test_a_drafter_that_does_as_believed_has_hardly_ever_turned() -> None:
    turned = [rounds_until_turned(rate, rate, seed=seed) < 60 for rate in (0.2, 0.5, 0.7, 0.95) for seed in range(50)]

    assert sum(turned) <= 4, "alarms in 12,000 rounds"


def test_a_turn_begins_without_evidence_and_knows_what_was_before() -> None:
    turn = STRAIGHT
    while not turn.number:
        turn = turn.seen("json", 0.0, 1.0, 0.95)

    assert turn == Turn(number=1, after="json")


def test_after_a_turn_nothing_of_the_prompt_is_believed() -> None:
    context = RoundContext(
        request_id="r",
        round=9,
        drafters=("json", "math"),
        task="extraction",
        prompt_tokens=9,
        emitted_tokens=50,
        remaining_tokens=20,
        prompt_surprisal={"json": 0.5, "math": 9.0},
    )

    before, after = path_of(context, "math", "json"), path_of(context, "math", "json", Turn(number=1, after="json"))

    assert len(before) == len(after) == LEVELS
    assert is_of_a_request(after[-1])
    assert "extraction" in before[2]
    assert "after json" in after[2]
    assert not set(before) & set(after)


def test_a_request_that_has_the_name_of_an_earlier_one_has_not_turned() -> None:
    """Its first round may have drafted nothing, so that only the round's number tells."""
    planner, world = PlannerPolicy(), World({"json": BAD})
    first = RoundContext(
        request_id="r", round=0, drafters=("json",), prompt_tokens=9, emitted_tokens=0, remaining_tokens=60
    )
    plain = no_speculation("")
    knowledge = planner._knowledge
    knowledge._turns.put("r", Turn(number=1, after="json"))

    planner.learn(first, plain, world.play(plain))

    assert knowledge.turn(replace(first, round=1)) == STRAIGHT


class Turning(World):
    """The good drafter of an answer's first half is the bad one of its second."""

    def play_at(self, context: RoundContext, plan: Plan) -> RoundOutcome:
        first, second = (GOOD, BAD) if context.emitted_tokens < LENGTH // 2 else (BAD, GOOD)
        self.hazards = {"json": first, "math": second}
        return super().play_at(context, plan)


def test_a_planner_learns_to_what_answers_turn() -> None:
    world, planner = Turning({"json": GOOD, "math": BAD}, surprisal={"json": 0.5, "math": 9.0}), PlannerPolicy()
    world.serve(planner, requests=30, length=LENGTH)

    settled = world.serve(planner, requests=10, length=LENGTH, first=30)

    frozen = PlannerPolicy(adapt_within_request=False)
    world.serve(frozen, requests=30, length=LENGTH)
    assert settled.tokens_per_ms > 1.3 * world.serve(frozen, requests=10, length=LENGTH, first=30).tokens_per_ms
