"""What is replayed on scored answers is what serving them so brings, token for token."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from router_models.fixed import RunsPolicy, StaticPolicy
from router_models.menu import LONG, SHAPES, chain_of
from router_models.offline.answers import Answer, agreements, answers_of, play
from router_models.offline.logged import LoggedRound, LoggedScores
from router_models.offline.replay import Replay, replayed
from router_models.offline.training import taught
from router_models.plan import CHAIN_OF_4, RUN, Plan
from router_models.planner import PlannerPolicy
from router_models.policy import LearningPolicy, Policy, RoundContext
from speculation.calibration import Calibration
from speculation.tree import TreeShape
from tests.logs import CHAINS, LENGTH, scored_world
from tests.router_models.test_offline import Witness

ANSWERS = 12
CALIBRATIONS = {name: Calibration(offset=0.5, slope=0.8) for name in scored_world().hazards}


class Fixed(PlannerPolicy):
    """One plan for every round, of a policy that might have learnt."""

    def __init__(self, *drafters: str, shape: TreeShape = CHAIN_OF_4) -> None:
        super().__init__()
        self._plan = Plan(drafters=drafters, shape=shape, explanation="", calibrations=CALIBRATIONS)

    def plan(self, context: RoundContext) -> Plan:
        return self._plan


class Script(Policy):
    """Plans once more what was served, in words that no logged plan uses: only the scores can tell what came of it."""

    name = "script"

    def __init__(self, rounds: Sequence[LoggedRound]) -> None:
        self._served = {entry.context.emitted_tokens: entry.plan for entry in rounds}

    def plan(self, context: RoundContext) -> Plan:
        return replace(self._served[context.emitted_tokens], verify_budget=LENGTH)


def served_by(policy: Policy, requests: int = ANSWERS) -> tuple[LoggedRound, ...]:
    """A log of the fleet that can be asked afterwards."""
    witness = Witness(policy)
    scored_world().serve(witness, requests=requests, length=LENGTH)
    return tuple(witness.log)


def scores_for(rounds: Sequence[LoggedRound]) -> list[LoggedScores]:
    """Of every answer by every drafter."""
    there, last = scored_world(), {entry.request_id: entry for entry in rounds}
    return [
        LoggedScores(context=entry.context, drafter=name, scores=there.scores_of(request, name), at_ms=entry.at_ms)
        for request, entry in last.items()
        for name in there.hazards
    ]


@cache
def answers() -> tuple[Answer, ...]:
    """Served by a planner that knew nothing, with all sorts of chains."""
    rounds = served_by(PlannerPolicy(shapes=CHAINS, seed=4))
    return answers_of(rounds, scores_for(rounds))


def tokens_by(rounds: Sequence[LoggedRound], request_id: str) -> tuple[int, ...]:
    return tuple(entry.tokens for entry in rounds if entry.request_id == request_id)


def test_the_plans_that_were_logged_accept_what_was_logged() -> None:
    assert len(answers()) == ANSWERS
    assert len({entry.plan.shape for answer in answers() for entry in answer.rounds}) > 5
    for answer in answers():
        remade = play(Script(answer.rounds), answer)

        assert remade is not None
        assert remade.tokens == tokens_by(answer.rounds, answer.request_id)
        assert remade.doubtful == 0
        assert all(agreements(answer))


@pytest.mark.parametrize("shape", [chain_of(1), chain_of(4), chain_of(LONG), chain_of(LONG, 0.3)], ids=str)
@pytest.mark.parametrize("drafter", ["good", "bad"])
def test_another_policy_is_replayed_as_it_would_have_served(drafter: str, shape: TreeShape) -> None:
    really = served_by(Fixed(drafter, shape=shape))

    for answer in answers():
        remade = play(Fixed(drafter, shape=shape), answer)

        assert remade is not None
        assert remade.tokens == tokens_by(really, answer.request_id)


def test_plain_decoding_in_runs_is_replayed_as_it_would_have_served() -> None:
    for answer in answers():
        remade = play(RunsPolicy(), answer)

        assert remade is not None
        assert remade.tokens[0] == 1
        assert set(remade.tokens[1:-1]) == {1 + RUN}
        assert sum(remade.tokens) == LENGTH
        assert remade.doubtful == 0


def test_a_policy_that_adapts_within_requests_plans_as_it_would_have() -> None:
    """What it is told of its own rounds is what it would have learnt from them."""
    shapes = [chain_of(length) for length in (1, 2, 4, 8)]
    first = answers()[0]
    witness = Witness(PlannerPolicy(shapes=shapes, seed=7))
    witness.policy.learns_across_requests = False  # type: ignore[attr-defined]
    scored_world().serve(witness, requests=1, length=LENGTH)
    policy = PlannerPolicy(shapes=shapes, seed=7)
    policy.learns_across_requests = False

    remade = play(policy, first)

    assert remade is not None
    assert len({entry.plan.drafters for entry in witness.log}) > 1, "it changed its mind"
    assert [plan for _, plan in remade.choices] == [entry.plan for entry in witness.log]


def trial(candidate: LearningPolicy, incumbent: LearningPolicy) -> Replay:
    rounds = [entry for answer in answers() for entry in answer.rounds]
    return replayed(rounds, scores_for(rounds), candidate=candidate, incumbent=incumbent)


def test_who_picks_the_better_drafter_wins() -> None:
    replay = trial(Fixed("good"), Fixed("bad"))

    assert (replay.answers, replay.checked_rounds) == (ANSWERS, replay.agreed_rounds)
    assert replay.gain_low > 1.0
    assert replay.candidate.cautious == replay.candidate.hopeful
    assert replay.candidate.doubtful_rounds == 0
    assert replay.modelled.tokens_per_ms == pytest.approx(replay.served.tokens_per_ms, rel=0.1)


def test_a_replayed_speed_is_about_the_speed_that_comes() -> None:
    really = served_by(Fixed("fair"))

    replay = trial(Fixed("fair"), Fixed("bad"))

    took_ms = sum(entry.outcome.timings.round_ns for entry in really) / 1e6
    assert replay.candidate.rounds == len(really)
    assert replay.candidate.estimate.tokens_per_ms == pytest.approx(ANSWERS * LENGTH / took_ms, rel=0.15)


def test_a_model_from_other_requests_wins_over_one_that_knows_nothing() -> None:
    on_trial = {answer.request_id for answer in answers()}
    others = [entry for entry in served_by(PlannerPolicy(shapes=CHAINS), 40) if entry.request_id not in on_trial]
    policy = taught(PlannerPolicy(seed=2), others)
    before = policy.state().to_bytes()

    replay = trial(policy, PlannerPolicy(seed=3))

    assert replay.gain_low > 1.0
    assert policy.state().to_bytes() == before, "a replay teaches nothing across requests"
    assert policy.learns_across_requests


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.branching > 1], ids=str)
def test_competing_trees_are_replayed_between_their_bounds(shape: TreeShape) -> None:
    replay = trial(Fixed("good", shape=shape), Fixed("good", shape=chain_of(shape.depth)))

    tree, chain = replay.candidate, replay.incumbent
    assert 0 < tree.doubtful_rounds <= tree.rounds
    assert tree.cautious < tree.estimate.tokens_per_ms < tree.hopeful
    assert tree.estimate.low <= tree.cautious
    assert tree.hopeful <= tree.estimate.high
    assert chain.doubtful_rounds == 0


def test_plans_of_several_drafters_are_replayed_only_as_they_were_served() -> None:
    rounds = served_by(Fixed("good", "fair"))
    (answer, *_) = answers_of(rounds, scores_for(rounds))

    again, otherwise = play(Fixed("good", "fair"), answer), play(Fixed("good", "bad"), answer)

    assert again is not None
    assert again.tokens == tokens_by(rounds, answer.request_id)
    assert otherwise is None


def test_answers_of_which_something_is_missing_are_not_replayed() -> None:
    rounds = served_by(StaticPolicy(drafter="good"), 3)
    scores = scores_for(rounds)
    first, second, third = dict.fromkeys(entry.request_id for entry in rounds)

    told = [one for one in scores if (one.request_id, one.drafter) != (first, "bad")]
    whole = [entry for entry in rounds if (entry.request_id, entry.context.round) != (second, 1)]

    assert [answer.request_id for answer in answers_of(whole, told)] == [third]


def test_where_nothing_was_scored_nothing_is_replayed() -> None:
    rounds = served_by(StaticPolicy(drafter="good"), 3)

    replay = replayed(rounds, [], candidate=Fixed("good"), incumbent=Fixed("bad"))

    assert (replay.answers, replay.scored_answers, replay.gain) == (0, 0, 0.0)
