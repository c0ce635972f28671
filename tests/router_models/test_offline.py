"""A model that learnt from a log is held against another one on what neither has seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.baselines.task_classifier import TaskClassifierPolicy
from router_models.fixed import StaticPolicy
from router_models.offline.evaluation import evaluate
from router_models.offline.logged import LoggedRound, Split, split_by_time
from router_models.offline.training import learning_curve, taught
from router_models.plan import Plan
from router_models.planner import PlannerPolicy
from router_models.policy import Policy, RoundContext, RoundOutcome
from tests.logs import world

LENGTH = 40


@dataclass
class Witness(Policy):
    """Another policy, and a log of what it did."""

    policy: Policy
    log: list[LoggedRound] = field(default_factory=list)
    name: str = "witness"

    def plan(self, context: RoundContext) -> Plan:
        return self.policy.plan(context)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        self.policy.learn(context, plan, outcome)
        tokens = len(outcome.verdict.token_ids[: context.remaining_tokens])
        self.log.append(
            LoggedRound(context=context, plan=plan, outcome=outcome, tokens=tokens, at_ms=1 + len(self.log))
        )


@cache
def cold_log(requests: int = 90) -> tuple[LoggedRound, ...]:
    """Of a planner that knew nothing at first."""
    witness = Witness(PlannerPolicy(seed=1))
    world(seed=1).serve(witness, requests=requests, length=LENGTH)
    return tuple(witness.log)


def halves() -> Split:
    return split_by_time(cold_log(), hold_out=0.5)


@st.composite
def logs(draw: st.DrawFn) -> list[LoggedRound]:
    """Rounds of requests that overlap in any way; only request and time count."""
    some = cold_log(3)[0]
    lessons = []
    at_ms = 1
    for _ in range(draw(st.integers(1, 40))):
        at_ms += draw(st.integers(0, 3))
        context = replace(some.context, request_id=f"r{draw(st.integers(0, 8))}")
        lessons.append(replace(some, context=context, at_ms=at_ms))
    return lessons


@given(logs(), st.floats(0.01, 0.99))
def test_nothing_that_is_learnt_is_younger_than_anything_that_is_tested_on(
    lessons: list[LoggedRound], hold_out: float
) -> None:
    split = split_by_time(lessons, hold_out=hold_out)

    assert split.held_out
    assert all(lesson.at_ms < split.cut_ms for lesson in split.taught)
    assert all(entry.at_ms >= split.cut_ms for entry in split.held_out)


@given(logs(), st.floats(0.01, 0.99))
def test_requests_are_never_split(lessons: list[LoggedRound], hold_out: float) -> None:
    split = split_by_time(lessons, hold_out=hold_out)

    for part in (split.taught, split.held_out):
        for request in {lesson.request_id for lesson in part}:
            whole = [lesson for lesson in lessons if lesson.request_id == request]
            assert [lesson for lesson in part if lesson.request_id == request] == whole
    assert not {lesson.request_id for lesson in split.taught} & {entry.request_id for entry in split.held_out}


def test_a_hold_out_of_nothing_teaches_all() -> None:
    split = split_by_time(cold_log(), hold_out=0.0)

    assert (len(split.taught), split.held_out) == (len(cold_log()), ())


@pytest.mark.parametrize(("lessons", "hold_out"), [((), 0.2), (cold_log(3), 1.5), (cold_log(3), -0.1)])
def test_what_cannot_be_split_is_told(lessons: Sequence[LoggedRound], hold_out: float) -> None:
    with pytest.raises(ValueError, match=r"no round|no share"):
        split_by_time(lessons, hold_out=hold_out)


def test_a_model_from_the_log_beats_one_that_knows_nothing() -> None:
    split = halves()

    trial = evaluate(
        split.held_out,
        candidate=taught(PlannerPolicy(seed=2), split.taught),
        incumbent=PlannerPolicy(seed=3),
        before=split.taught_rounds,
    )

    assert trial.wins, trial.objection
    assert trial.gain_low <= trial.gain <= trial.gain_high
    assert trial.candidate.predicted is not None
    assert trial.incumbent.predicted is not None
    assert trial.candidate.predicted.accepted_log_likelihood > trial.incumbent.predicted.accepted_log_likelihood, (
        "it predicts better at which candidate the token is found"
    )
    assert trial.candidate.predicted.accepted_error < trial.incumbent.predicted.accepted_error
    assert max(trial.candidate.choices["no task, greedy"], key=trial.candidate.choices["no task, greedy"].__getitem__)


def test_a_model_does_not_win_against_itself() -> None:
    split = halves()

    trial = evaluate(
        split.held_out,
        candidate=taught(PlannerPolicy(seed=2), split.taught),
        incumbent=taught(PlannerPolicy(seed=3), split.taught),
        before=split.taught_rounds,
    )

    assert not trial.wins
    assert "not surely more than 1" in trial.objection
    assert trial.gain == pytest.approx(1.0, abs=0.1)


def test_a_model_that_knows_nothing_does_not_win_against_one_that_learnt() -> None:
    split = halves()

    trial = evaluate(
        split.held_out,
        candidate=PlannerPolicy(seed=3),
        incumbent=taught(PlannerPolicy(seed=2), split.taught),
        before=split.taught_rounds,
    )

    assert not trial.wins
    assert trial.gain < 1.0


def test_without_free_choices_nothing_is_decided() -> None:
    split = halves()
    forced = [replace(entry, weighed=False) for entry in split.held_out]

    trial = evaluate(forced, candidate=taught(PlannerPolicy(), split.taught), incumbent=PlannerPolicy())

    assert not trial.wins
    assert "chosen freely" in trial.objection
    assert trial.candidate.predicted is not None, "what was predicted needs no propensities"


def test_too_little_is_no_evidence() -> None:
    split = halves()
    few = [entry for entry in split.held_out if entry.request_id in {"request 88", "request 89"}]

    trial = evaluate(few, candidate=taught(PlannerPolicy(), split.taught), incumbent=PlannerPolicy())

    assert not trial.wins
    assert "the least to decide by" in trial.objection


def test_a_trial_teaches_its_contenders_nothing_across_requests() -> None:
    split = halves()
    policy = taught(PlannerPolicy(seed=2), split.taught)
    before = policy.state().to_bytes()

    evaluate(split.held_out, candidate=policy, incumbent=PlannerPolicy())

    assert policy.state().to_bytes() == before
    assert policy.learns_across_requests


def test_the_speed_that_is_estimated_is_about_the_speed_that_comes() -> None:
    split = halves()
    policy = taught(PlannerPolicy(seed=2), split.taught)

    estimated = evaluate(
        split.held_out, candidate=policy, incumbent=PlannerPolicy(seed=3), before=split.taught_rounds
    ).candidate.estimates
    policy.learns_across_requests = False
    tally = world(seed=9).serve(policy, requests=40, length=400)

    for method in ("ips", "snips", "dr"):
        assert estimated[method].tokens_per_ms == pytest.approx(tally.tokens_per_ms, rel=0.2), method


def test_more_of_the_log_foresees_better() -> None:
    split = halves()

    curve = learning_curve(PlannerPolicy(), split.taught, split.held_out, step=lambda: None)

    assert curve.requests[0] == 0
    assert list(curve.requests) == sorted(curve.requests)
    assert curve.predicted[-1].accepted_log_likelihood > curve.predicted[0].accepted_log_likelihood


def test_the_same_log_gives_the_same_model() -> None:
    states = [taught(PlannerPolicy(), halves().taught).state().to_bytes() for _ in range(2)]

    assert states[0] == states[1]


def test_a_frozen_round_is_not_learnt_from() -> None:
    frozen = [replace(entry, frozen=True) for entry in cold_log(3)]

    assert taught(PlannerPolicy(), frozen).state().to_bytes() == PlannerPolicy().state().to_bytes()


def test_a_classifier_of_tasks_is_fitted_from_what_the_log_says_of_each_drafter() -> None:
    """Of two drafters the one that the prompt surprises less is good, and nobody but the log says so."""
    log: list[LoggedRound] = []
    for half, (good, surprisal) in enumerate(
        {"code": {"code": 1.0, "math": 2.0}, "math": {"code": 2.0, "math": 1.0}}.items()
    ):
        served = world(seed=half)
        rates = {True: np.array([0.9, 0.3, 0.3, 0.3]), False: np.array([0.1, 0.1, 0.1, 0.1])}
        served.hazards = {name: rates[name == good] for name in surprisal}
        served.surprisal = surprisal
        for number, drafter in enumerate(surprisal):
            witness = Witness(StaticPolicy(drafter=drafter))
            served.serve(witness, requests=8, length=LENGTH, first=100 * (2 * half + number))
            log += witness.log

    policy = taught(TaskClassifierPolicy(), log)

    for entry in (log[0], log[-1]):
        best = min(entry.context.prompt_surprisal, key=entry.context.prompt_surprisal.__getitem__)
        assert policy.plan(entry.context).drafters == (best,)


def test_a_log_that_tells_no_drafters_apart_makes_no_classifier() -> None:
    with pytest.raises(ValueError, match="same best drafter"):
        taught(TaskClassifierPolicy(), cold_log(20))
