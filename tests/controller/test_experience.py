"""What the log keeps of a round is all that a policy learns from it."""

from collections.abc import Sequence
from dataclasses import MISSING, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.experience import round_lesson, score_lesson
from controller.generation import Round
from controller.records import Author, round_record, score_record
from controller.shared_learning import learners
from router_models.catalogue import all_policies
from router_models.plan import Combination, Plan
from router_models.planner import PlannerPolicy
from router_models.policy import LearningPolicy, RoundContext, RoundOutcome, RoundTimings, Silence, TextScores
from speculation.acceptance import walk
from speculation.errors import InvalidRequestError
from speculation.tree import EMPTY_TREE
from speculation.v1 import log_pb2
from speculation.verdict import Verdict
from tests.controller.shared import DRAFTERS, FULL
from tests.learners import CountingPolicy
from tests.strategies import trees

NOT_TAUGHT = {
    *("explanation", "model_version", "top_logprobs"),
    *("allowed_shapes", "most_nodes", "most_depth", "most_run", "exploration"),
    *("elapsed_ms", "latency_objective_ms"),
    *("drafter_profiles", "target_profile"),
}
"""Words, names, what a caller wanted to see, what an operator allowed (the plan is within that), and first guesses."""


def logged(done: Round) -> bytes:
    return round_record(done, decision_event_id="d").SerializeToString()


def defaults(value: Any) -> set[str]:
    """Fields of a dataclass, and of those in it, that are as they would be if nobody had said anything."""
    found = set()
    for field in fields(value):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        own = getattr(value, field.name)
        found |= {field.name} if own == default else set()
        found |= defaults(own) if hasattr(own, "__dataclass_fields__") else set()
    return found


def test_every_field_that_can_be_learnt_from_is_logged() -> None:
    """A new field of context, plan, outcome or verdict must be given a value above, and then be logged."""
    assert defaults(FULL) <= NOT_TAUGHT

    lesson = round_lesson(logged(FULL))

    assert (lesson.context, lesson.plan, lesson.outcome) == (FULL.context, FULL.plan, FULL.outcome)
    assert list(lesson.outcome.drafts) == list(FULL.outcome.drafts)


@st.composite
def rounds(draw: st.DrawFn) -> Round:
    """Any round; what the wire carries in single precision is drawn in it."""
    drafters = tuple(draw(st.lists(st.sampled_from(DRAFTERS), unique=True)))
    answered = [drafter for drafter in drafters if draw(st.booleans())]
    drafts = {drafter: draw(trees()) for drafter in answered}
    plan = Plan(
        drafters=drafters,
        combination=draw(st.sampled_from(Combination)),
        verify_budget=draw(st.integers(1, 8)),
        propensity=draw(st.floats(0, 1, exclude_min=bool(drafters))),
        explanation="for a reason",
    )
    tree = plan.combine(list(drafts.values())) if drafts else EMPTY_TREE
    steps = walk(tree, draw(st.integers(0, 5)), [draw(st.integers(0, 5)) for _ in range(len(tree))])
    emitted = (*(tree.token_ids[node] for node in steps.accepted), steps.extra_token)
    run = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    emitted += run
    verdict = Verdict(
        accepted=steps.accepted, token_ids=emitted, logprobs=(-0.5,) * len(emitted), run_ns=10**6 * len(run)
    )
    plan = replace(plan, run=len(run))
    context = RoundContext(
        request_id=draw(st.text(max_size=3)),
        round=draw(st.integers(0, 9)),
        drafters=DRAFTERS,
        prompt_tokens=draw(st.integers(1, 99)),
        emitted_tokens=draw(st.integers(0, 99)),
        remaining_tokens=draw(st.integers(1, 99)),
        temperature=draw(st.floats(0, 2)),
        prompt_surprisal={drafter: draw(st.floats(0, 9)) for drafter in drafters},
    )
    timings = RoundTimings(draft_ns=draw(st.integers(0, 10**9)), verify_ns=draw(st.integers(0, 10**9)))
    silences = tuple(
        Silence(drafter=name, least_confidence=draw(st.floats(0, 1)), took_ns=draw(st.integers(0, 10**7)))
        for name in draw(st.lists(st.sampled_from(["suffix", *DRAFTERS]), max_size=2, unique=True))
    )
    outcome = RoundOutcome(drafts=drafts, tree=tree, verdict=verdict, timings=timings, silences=silences)
    missing = tuple(name for name in drafters if name not in drafts)
    return Round(context=context, plan=plan, missing=missing, outcome=outcome, emitted=emitted)


