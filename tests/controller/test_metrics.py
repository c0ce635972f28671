"""A controller's metrics: what is scraped adds up to what callers were told, stays small, and tells no secrets."""

import asyncio
import urllib.error
from dataclasses import replace
from pathlib import Path
from urllib.request import Request, urlopen

import grpc
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.account import Account
from controller.meter import MOST_ARMS, MOST_TENANTS, Meter, shape_class
from controller.metrics import METRICS
from controller.records import Outcome
from controller.request import GenerationRequest
from controller.settings import MetricsSettings, RedisSettings
from controller.steering import Steering
from router_models.catalogue import all_policies
from router_models.plan import Plan, no_speculation
from speculation.errors import ConfigurationError
from speculation.metrics import OTHER
from speculation.tree import MAX_BRANCHING, MAX_DEPTH, MAX_NODES, TreeShape
from speculation.v1 import generation_pb2, router_pb2
from tests.controller.house import (
    DRAFT,
    DRAFT_TOO,
    NOBODY_WAITS,
    ONE_PLACE,
    PROMPT,
    QUICK,
    VERIFY,
    House,
    eventually,
    house,
    read,
    request,
    run,
)
from tests.controller.shared import FULL
from tests.scraping import Scrape, scrape

SERVED = MetricsSettings(listen="127.0.0.1:0", tenants=True)
SECRET = "the launch code is 0000"


async def scraped(home: House) -> Scrape:
    """Not on the loop: it is what answers."""
    return await asyncio.to_thread(scrape, home.controller.metrics_address)


def test_counters_add_up_to_what_the_answers_said() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, metrics=SERVED) as home:
            answers = [
                await home.answer(task="code", tenant="acme"),
                await home.answer(task="code", speculation=generation_pb2.Speculation(drafters=["beta"])),
                await home.answer(task="math", speculation=generation_pb2.Speculation(off=True)),
            ]
            seen = await scraped(home)
            summaries = [answer.summary for answer in answers]
            records = [summary.acceptance for summary in summaries]

            drafted = sum(record.num_draft_tokens for record in records)
            accepted = sum(record.num_accepted_draft_tokens for record in records)
            rounds = sum(len(record.per_step_accepted) for record in records)
            assert accepted > 0
            assert seen.value("forerun_spec_decode_num_draft_tokens_total") == drafted
            assert seen.value("forerun_spec_decode_num_accepted_tokens_total") == accepted
            assert seen.value("forerun_spec_decode_num_accepted_tokens_per_pos_total") == accepted
            assert seen.value("forerun_spec_decode_num_drafts_total") == sum(
                len(record.per_step_accepted) for record in records[:2]
            ) - len([1 for record in records[:2] for nodes in record.per_step_drafted if not nodes])
            assert seen.value("forerun_drafted_tokens_total") == drafted
            assert seen.value("forerun_accepted_tokens_total") == accepted
            assert seen.value("forerun_emitted_tokens_total") == sum(len(answer.token_ids) for answer in answers)
            assert seen.value("forerun_accepted_tokens_total", drafters="beta") == records[1].num_accepted_draft_tokens
            assert seen.value("forerun_rounds_total") == rounds == seen.value("forerun_decisions_total")
            assert seen.value("forerun_rounds_total", task="math") == seen.value("forerun_rounds_total", shape="plain")
            assert seen.value("forerun_round_part_seconds_count", part="verify") == rounds
            assert seen.value("gen_ai_server_request_duration_seconds_count", error_type="") == 3
            assert seen.value("gen_ai_server_time_to_first_token_seconds_count") == 3
            assert seen.value("gen_ai_server_time_per_output_token_seconds_count") == 3
            assert seen.value("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 3 * len(PROMPT)
            assert seen.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 120
            assert seen.value("forerun_requests_total", outcome="ok", task="code", tenant="acme", policy="static") == 1
            assert seen.value("forerun_requests_in_flight") == seen.value("forerun_requests_waiting") == 0
            assert seen.value("forerun_grpc_calls_total", method="Generate", code="OK") == 3

    run(scenario())


def test_tokens_of_runs_are_counted() -> None:
    async def scenario() -> None:
        async with house(VERIFY, metrics=SERVED) as home:
            answer = await home.answer(max_new_tokens=12, speculation=generation_pb2.Speculation(policy="runs"))
            seen = await scraped(home)

            assert len(answer.token_ids) == 12
            assert seen.value("forerun_rounds_total") == 3, "the first token at once, nine, and two"
            assert seen.value("forerun_run_tokens_total") == 12 - 3

    run(scenario())


def test_what_was_refused_or_broken_off_is_counted_by_its_reason() -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED, limits=ONE_PLACE, more=NOBODY_WAITS) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            running = home.generation.Generate(request(max_new_tokens=2000))
            await anext(aiter(running))
            with pytest.raises(grpc.aio.AioRpcError):
                await home.answer()
            running.cancel()
            await eventually(lambda: home.controller.generation.reception.inside == 0)
            for wrong in (
                {"max_new_tokens": 100_000},
                {"speculation": generation_pb2.Speculation(drafters=["nobody"])},
            ):
                with pytest.raises(grpc.aio.AioRpcError):
                    await home.answer(**wrong)
            with pytest.raises(grpc.aio.AioRpcError):
                await home.router.Explain(router_pb2.ExplainRequest(request_id="unheard of"))
            seen = await scraped(home)

            for reason in ("CAPACITY", "PROMPT_TOO_LONG", "UNKNOWN_NAME"):
                assert seen.value("forerun_requests_refused_total", reason=reason) == 1
            assert seen.value("forerun_requests_total", outcome="cancelled") == 1
            assert seen.value("gen_ai_server_request_duration_seconds_count", error_type="cancelled") == 1
            codes = {"RESOURCE_EXHAUSTED": 1, "CANCELLED": 1, "INVALID_ARGUMENT": 1, "NOT_FOUND": 1}
            for code, calls in codes.items():
                assert seen.value("forerun_grpc_calls_total", method="Generate", code=code) == calls
            assert seen.value("forerun_grpc_calls_total", method="Explain", code="NOT_FOUND") == 1

    run(scenario())


