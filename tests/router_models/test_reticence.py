"""Drafters that say nothing where they are unsure are judged by what they say, and asked as long as it pays."""

from dataclasses import replace

import numpy as np
import pytest

from router_models.forecast import observe
from router_models.menu import LONG, chain_of
from router_models.planner import PlannerPolicy
from router_models.policy import Policy, RoundContext, RoundOutcome, Silence
from router_models.reticence import PRIOR, ReticenceModel
from speculation.tree import TokenTree, chain
from tests.router_models.world import NS_PER_MS, Tally, World

FIELD = ("suffix", False, "code")
SURE, SURER = chain_of(LONG, 0.2), chain_of(LONG, 0.6)
SHAPES = (chain_of(4), SURE, SURER)
FAIR = np.array([0.5, 0.3, 0.2, 0.1])
FORECAST = np.full((len(SHAPES), 3), 1.0)

HEARD_MS = 1.0
SPEAKS = 0.4
RIGHT = 9
"""Nodes of an answer of the reticent drafter, all of them accepted."""


def model() -> ReticenceModel:
    return ReticenceModel(SHAPES, most=8)


def learn(reticence: ReticenceModel, tree: TokenTree, token_ids: tuple[int, ...], field: tuple[object, ...]) -> None:
    known, brought = observe(SHAPES, SURE, tree, token_ids)
    reticence.spoke(field, tree, known, brought)


def test_of_whom_nothing_is_known_the_forecast_is_believed() -> None:
    prospect = model().prospect(FIELD)

    assert np.array_equal(prospect.brought(FORECAST), FORECAST)
    assert set(prospect.speaks.tolist()) == {0.5}


def test_a_silence_says_nothing_about_shapes_that_ask_for_less() -> None:
    reticence = model()
    for _ in range(20):
        reticence.silent(FIELD, SURE.least_confidence)

    speaks = reticence.prospect(FIELD).speaks

    assert speaks[0] == 0.5
    assert speaks[1] == speaks[2] < 0.1
    assert reticence.drafters == {"suffix"}


def test_an_answer_that_is_not_sure_is_a_silence_for_those_who_ask_for_more() -> None:
    reticence = model()
    for _ in range(20):
        learn(reticence, chain((1, 2), (0.5, 0.9)), (1, 2, 3), FIELD)

    prospect = reticence.prospect(FIELD)

    assert prospect.speaks[1] > 0.9
    assert prospect.speaks[2] < 0.1
    assert prospect.brought(FORECAST)[1, 0] == pytest.approx(2.0, abs=0.2)
    assert prospect.brought(FORECAST)[2, 0] == 1.0, "nobody has seen what it says when it is so sure"


def test_answers_on_one_subject_are_a_first_guess_for_others() -> None:
    reticence = model()
    for _ in range(30):
        learn(reticence, chain((1, 2), (0.9, 0.9)), (1, 2, 3), FIELD)

    elsewhere = reticence.prospect(("suffix", False, "docs"))

    assert elsewhere.answers[1, 0] > PRIOR
    assert elsewhere.brought(FORECAST)[1, 0] == pytest.approx(2.0, abs=0.2)
    assert reticence.prospect(("suffix", True, "docs")).answers[1, 0] == 0.0, "sampled is another thing"


class Cascade(World):
    """A drafter that is silent most of the time and right otherwise, beside others that always draft."""

    def serve_with(self, policy: Policy, *, requests: int) -> Tally:
        """As the loop does it: who has nothing to say is left out, and the round is planned again."""
        tally, chance = Tally(), np.random.default_rng(5)
        for number in range(requests):
            emitted = rounds = 0
            while emitted < 64:
                context = RoundContext(
                    request_id=f"request {number}",
                    round=rounds,
                    drafters=(*self.hazards, "suffix"),
                    prompt_tokens=20,
                    emitted_tokens=emitted,
                    remaining_tokens=64 - emitted,
                )
                outcome = self._round(policy, context, tally, silent=chance.random() > SPEAKS)
                emitted += len(outcome.verdict.token_ids)
                rounds += 1
        return tally

    def _round(self, policy: Policy, context: RoundContext, tally: Tally, *, silent: bool) -> RoundOutcome:
        plan, silences = policy.plan(context), ()
        if plan.drafters == ("suffix",) and silent:
            heard = Silence(
                drafter="suffix",
                least_confidence=plan.shape.least_confidence,
                took_ns=int(HEARD_MS * NS_PER_MS),
            )
            silences = (heard,)
            context = replace(context, drafters=context.drafters[:-1])
            plan = policy.plan(context)
        if plan.drafters == ("suffix",):
            length = min(RIGHT, plan.shape.depth)
            tree = chain(tuple(range(length)), (0.95,) * length)
            outcome = self._outcome({"suffix": tree}, tree, (*range(length), 99), draft_ms=HEARD_MS)
        else:
            outcome = self.play(plan)
        outcome = replace(outcome, silences=silences)
        policy.learn(context, plan, outcome)
        tally.tokens += len(outcome.verdict.token_ids)
        tally.ms += outcome.timings.round_ns / NS_PER_MS + HEARD_MS * len(silences)
        tally.plans.append(plan)
        return outcome


def test_the_planner_asks_the_reticent_first_and_others_where_they_are_silent() -> None:
    planner = PlannerPolicy(seed=3)
    Cascade({"fair": FAIR}, seed=1).serve_with(planner, requests=30)

    settled = Cascade({"fair": FAIR}, seed=2).serve_with(planner, requests=30)
    alone = World({"fair": FAIR}, seed=2).serve(PlannerPolicy(seed=3), requests=60)

    share = np.mean([plan.drafters == ("suffix",) for plan in settled.plans])
    assert share == pytest.approx(SPEAKS, abs=0.1), "whenever it has something to say"
    assert settled.tokens_per_ms > 1.3 * alone.tokens_per_ms


def test_a_reticent_drafter_that_is_wrong_is_not_asked_any_more() -> None:
    class Wrong(Cascade):
        def _outcome(self, drafts: object, tree: TokenTree, emitted: tuple[int, ...], **about: float) -> RoundOutcome:
            wrong = isinstance(drafts, dict) and "suffix" in drafts
            return super()._outcome(drafts, tree, (99,) if wrong else emitted, **about)

    planner = PlannerPolicy(seed=3)
    Wrong({"fair": FAIR}, seed=1).serve_with(planner, requests=20)

    settled = Wrong({"fair": FAIR}, seed=2).serve_with(planner, requests=20)

    assert np.mean(["suffix" in plan.drafters for plan in settled.plans]) < 0.05


def test_what_is_known_of_the_reticent_can_be_written_down_and_taken_up_again() -> None:
    planner, other = PlannerPolicy(seed=3), PlannerPolicy(seed=3)
    world = Cascade({"fair": FAIR}, seed=1)
    world.serve_with(planner, requests=10)

    other.restore(planner.state())

    assert other.state().to_bytes() == planner.state().to_bytes()
    assert "suffix" in planner.state().labels["reticence"][0]
