"""What drafting ahead saves is learnt, and a plan that would gain by it is kept to."""

from dataclasses import replace

import numpy as np
import pytest

from router_models.ahead_model import AheadModel
from router_models.contexts import kind_of
from router_models.menu import chain_of
from router_models.plan import Plan
from router_models.planner import PlannerPolicy
from router_models.policy import RoundContext, RoundOutcome, RoundTimings
from speculation.calibration import Calibration
from speculation.tree import EMPTY_TREE, TreeShape
from speculation.verdict import Verdict
from tests.router_models.world import World

CONTEXT = RoundContext(
    request_id="one", round=0, drafters=("code",), prompt_tokens=20, emitted_tokens=0, remaining_tokens=64
)
CODE = kind_of(CONTEXT, "code")
PLAN = Plan(drafters=("code",), shape=chain_of(4), explanation="")


def outcome(*, foreseen: bool) -> RoundOutcome:
    return RoundOutcome(
        drafts={"code": EMPTY_TREE},
        tree=EMPTY_TREE,
        verdict=Verdict(accepted=(), token_ids=(1,), logprobs=()),
        timings=RoundTimings(round_ns=1),
        foreseen=("code",) if foreseen else (),
    )


def after(model: AheadModel, *rounds: tuple[Plan, bool]) -> AheadModel:
    """The model, once a request has had these plans, foreseen or not."""
    for number, (plan, foreseen) in enumerate(rounds):
        model.learn(replace(CONTEXT, round=number), plan, outcome(foreseen=foreseen))
    return model


def test_nothing_is_expected_of_drafting_ahead_before_it_was_seen() -> None:
    assert AheadModel().share(CODE, PLAN.shape) == 0.0
    assert AheadModel().last(CONTEXT) is None


def test_the_share_is_of_the_rounds_that_asked_for_the_same_again() -> None:
    model = after(AheadModel(), (PLAN, False), *[(PLAN, True), (PLAN, True), (PLAN, True), (PLAN, False)] * 60)

    assert model.share(CODE, PLAN.shape) == pytest.approx(0.75 * 50 / 55, abs=0.06)


def test_a_shape_that_is_seldom_there_in_time_is_not_believed_for_those_that_are() -> None:
    tree = replace(PLAN, shape=TreeShape(depth=4, branching=4, budget=12))
    model = after(AheadModel(), *[(PLAN, True)] * 30, *[(tree, False)] * 30)

    assert model.share(CODE, PLAN.shape) > 0.7
    assert model.share(CODE, tree.shape) < 0.2
    assert model.share(CODE, tree.shape) < model.share(CODE, chain_of(5)) < model.share(CODE, PLAN.shape)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(PLAN, shape=chain_of(5)), id="another shape"),
        pytest.param(replace(PLAN, drafters=("docs",)), id="another drafter"),
        pytest.param(replace(PLAN, drafters=()), id="plain decoding"),
        pytest.param(replace(PLAN, calibrations={"code": Calibration(offset=1.0, slope=1.0)}), id="calibration"),
    ],
)
def test_a_round_that_asks_for_something_else_tells_nothing(other: Plan) -> None:
    model = after(AheadModel(), *[(PLAN, False), (other, False)] * 50)

    assert not model.state()


def test_a_request_does_not_remember_one_that_had_its_name_before() -> None:
    model = after(AheadModel(), (PLAN, False))

    assert model.last(replace(CONTEXT, round=1)) is not None
    assert model.last(CONTEXT) is None


def test_a_planner_keeps_to_a_plan_whose_tree_is_likely_to_be_there() -> None:
    world = World({"code": np.array([0.8, 0.4, 0.2, 0.1])}, seed=3)
    kept = []
    for foreseen in (False, True):
        planner, same, last = PlannerPolicy(), 0, None
        for number in range(120):
            context = replace(CONTEXT, round=number)
            plan = planner.plan(context)
            same += number >= 40 and last == (plan.drafters, plan.shape)
            hit = foreseen and last == (plan.drafters, plan.shape)
            last = plan.drafters, plan.shape
            planner.learn(context, plan, replace(world.play(plan), foreseen=plan.drafters if hit else ()))
        kept.append(same)

    assert kept[1] > kept[0]
    assert kept[1] > 70


def test_what_was_learnt_of_it_is_part_of_the_state() -> None:
    teacher, pupil = PlannerPolicy(), PlannerPolicy()
    for number in range(30):
        teacher.learn(replace(CONTEXT, round=number), PLAN, outcome(foreseen=True))

    pupil.restore(teacher.state())

    assert pupil.state().to_bytes() == teacher.state().to_bytes()
    assert "ahead" in teacher.state().arrays
