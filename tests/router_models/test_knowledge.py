"""What the planner has learnt can be written down, taken up and shared; what is wrong is refused."""

from dataclasses import replace

import numpy as np
import pytest

from router_models.contexts import path_of
from router_models.model_state import ModelState
from router_models.planner import PlannerPolicy
from router_models.policy import RoundContext, TextScores
from speculation.errors import InvalidModelStateError
from tests.router_models.world import World

GOOD = np.array([0.85, 0.4, 0.2, 0.1])
BAD = np.array([0.03, 0.02, 0.02, 0.02])
CONTEXT = RoundContext(
    request_id="new", round=0, drafters=("bad", "good"), prompt_tokens=20, emitted_tokens=0, remaining_tokens=64
)


def experienced(requests: int = 12) -> PlannerPolicy:
    planner = PlannerPolicy()
    World({"bad": BAD, "good": GOOD}, seed=1).serve(planner, requests=requests)
    return planner


def wants(planner: PlannerPolicy, context: RoundContext = CONTEXT, *, tries: int = 40) -> float:
    """Share of plans that name the good drafter."""
    return float(np.mean([planner.plan(context).drafters == ("good",) for _ in range(tries)]))


def test_a_restored_planner_goes_on_where_the_other_stood() -> None:
    teacher, pupil = experienced(), PlannerPolicy(seed=9)
    before = wants(pupil)

    pupil.restore(ModelState.from_bytes(teacher.state().to_bytes()))

    assert before < 0.7
    assert wants(pupil) > 0.9
    assert pupil.state().to_bytes() == teacher.state().to_bytes()


def test_what_was_learnt_before_runs_were_timed_as_they_are_is_taken_up() -> None:
    state = experienced().state()
    arrays = {name: array for name, array in state.arrays.items() if name != "run_costs"}
    labels = {name: rows for name, rows in state.labels.items() if name != "run_costs"}
    pupil = PlannerPolicy(seed=9)

    pupil.restore(replace(state, arrays=arrays, labels=labels))

    assert "run_costs" in state.labels
    assert wants(pupil) > 0.9


def test_a_state_knows_no_single_request() -> None:
    assert b"request 3" not in experienced().state().to_bytes()


def test_what_is_known_of_running_requests_survives_a_restore() -> None:
    planner, fresh = PlannerPolicy(), PlannerPolicy().state()
    World({"bad": GOOD, "good": BAD}, seed=1).serve(planner, requests=3)
    running = replace(CONTEXT, request_id="request 2", round=9, emitted_tokens=30)

    planner.restore(fresh)

    assert wants(planner, running) < 0.2


def test_told_not_to_learn_across_requests_it_learns_within_one() -> None:
    planner = PlannerPolicy()
    planner.learns_across_requests = False
    before = planner.state().to_bytes()

    World({"bad": BAD, "good": GOOD}, seed=1).serve(planner, requests=4)

    assert planner.state().to_bytes() == before
    running = replace(CONTEXT, request_id="request 3", round=9, emitted_tokens=30)
    assert wants(planner, running) > 0.9


def test_scores_teach_what_a_drafter_that_never_drafted_is_worth() -> None:
    planner = PlannerPolicy()
    for number in range(10):
        scores = {"good": TextScores(ranks=(1,) * 30, confidences=(0.9,) * 30)}
        planner.learn_scores(replace(CONTEXT, request_id=f"r{number}"), scores)
        scores = {"bad": TextScores(ranks=(50,) * 30, confidences=(0.1,) * 30)}
        planner.learn_scores(replace(CONTEXT, request_id=f"r{number}"), scores)

    assert wants(planner) > 0.95


def test_the_least_surprised_drafter_is_believed_before_it_has_drafted() -> None:
    """What drafters that read a prompt alike have in common is known of a new one, too."""
    planner = PlannerPolicy()
    world = World({"a": GOOD, "b": BAD}, seed=3, surprisal={"a": 1.0, "b": 3.0})
    world.serve(planner, requests=15)

    context = replace(CONTEXT, prompt_surprisal={"good": 1.0, "bad": 3.0})

    assert wants(planner, context) > 0.8


def test_a_path_ends_at_the_request_and_begins_with_all_drafters() -> None:
    path = path_of(CONTEXT, "good")

    assert path[0] == path_of(CONTEXT, "bad")[0]
    assert [len(key) for key in path] == [2, 3, 4, 5]
    assert "new" in path[-1]


def wrong_states() -> dict[str, ModelState]:
    right = experienced(2).state()
    arrays = dict(right.arrays)
    return {
        "of another policy": replace(right, policy="linucb"),
        "a table is missing": replace(right, labels={}),
        "an array is missing": replace(right, arrays={}),
        "a table of another size": replace(right, arrays=arrays | {"acceptance": arrays["acceptance"][:, :, :2]}),
        "more labels than rows": replace(right, labels={**right.labels, "draft_costs": ["a", "b", "c"]}),
    }


@pytest.mark.parametrize("kind", wrong_states())
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(kind: str) -> None:
    planner = experienced(2)
    before = planner.state().to_bytes()

    with pytest.raises(InvalidModelStateError):
        planner.restore(wrong_states()[kind])

    assert planner.state().to_bytes() == before