def test_a_request_that_loses_all_targets_has_failed_and_was_not_refused() -> None:
    async def scenario() -> None:
        impatient = QUICK.model_copy(update={"verify_wait_s": 0.3})
        async with house(VERIFY, metrics=SERVED, timeouts=impatient) as home:
            home.workers[0].worker.faults.delay_s = 0.02
            running = home.generation.Generate(request(max_new_tokens=2000))
            await anext(aiter(running))
            await home.workers[0].kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await read(running)
            seen = await scraped(home)

            assert seen.value("forerun_requests_total") == seen.value("forerun_requests_total", outcome="worker_error")
            assert seen.value("gen_ai_server_request_duration_seconds_count", error_type="worker_error") == 1
            assert "forerun_requests_refused_total" not in seen.names
            assert seen.value("forerun_failovers_total") == 1
            assert seen.value("forerun_grpc_calls_total", code="UNAVAILABLE") == 1

    run(scenario())


def test_a_request_without_a_first_round_waits() -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED) as home:
            home.workers[0].worker.faults.frozen = True
            answer = asyncio.create_task(home.answer())
            await eventually(lambda: home.controller.generation.meter.waiting == 1)
            seen = await scraped(home)
            home.workers[0].worker.faults.frozen = False
            answer.cancel()

            assert seen.value("forerun_requests_in_flight") == seen.value("forerun_requests_waiting") == 1

    run(scenario())


