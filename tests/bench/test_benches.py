"""The benches' arithmetic, on a service that answers from a script."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

import bench.exactness
from bench.ahead import SHAPES, measure_ahead
from bench.changes import LEARNERS
from bench.exactness import SAMPLED_VARIANTS, VARIANTS, by_plain_decoding, measure_exactness
from bench.figures import Figure
from bench.fleet import Bench
from bench.overhead import measure_overhead
from bench.speed import CHAIN_LENGTHS, measure_chains, measure_speed
from controller.shared_learning import learners
from forerun.client import (
    AcceptanceRecord,
    Decision,
    FinishReason,
    Generation,
    RequestTimings,
    RoundReport,
    Usage,
)
from forerun.workload import HARD_SETS, PLAIN_DOMAINS, PROMPT_SETS, Task
from router_models.catalogue import all_policies
from router_models.policy import RoundTimings
from speculation.tree import EMPTY_TREE

MS = 1_000_000
TOKENS = (5, 6, 7, 8, 9, 10, 11, 12)
TIMINGS = RoundTimings(
    draft_ns=6 * MS, verify_ns=21 * MS, round_ns=28 * MS, draft_worker_ns=5 * MS, verify_worker_ns=20 * MS
)
TASKS = [Task(name, number, f"{name} {number}") for number in range(3) for name in PLAIN_DOMAINS]


class ScriptedClient:
    """Always the same tokens; rounds by policy; a wrong token wherever `wrong` says so."""

    def __init__(self, wrong: Mapping[str, Any] | None = None) -> None:
        self.asked: list[dict[str, Any]] = []
        self._wrong = wrong

    async def generate(self, prompt: str, **options: Any) -> Generation:
        self.asked.append({"prompt": prompt, **options})
        rounds = 8 if options.get("policy") == "none" else 4 if options.get("uncoupled") else 2
        wrong = self._wrong is not None and self._wrong.items() <= {"prompt": prompt, **options}.items()
        report = RoundReport(
            round=0,
            decision=Decision(policy="static"),
            tree=EMPTY_TREE,
            accepted=(),
            node_texts=(),
            extra_text="",
            timings=TIMINGS,
        )
        return Generation(
            request_id="r",
            text="",
            token_ids=(*TOKENS[:3], 0, *TOKENS[4:]) if wrong else TOKENS,
            finish_reason=FinishReason.LENGTH,
            usage=Usage(prompt_tokens=1, completion_tokens=len(TOKENS)),
            seed=options.get("seed", 0),
            acceptance=AcceptanceRecord(num_spec_steps=rounds, per_step_accepted=(0,) * rounds),
            decision=Decision(policy="static"),
            timings=RequestTimings(
                time_to_first_token_ns=1,
                total_ns=2 * 28 * MS + rounds * MS,
                rounds=RoundTimings(round_ns=2 * 28 * MS),
            ),
            rounds=(report, replace(report, foreseen_drafters=("code",))),
        )


class ScriptedReference:
    @classmethod
    def load(cls, folder: str) -> "ScriptedReference":
        return cls()

    def encode(self, prompt: str) -> tuple[int, ...]:
        return (1,)

    def greedy(self, prompt: tuple[int, ...], max_new_tokens: int) -> tuple[int, ...]:
        return TOKENS


def bench_of(client: ScriptedClient) -> Bench:
    return Bench(client, "", (*PLAIN_DOMAINS, "mixed"))  # type: ignore[arg-type]


def by_name(figures: tuple[Figure, ...]) -> dict[str, float]:
    return {figure.name: figure.value for figure in figures}


@pytest.fixture
def exactness(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bench.exactness, "Reference", ScriptedReference)

    def measure(client: ScriptedClient) -> dict[str, float]:
        return by_name(asyncio.run(measure_exactness(bench_of(client), TASKS, max_new_tokens=8, seed=1)))

    return measure


def test_exactness_counts_every_answer_it_compared(exactness: Any) -> None:
    figures = exactness(ScriptedClient())

    compared = len(TASKS) * (2 * len(VARIANTS) + len(SAMPLED_VARIANTS))
    assert figures["exactness.requests"] == compared
    assert figures["exactness.tokens"] == compared * len(TOKENS)
    assert figures["exactness.differences"] == 0


@pytest.mark.parametrize(
    ("wrong", "differences"),
    [
        pytest.param({"policy": "merged", "prompt": "code 0"}, 4, id="one policy on one prompt"),
        pytest.param({"policy": "none", "prompt": "code 0"}, 2 + len(SAMPLED_VARIANTS), id="plain decoding itself"),
    ],
)
def test_exactness_finds_one_wrong_token(exactness: Any, wrong: dict[str, Any], differences: int) -> None:
    assert exactness(ScriptedClient(wrong))["exactness.differences"] == differences


@pytest.mark.parametrize(("wrong", "differences"), [(None, 0), ({"policy": "merged", "prompt": "code 0"}, 4)])
def test_exactness_can_be_judged_by_plain_decoding(wrong: dict[str, Any] | None, differences: int) -> None:
    client = ScriptedClient(wrong)

    measured = asyncio.run(
        measure_exactness(bench_of(client), TASKS, max_new_tokens=8, seed=1, judge=by_plain_decoding)
    )

    assert by_name(measured)["exactness.differences"] == differences
    assert [request["policy"] for request in client.asked[: len(TASKS)]] == ["none"] * len(TASKS)


def test_exactness_asks_every_policy() -> None:
    assert {variant.options["policy"] for variant in VARIANTS} == set(all_policies())


def test_exactness_puts_every_policy_that_learns_in_charge() -> None:
    assert {variant.options["policy"] for variant in VARIANTS} >= set(LEARNERS) == set(learners(all_policies()))


def test_exactness_samples_with_every_filter(exactness: Any) -> None:
    client = ScriptedClient()
    exactness(client)

    asked = {name for request in client.asked for name in request if request.get("temperature")}
    assert asked >= {"top_p", "top_k", "min_p", "repetition_penalty", "seed"}


SIX_SETS = [*TASKS, *(Task(name, number, f"{name} {number}") for number in range(3) for name in HARD_SETS)]
WARM_UP = 2 * len(PLAIN_DOMAINS)


def test_speed_takes_its_ratios_prompt_by_prompt() -> None:
    client = ScriptedClient()

    figures = by_name(asyncio.run(measure_speed(bench_of(client), SIX_SETS, max_new_tokens=8, seed=1)))

    assert figures["speed.coupled_over_uncoupled_t1"] == pytest.approx(2.0)
    assert figures["speed.static_over_none"] > 0
    assert {f"speed.static_over_none.{domain}" for domain in PLAIN_DOMAINS} <= figures.keys()
    assert {f"speed.planner_over_{over}.{name}" for name in PROMPT_SETS for over in ("none", "runs")} <= figures.keys()
    assert not {f"speed.static_over_none.{name}" for name in HARD_SETS} & figures.keys()


def test_of_every_set_each_variant_comes_first_in_turn() -> None:
    client = ScriptedClient()
    asyncio.run(measure_speed(bench_of(client), SIX_SETS, max_new_tokens=8, seed=1))

    greedy = [request for request in client.asked if "temperature" not in request][WARM_UP:]
    for task in SIX_SETS:
        policies = [request["policy"] for request in greedy if request["prompt"] == task.prompt]
        turned = [["none", "runs", "planner"], ["runs", "planner", "none"], ["planner", "none", "runs"]]
        assert policies[:3] == turned[task.number % 3]
        if task.prompt_set in PLAIN_DOMAINS:
            assert policies[3:] == [["none", "static"], ["static", "none"]][task.number % 2]


def test_the_planner_learns_before_it_is_measured_and_is_told_nothing() -> None:
    client = ScriptedClient()
    lessons = [Task("code", 90, "a lesson"), Task("edit", 91, "another")]
    measured = asyncio.run(
        measure_speed(bench_of(client), SIX_SETS, max_new_tokens=8, seed=1, lessons=lessons, planner_goal=2.2)
    )

    learnt = client.asked[WARM_UP : WARM_UP + len(lessons)]
    assert learnt == [{"prompt": task.prompt, "max_new_tokens": 8, "policy": "planner"} for task in lessons]
    assert all("drafters" not in request for request in client.asked if request["policy"] == "planner")
    assert next(entry for entry in measured if entry.name == "speed.planner_over_none").goal == 2.2


def test_chains_of_every_length_meet_every_prompt() -> None:
    client = ScriptedClient()

    figures = by_name(asyncio.run(measure_chains(bench_of(client), TASKS, max_new_tokens=8, seed=1)))

    assert set(figures) == {f"chains.{length}_over_none" for length in CHAIN_LENGTHS}
    lengths = [request["shape"].depth for request in client.asked[8:] if "shape" in request]
    assert sorted(lengths) == sorted(CHAIN_LENGTHS * len(TASKS))


def test_overhead_is_what_the_workers_did_not_spend() -> None:
    figures = by_name(asyncio.run(measure_overhead(bench_of(ScriptedClient()), TASKS[:2], max_new_tokens=8, seed=1)))

    assert figures["overhead.round_ms_median"] == pytest.approx(3.0)
    assert figures["overhead.round_share_p90"] == pytest.approx(3 / 28, abs=1e-4)
    assert figures["overhead.draft_wire_ms"] == pytest.approx(1.0)
    assert figures["overhead.verify_wire_ms"] == pytest.approx(1.0)
    assert figures["overhead.controller_ms"] == pytest.approx(1.0)
    assert figures["overhead.between_rounds_ms"] == pytest.approx(1.0)
    assert figures["overhead.bare_grpc_ms"] > 0


def test_drafting_ahead_is_compared_with_the_same_plan_without_it() -> None:
    client = ScriptedClient()

    figures = by_name(asyncio.run(measure_ahead(bench_of(client), TASKS, max_new_tokens=8, seed=1)))

    assert set(figures) == {name + part for name in SHAPES for part in ("", ".draft_share", ".foreseen")}
    for shape in SHAPES.values():
        asked = [options for options in client.asked if options["shape"] == shape][1:]
        assert [options["in_turn"] for options in asked[:4]] == [True, False, False, True]
        assert all(asked[place]["prompt"] == asked[place + 1]["prompt"] for place in range(0, len(asked), 2))
    assert figures["speed.prespeculation.foreseen"] == 0.5