def every_learner() -> dict[str, LearningPolicy]:
    """Of the catalogue, and the one of the tests."""
    return {**learners(all_policies()), "counting": CountingPolicy()}


@pytest.mark.parametrize("name", every_learner())
@given(st.lists(rounds(), max_size=5))
def test_to_learn_from_the_log_is_to_learn_from_the_rounds(name: str, served: Sequence[Round]) -> None:
    directly, from_log = every_learner()[name], every_learner()[name]
    for done in served:
        directly.learn(done.context, done.plan, done.outcome)

    for done in served:
        round_lesson(logged(done)).teach(from_log)

    assert from_log.state().to_bytes() == directly.state().to_bytes()


@given(st.lists(rounds(), min_size=1, max_size=5))
def test_a_planner_that_learnt_from_the_log_plans_as_one_that_was_there(served: Sequence[Round]) -> None:
    directly, from_log = PlannerPolicy(), PlannerPolicy()
    for done in served:
        directly.learn(done.context, done.plan, done.outcome)
        round_lesson(logged(done)).teach(from_log)

    assert from_log.plan(served[-1].context) == directly.plan(served[-1].context)


SCORES = TextScores(ranks=(1, 2, 3, 1, 70, 1), confidences=(0.5, 0.25, 0.125, 0.5, 0.0, 1.0))


def logged_scores(context: RoundContext = FULL.context, scores: TextScores = SCORES, **fields: Any) -> bytes:
    about = {"drafter": "docs", "model_revision": "r1"} | fields
    author = Author(controller_id="c", code_version="0")
    return score_record(author, context, scores=scores, **about).SerializeToString()


def test_scores_are_learnt_from_the_log_as_from_the_drafter() -> None:
    directly, from_log = (PlannerPolicy() for _ in range(2))
    directly.learn_scores(FULL.context, {"docs": SCORES})

    lesson = score_lesson(logged_scores())
    lesson.teach(from_log)

    assert (lesson.context, lesson.drafter, lesson.scores) == (FULL.context, "docs", SCORES)
    assert from_log.state().to_bytes() == directly.state().to_bytes() != PlannerPolicy().state().to_bytes()


def test_frozen_scores_teach_nothing() -> None:
    policy = CountingPolicy()

    score_lesson(logged_scores(frozen=True)).teach(policy)

    assert not policy.times


def broken_scores() -> dict[str, bytes]:
    def of(*ranks: int, confidence: float = 0.5) -> TextScores:
        return TextScores(ranks=ranks, confidences=(confidence,) * len(ranks))

    return {
        "no record": b"\xff\xff",
        "nothing": b"",
        "of nobody": logged_scores(drafter=""),
        "of a shorter answer": logged_scores(scores=of(1, 1)),
        "a rank before the first": logged_scores(scores=of(1, 1, 1, 1, 1, 0)),
        "no chance": logged_scores(scores=of(1, 1, 1, 1, 1, 1, confidence=float("nan"))),
        "a number that is none": logged_scores(replace(FULL.context, temperature=float("nan"))),
    }


@pytest.mark.parametrize("kind", broken_scores())
def test_scores_that_contradict_themselves_are_not_learnt_from(kind: str) -> None:
    with pytest.raises(InvalidRequestError):
        score_lesson(broken_scores()[kind])


def broken() -> dict[str, bytes]:
    def having(**changes: Any) -> bytes:
        record = log_pb2.RoundRecord.FromString(logged(FULL))
        for name, value in changes.items():
            record.ClearField(name)
            if value is not None:
                getattr(record, name).extend(value) if isinstance(value, list) else setattr(record, name, value)
        return record.SerializeToString()

    nonsense = replace(FULL.context, temperature=float("nan"))
    return {
        "no record": b"\xff\xff",
        "of a release that logged no contexts": having(context=None),
        "a number that is none": logged(replace(FULL, context=nonsense)),
        "no propensity": having(propensity=None),
        "a combination of the future": having(combination=77),
        "an accepted node that is not there": having(accepted=[7]),
        "more accepted than emitted": having(token_ids=[1]),
        "chances of other nodes": having(node_probs=[0.5]),
        "two answers without a tree": having(drafts=None),
        "a shape that is none": having(shape=None),
    }


@pytest.mark.parametrize("kind", broken())
def test_what_contradicts_itself_is_not_learnt_from(kind: str) -> None:
    with pytest.raises(InvalidRequestError):
        round_lesson(broken()[kind])