def test_the_state_of_fleet_router_and_configuration_is_told(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(VERIFY, DRAFT, metrics=SERVED, file=file, mode="frozen") as home:
            home.controller.steering.set_kill_switch(True)
            file.write_text("tokenizer: [")
            await home.controller.configuration.look()
            await home.workers[1].kill()
            await eventually(lambda: not all(worker.serving for worker in home.controller.fleet.workers))
            seen = await scraped(home)

            assert seen.value("forerun_workers", role="verify", health="serving") == 1
            assert seen.value("forerun_workers", role="draft", health="serving") == 0
            assert seen.value("forerun_workers", role="draft", health="not serving") == 1
            assert seen.value("forerun_worker_serving", worker="target") == 1
            assert seen.value("forerun_kill_switch") == 1
            assert seen.value("forerun_mode", mode="frozen") == seen.value("forerun_mode") == 1
            assert seen.value("forerun_policy", policy="static") == seen.value("forerun_policy") == 1
            assert seen.value("forerun_config_wrong") == 1
            assert seen.value("forerun_config_refused_total") >= 1
            in_force = home.controller.configuration.settings.content_hash
            assert seen.value("forerun_config_info", hash=in_force) == 1
            assert "forerun_log_dropped_total" not in seen.names, "there is no log"

    run(scenario())


def test_the_log_and_what_was_learnt_from_it_are_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED, policy="planner", redis=RedisSettings(url=f"embedded://{tmp_path}/r")) as home:
            answer = await home.answer()
            rounds = len(answer.summary.acceptance.per_step_accepted)
            seen = await scraped(home)
            while seen.values("forerun_learning_folded_records") != [rounds]:
                await asyncio.sleep(0.1)
                seen = await scraped(home)

            assert seen.value("forerun_learning_lag_records") == 0
            assert seen.value("forerun_learning_leads") == seen.value("forerun_learning_follows") == 1
            assert seen.value("forerun_log_connected") == 1
            assert seen.value("forerun_log_written_total") >= rounds
            assert seen.value("forerun_log_dropped_total") == 0
            assert seen.value("forerun_learning_snapshot_timestamp_seconds") > 1.7e9
            assert seen.value("forerun_plan_seconds_count") == rounds

    run(scenario(), within_s=60)


def test_lag_is_what_the_log_has_and_the_snapshot_has_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED, policy="planner", redis=RedisSettings(url=f"embedded://{tmp_path}/r")) as home:
            learner = [child for child in psutil.Process().children(recursive=True) if _learns(child)]
            while not learner:
                await asyncio.sleep(0.05)
                learner = [child for child in psutil.Process().children(recursive=True) if _learns(child)]
            learner[0].suspend()
            try:
                answer = await home.answer()
                rounds = len(answer.summary.acceptance.per_step_accepted)
                seen = await scraped(home)
                while seen.values("forerun_learning_lag_records") != [rounds]:
                    await asyncio.sleep(0.1)
                    seen = await scraped(home)
            finally:
                learner[0].resume()

    run(scenario(), within_s=60)


def _learns(process: psutil.Process) -> bool:
    return "controller.learner_process" in process.cmdline()


def test_nothing_that_callers_wrote_or_read_is_told() -> None:
    async def scenario() -> None:
        async with house(metrics=MetricsSettings(listen="127.0.0.1:0")) as home:
            answer = await home.answer(text=SECRET, tenant="acme", request_id="request-of-acme", stop=["0000"])
            seen = await scraped(home)

            for secret in (SECRET, "launch", answer.text, "acme", "request-of-acme"):
                assert secret not in seen.text
            assert {told["tenant"] for name, told, _ in seen.samples if "tenant" in told} == {""}

    run(scenario())


def test_nothing_listens_unless_it_is_asked_for() -> None:
    async def scenario() -> None:
        async with house() as home:
            listening = {
                connection.laddr.port
                for connection in psutil.Process().net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            }
            ours = {int(worker.address.rpartition(":")[2]) for worker in home.workers}
            ours.add(int(home.controller.address.rpartition(":")[2]))

            assert home.controller.metrics_address == ""
            assert listening <= ours

    run(scenario())


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/", "GET", 404), ("/metrics/x", "GET", 404), ("/metrics", "POST", 405)]
)
def test_the_server_has_metrics_and_nothing_else(path: str, method: str, status: int) -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED) as home:
            asked = Request(f"http://{home.controller.metrics_address}{path}", method=method)
            with pytest.raises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(urlopen, asked, timeout=10)
            refused.value.close()

            assert refused.value.code == status

    run(scenario())


def test_an_address_that_is_taken_is_told_by_its_setting() -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED) as home:
            taken = MetricsSettings(listen=home.controller.metrics_address)
            with pytest.raises(ConfigurationError, match=r"metrics\.listen"):
                async with house(metrics=taken):
                    pass

    run(scenario())


