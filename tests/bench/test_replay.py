"""A replay is the fleet itself but for time: the same rounds, and times that add up."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.router.costs import CostProfile, DraftCosts
from bench.router.measure import compare, comparison_figures
from bench.router.recorder import record
from bench.router.recording import RecordedRequest, Recording, depths_of
from bench.router.replay import ReplayedFleet
from bench.router.report import learning_curves, write
from bench.router.run import LONGEST_CHAIN
from bench.router.scenarios import WINDOW, Stage, log_of_cold_run, requests_until_back, retrain_speedup
from bench.router.traffic import PLAIN, Arm, FixedChoices, own_voices, traffic
from bench.speed import chain_of
from forerun.models import model_folder
from forerun.workload import tasks
from router_models.catalogue import all_policies
from router_models.fixed import NonePolicy, StaticPolicy
from router_models.menu import SHAPES
from router_models.offline.training import taught
from router_models.plan import Plan
from router_models.planner import PlannerPolicy
from router_models.policy import Policy, RoundContext, RoundOutcome, TextScores
from speculation.errors import ConfigurationError
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape
from tests.worker.tiny_worker import context_of, work
from worker.drafting import draft
from worker.engine import Engine
from worker.host import TREE_ROOM
from worker.models import load_model
from worker.sampling import Sampler
from worker.scoring import Scores, score
from worker.sessions import Session, SessionTable
from worker.verification import verify

TOKENS = 16
TASKS = tasks(("code", "json"), 1)
TREE = TreeShape(depth=3, branching=4, budget=8)
STATIC_SHAPES = (chain_of(3), TREE)
COSTS = CostProfile(
    drafters=dict.fromkeys(("code", "json"), DraftCosts(1.0, 2.0, 0.5, 0.01, 3.0)),
    verify_call_ms=20.0,
    verify_node_ms=0.5,
    target_open_ms=1.0,
    target_token_ms=0.1,
    rest_ms=0.5,
    crowding=0.5,
    spread=0.1,
)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record(
        TASKS,
        target="zoo:target",
        drafters={"code": "zoo:code", "json": "zoo:json"},
        temperatures=(0.0, 1.0),
        depths=depths_of((*SHAPES, LONGEST_CHAIN)),
        max_new_tokens=TOKENS,
        seed=3,
    )


def fleet_of(recording: Recording, *, seed: int | None = None) -> ReplayedFleet:
    return ReplayedFleet(recording=recording, costs=COSTS, voices=own_voices(recording), seed=seed)


class Worker:
    """The inside of a worker: engine and session of one request."""

    def __init__(self, model: str, request: RecordedRequest) -> None:
        self.engine = Engine(load_model(model_folder(model)).model, slots=1, max_length=512 + TREE_ROOM, check=False)
        self.table = SessionTable(self.engine, max_length=512)
        sampler = Sampler(
            SamplingParameters(temperature=request.temperature, seed=request.seed),
            vocab_size=self.engine.vocab_size,
            prompt_length=request.prompt_tokens,
            device=self.engine.device,
        )
        self.session = Session(sampler)

    def draft(self, token_ids: Sequence[int], shape: TreeShape) -> TokenTree:
        steps = draft(self.engine, self.session, shape, max_length=512)
        return work(self.engine, self.table.call(self.session, context_of(token_ids), steps))

    def score(self, prompt: Sequence[int], text: Sequence[int]) -> Scores:
        steps = score(self.engine, self.session, text)
        return work(self.engine, self.table.call(self.session, context_of(prompt), steps))

    def verify(self, token_ids: Sequence[int], tree: TokenTree) -> tuple[int, ...]:
        steps = verify(self.engine, self.session, tree)
        return work(self.engine, self.table.call(self.session, context_of(token_ids), steps)).token_ids


def rounds_of_workers(request: RecordedRequest, prompt: Sequence[int], shape: TreeShape) -> tuple[int, ...]:
    """Tokens that draft and verify workers emit, round by round, under `static`."""
    drafter, target = Worker(f"zoo:{request.prompt_set}", request), Worker("zoo:target", request)
    token_ids, rounds = list(prompt), []
    while (emitted := len(token_ids) - len(prompt)) < request.length:
        plan = Plan(drafters=("any",), shape=shape, explanation="").within(len(request.token_ids) - emitted)
        tree = drafter.draft(token_ids, plan.shape) if plan.speculates else EMPTY_TREE
        said = target.verify(token_ids, tree)[: request.length - emitted]
        token_ids += said
        rounds.append(len(said))
    assert tuple(token_ids[len(prompt) :]) == request.token_ids[: request.length]
    return tuple(rounds)


@pytest.mark.parametrize("shape", STATIC_SHAPES)
def test_static_arms_emit_round_for_round_what_real_workers_emit(recording: Recording, shape: TreeShape) -> None:
    tokenizer = load_model(model_folder("zoo:target")).tokenizer
    for place, request in enumerate(recording.requests):
        policy = StaticPolicy(drafter=request.prompt_set, shape=shape)

        replayed = fleet_of(recording).serve(policy, request, request_id="r").tokens_by_round

        assert replayed == rounds_of_workers(request, tokenizer.encode(TASKS[place % len(TASKS)].prompt), shape)


def test_recorded_scores_are_those_of_a_worker_as_far_as_candidates_were_recorded(recording: Recording) -> None:
    tokenizer = load_model(model_folder("zoo:target")).tokenizer
    widest = max(recording.depths)
    for place, request in enumerate(recording.requests):
        worker = Worker(f"zoo:{request.prompt_set}", request)

        recorded = recording.scores(request, request.prompt_set)

        said = worker.score(tokenizer.encode(TASKS[place % len(TASKS)].prompt), request.token_ids[: request.length])
        assert [rank <= widest for rank in recorded.ranks] == [rank <= widest for rank in said.ranks]
        for rank, confidence, own_rank, own in zip(
            recorded.ranks, recorded.confidences, said.ranks, said.confidences, strict=True
        ):
            if own_rank <= widest:
                assert (rank, confidence) == (own_rank, pytest.approx(own, rel=1e-3))


def test_only_drafters_that_did_not_draft_are_scored_and_only_a_share_of_the_answers(recording: Recording) -> None:
    """Each of them once, after the request."""
    scored: list[set[str]] = []

    class Listening(StaticPolicy):
        def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
            scored.append(set(scores))

    policy = Listening(drafter="json", shape=STATIC_SHAPES[0])
    for share in (0.0, 1.0):
        fleet = replace(fleet_of(recording), scoring_share=share)
        for number, request in enumerate(recording.requests):
            fleet.serve(policy, request, request_id=f"{share} {number}")

    assert scored == [{"code"}] * len(recording.requests)


def test_plain_decoding_takes_what_the_costs_say(recording: Recording) -> None:
    request = recording.requests[0]

    served = fleet_of(recording).serve(NonePolicy(), request, request_id="r")

    reading = COSTS.target_read_ms(request.prompt_tokens)
    assert served.ms == pytest.approx(reading + request.length * (COSTS.verify_ms(0) + COSTS.rest_ms), rel=1e-4)


def test_noise_changes_times_by_chance_and_not_in_the_mean(recording: Recording) -> None:
    request = recording.requests[0]
    expected = fleet_of(recording).serve(NonePolicy(), request, request_id="r").ms

    fleet = fleet_of(recording, seed=5)
    took = [fleet.serve(NonePolicy(), request, request_id="r").ms for _ in range(50)]

    assert len(set(took)) == 50
    assert sum(took) / 50 == pytest.approx(expected, rel=0.02)


class Reader(Policy):
    """Has every drafter read the prompt, and remembers what it is told."""

    def __init__(self) -> None:
        self.contexts: list[RoundContext] = []

    @property
    def name(self) -> str:
        return "reader"

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        return context.drafters

    def plan(self, context: RoundContext) -> Plan:
        self.contexts.append(context)
        return Plan(drafters=context.drafters[:1], explanation="the first")

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        assert set(outcome.drafts) == set(plan.drafters)


def test_readers_make_surprisal_known_before_the_first_plan(recording: Recording) -> None:
    policy, request = Reader(), recording.requests[0]

    fleet_of(recording).serve(policy, request, request_id="r")

    assert policy.contexts[0].prompt_surprisal == request.surprisal


def test_a_replaced_drafter_drafts_with_another_voice(recording: Recording) -> None:
    request = next(request for request in recording.requests if request.prompt_set == "json")
    fleet = fleet_of(recording)
    right = fleet.serve(StaticPolicy(drafter="json", shape=TREE), request, request_id="r")

    fleet.voices = {"code": "code", "json": "code"}
    wrong = fleet.serve(StaticPolicy(drafter="json", shape=TREE), request, request_id="r")

    assert len(wrong.tokens_by_round) > len(right.tokens_by_round)


def test_every_policy_serves_every_recorded_request(recording: Recording, tmp_path: Path) -> None:
    choices = FixedChoices.replayed(recording, COSTS, STATIC_SHAPES, lambda: None)
    stage = Stage(recording=recording, costs=COSTS, choices=choices, warm_up=2, measured=4)

    comparison = compare(stage, [1])
    write(comparison, tmp_path)

    names = {figure.name for figure in comparison_figures(comparison, 1)}
    assert names >= {"router.of_oracle", "router.over_best_fixed"}
    assert names >= {f"router.over_{name}" for name in all_policies() if name != "planner"}
    assert (tmp_path / "learning.svg").read_text().startswith("<?xml")
    assert "planner" in (tmp_path / "router.md").read_text()
    curves = learning_curves(comparison)
    assert curves.is_whole
    assert set(curves.lines) == set(all_policies())


def test_the_log_of_a_cold_run_teaches_what_the_run_taught(recording: Recording) -> None:
    choices = FixedChoices.replayed(recording, COSTS, STATIC_SHAPES, lambda: None)
    stage = Stage(recording=recording, costs=COSTS, choices=choices, warm_up=2, measured=4)
    served = PlannerPolicy()

    log = log_of_cold_run(stage, served, seed=1)

    ours, theirs = taught(PlannerPolicy(), log).state(), served.state()
    assert ours.labels["acceptance"] == theirs.labels["acceptance"]
    np.testing.assert_array_equal(ours.arrays["acceptance"], theirs.arrays["acceptance"])
    assert set(retrain_speedup(stage, PlannerPolicy, seed=1, log_seed=2).values()) == {1.0}, (
        "too few requests for a window"
    )


def test_no_fixed_choice_beats_the_oracle(recording: Recording) -> None:
    choices = FixedChoices.replayed(recording, COSTS, STATIC_SHAPES, lambda: None)
    oracle = choices.oracle(recording.drafters)

    by_oracle = sum(oracle.ms(request) for request in recording.requests)

    assert all(by_oracle <= sum(ms) for ms in choices.ms.values())
    assert by_oracle < sum(choices.ms[PLAIN])
    assert choices.best(()) == PLAIN
    assert Arm("json", TREE) in choices.ms


def test_traffic_repeats_a_request_only_when_all_have_had_their_turn(recording: Recording) -> None:
    order = traffic(recording.requests, 7, seed=1)

    assert len({id(request) for request in order[:4]}) == 4
    assert order != traffic(recording.requests, 7, seed=2)


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        pytest.param([(1.0, 1.0)] * 40, WINDOW, id="never away"),
        pytest.param([(1.0, 2.0)] * 40, 40, id="never back"),
        pytest.param([(1.0, 2.0)] * 5 + [(1.0, 1.0)] * 40, 5 + WINDOW - 1, id="back after five"),
    ],
)
def test_requests_until_back(pairs: list[tuple[float, float]], expected: int) -> None:
    assert requests_until_back(pairs) == expected


def test_costs_survive_their_file(tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    COSTS.save(file)

    assert CostProfile.load(file) == COSTS


@pytest.mark.parametrize("change", [("20.0", "-1"), ("forerun costs 1", "forerun costs 0"), ('"rest_ms"', '"rest"')])
def test_costs_that_are_none_are_refused(change: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "costs.json"
    COSTS.save(file)
    file.write_text(file.read_text().replace(*change))

    with pytest.raises(ConfigurationError, match="is no cost profile"):
        CostProfile.load(file)