SHAPES = st.builds(
    TreeShape,
    depth=st.integers(1, MAX_DEPTH),
    branching=st.integers(1, MAX_BRANCHING),
    budget=st.integers(1, MAX_NODES),
)


@given(SHAPES)
def test_shapes_fall_into_a_few_classes(shape: TreeShape) -> None:
    form, _, size = shape_class(Plan(drafters=("a",), shape=shape, explanation="")).partition("_")

    assert form in ("chain", "tree")
    assert int(size) in {2**power for power in range(9)}
    assert shape_class(no_speculation("")) == "plain"


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8), SHAPES), max_size=60), st.integers(1, 5))
def test_labels_stay_few_whatever_callers_say(asked: list[tuple[str, str, TreeShape]], most_tasks: int) -> None:
    meter = Meter(most_tasks=most_tasks, tenants=True)

    for task, tenant, shape in asked:
        count_one(meter, task=task, tenant=tenant, shape=shape)

    tasks = {task for _, _, task, _ in meter.arms}
    assert len(tasks) <= most_tasks + 2, "and other, and none"
    assert sum(tally.rounds for tally in meter.arms.values()) == len(asked)
    assert sum(meter.requests.values()) == len(asked)
    assert meter.waiting == 0


def test_arms_and_tenants_have_a_limit_too() -> None:
    meter = Meter(most_tasks=10_000, tenants=True)

    for number in range(MOST_ARMS + 50):
        count_one(meter, task=f"task {number}", tenant=f"tenant {number}")

    assert len(meter.arms) == MOST_ARMS + 1
    assert meter.arms[(OTHER,) * 4].rounds == 50
    assert len({tenant for _, _, _, tenant in meter.requests}) == MOST_TENANTS + 1


def count_one(meter: Meter, *, task: str, tenant: str, shape: TreeShape = FULL.plan.shape) -> None:
    """Count a request of one round."""
    asked = GenerationRequest(request_id="r", prompt=(1,), max_new_tokens=1, task=task, tenant=tenant)
    steering = Steering(all_policies(), "static")
    one, account = meter.open(asked, steering.for_request(asked.pins, task=task, tenant=tenant)), Account()
    done = replace(FULL, plan=Plan(drafters=("code",), shape=shape, explanation=""))
    account.add(done)
    one.add(done)
    one.end(Outcome.OK, account, done, prompt_tokens=1)


def test_silent_missing_and_foreseen_drafts_and_lost_workers_are_counted() -> None:
    meter, steering = Meter(most_tasks=1, tenants=False), Steering(all_policies(), "static")
    asked = GenerationRequest(request_id="r", prompt=(1,), max_new_tokens=1)
    one = meter.open(asked, steering.for_request(asked.pins))

    one.add(FULL)
    one.add(replace(FULL, failovers=3, retold_tokens=20))
    assert (meter.silences["suffix",], meter.missing["docs",], meter.foreseen_rounds) == (2, 2, 0)
    assert (meter.failovers, meter.retold_tokens) == (3, 20), "a round tells the sums of its request"

    one.add(replace(FULL, missing=(), exchanges={}))
    assert meter.foreseen_rounds == 1


def test_every_metric_is_named_as_prometheus_wants_it() -> None:
    names = [metric.name for metric in METRICS]

    assert len(names) == len(set(names))
    for metric in METRICS:
        assert metric.name.endswith("_total") is (metric.kind.value == "counter"), metric.name
        assert metric.help.endswith("."), metric.name


def test_reading_a_request_to_its_end_is_counted_as_well_ended() -> None:
    """A caller's deadline is theirs, and is told apart."""

    async def scenario() -> None:
        async with house(metrics=SERVED) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            with pytest.raises(grpc.aio.AioRpcError):
                await read(home.generation.Generate(request(max_new_tokens=2000), timeout=0.5))
            await eventually(lambda: home.controller.generation.reception.inside == 0)
            seen = await scraped(home)

            ended = [(told["outcome"], value) for name, told, value in seen.samples if name == "forerun_requests_total"]
            assert ended in ([("deadline", 1.0)], [("cancelled", 1.0)])

    run(scenario())
