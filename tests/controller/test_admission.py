"""Overload as callers meet it: a whole controller, real calls, more of them than places."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.settings import AdmissionSettings, LatencyClassSettings, MetricsSettings, QuotaSettings
from speculation.rpc import error_info, retry_after_s
from speculation.v1 import log_pb2
from tests import fakes
from tests.controller.house import ONE_PLACE, QUICK, VERIFY, House, eventually, house, plain, read, request, run
from tests.scraping import scrape

SERVICE = "speculation.v1.GenerationService"
ONE_SLOT = fakes.description(slots=1)


def admission(*classes: LatencyClassSettings, **more: Any) -> dict[str, Any]:
    """Settings with these classes, the last of them the default."""
    return {"admission": AdmissionSettings(classes=classes, default_class=classes[-1].name, **more)}


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def slowly(home: House) -> None:
    """A round takes long enough for others to come meanwhile."""
    home.workers[0].worker.faults.delay_s = 0.03


def asked(home: House, **fields: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(home.answer(**fields))


def test_no_more_requests_run_than_the_targets_have_slots_and_all_get_their_text() -> None:
    async def scenario() -> None:
        async with house(fakes.description(slots=3)) as home:
            reception = home.controller.generation.reception
            most = 0

            async def one(seed: int) -> list[int]:
                nonlocal most
                call = home.generation.Generate(request(sampling={"seed": seed}), timeout=20)
                tokens: list[int] = []
                async for response in call:
                    most = max(most, reception.inside)
                    tokens += response.delta.token_ids
                return tokens

            answers = await asyncio.gather(*(one(seed) for seed in range(12)))

            assert answers == [plain(seed=seed) for seed in range(12)]
            assert most == 3
            assert reception.shed == {}

    run(scenario())


def test_the_higher_class_goes_first_and_the_answer_says_how_long_it_waited() -> None:
    async def scenario() -> None:
        async with house(ONE_SLOT) as home:
            slowly(home)
            reception = home.controller.generation.reception
            first = asked(home)
            await eventually(lambda: reception.inside == 1)
            batch = asked(home, latency_class="batch")
            await eventually(lambda: reception.waiting == 1)
            urgent = asked(home, latency_class="interactive")
            await eventually(lambda: reception.waiting == 2)

            ended = [(await task).summary for task in (first, urgent, batch)]

            assert [summary.latency_class for summary in ended] == ["standard", "interactive", "batch"]
            waited = [summary.timings.queue_ns for summary in ended]
            assert waited[0] < waited[1] < waited[2]
            assert all(
                timings.queue_ns < timings.time_to_first_token_ns <= timings.total_ns
                for timings in (summary.timings for summary in ended)
            )

    run(scenario())


def test_a_request_that_is_turned_away_is_told_why_and_when_to_come_back() -> None:
    async def scenario() -> None:
        classes = LatencyClassSettings(name="only", most_wait_s=0.1)
        async with house(
            limits=ONE_PLACE, more=admission(classes), metrics=MetricsSettings(listen="127.0.0.1:0")
        ) as home:
            slowly(home)
            running = home.generation.Generate(request(max_new_tokens=2000), timeout=20)
            await running.read()

            error = await refusal(home.answer())
            running.cancel()

            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            info = error_info(error)
            assert info is not None
            assert (info.reason, dict(info.metadata)) == ("CAPACITY", {"latency_class": "only", "cause": "waited"})
            assert 0.1 <= (retry_after_s(error) or 0.0) <= 0.2
            seen = await asyncio.to_thread(scrape, home.controller.metrics_address)
            assert seen.value("forerun_admission_shed_total", latency_class="only", cause="waited") == 1
            assert seen.value("forerun_admission_waiting", latency_class="only") == 0
            assert seen.value("forerun_admission_wait_seconds_count", latency_class="only") == 1

    run(scenario())


def test_a_class_that_is_not_the_tenants_and_one_that_is_none_are_refused() -> None:
    async def scenario() -> None:
        paid = LatencyClassSettings(name="paid", tenants=("acme",))
        async with house(more=admission(paid, LatencyClassSettings(name="free"))) as home:
            assert (await home.answer(tenant="acme", latency_class="paid")).summary.latency_class == "paid"

            error = await refusal(home.answer(tenant="other", latency_class="paid"))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED
            info = error_info(error)
            assert info is not None
            assert (info.metadata["field"], info.metadata["rule"]) == ("latency_class", "admission.classes.0")

            error = await refusal(home.answer(latency_class="best"))
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert "known: free" in str(error.details())
            assert "paid" not in str(error.details())

    run(scenario())


def test_what_a_request_set_aside_of_its_quota_comes_back_when_it_is_turned_away() -> None:
    async def scenario() -> None:
        quota = {"quotas": (QuotaSettings(tenant="small", tokens_per_minute=60),)}
        classes = LatencyClassSettings(name="only", most_wait_s=0.05)
        async with house(limits=ONE_PLACE, more=admission(classes) | quota) as home:
            slowly(home)
            running = home.generation.Generate(request(max_new_tokens=2000), timeout=20)
            await running.read()
            error = await refusal(home.answer(tenant="small"))
            running.cancel()
            await eventually(lambda: home.controller.generation.reception.inside == 0)

            assert error_info(error).reason == "CAPACITY"  # type: ignore[union-attr]
            assert (await home.answer(tenant="small")).token_ids == plain()

    run(scenario())


def test_a_worker_that_joins_brings_places_for_those_who_wait() -> None:
    async def scenario() -> None:
        async with house(ONE_SLOT, ONE_SLOT) as home:
            slowly(home)
            home.workers[1].worker.faults.delay_s = 0.03
            reception, fleet = home.controller.generation.reception, home.controller.fleet
            fleet.workers[1].step_back("taken out by the test")
            running = [asked(home, max_new_tokens=400) for _ in range(2)]
            await eventually(lambda: (reception.inside, reception.waiting) == (1, 1))

            await eventually(lambda: (reception.inside, reception.waiting) == (2, 0))

            for task in running:
                assert (await task).token_ids == plain(400)

    run(scenario())


def test_a_shut_down_answers_what_runs_and_sends_away_what_waits() -> None:
    async def scenario() -> None:
        leave: asyncio.Event = asyncio.Event()
        ready: asyncio.Future[House] = asyncio.get_running_loop().create_future()

        async def live() -> None:
            async with house(VERIFY, limits=ONE_PLACE) as home:
                slowly(home)
                ready.set_result(home)
                await leave.wait()

        living = asyncio.create_task(live())
        home = await ready
        reception = home.controller.generation.reception
        async with grpc.aio.insecure_channel(home.controller.address) as channel:
            stub = type(home.generation)(channel)
            health = health_pb2_grpc.HealthStub(channel)
            running = asyncio.create_task(read(stub.Generate(request(), timeout=20)))
            await eventually(lambda: reception.inside == 1)
            waiting = asyncio.create_task(read(stub.Generate(request(), timeout=20)))
            await eventually(lambda: reception.waiting == 1)
            leave.set()

            error = await refusal(waiting)
            assert error_info(error).reason == "DRAINING"  # type: ignore[union-attr]
            assert retry_after_s(error) is not None
            state = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
            assert state.status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert (await running).token_ids == plain()
        await living

    run(scenario())


def test_the_decision_log_says_the_class_and_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with house(ONE_SLOT) as home:
            slowly(home)
            records: list[log_pb2.OutcomeRecord] = []

            class Kept:
                def append(self, stream: str, record: bytes) -> None:
                    if stream == "outcomes":
                        records.append(log_pb2.OutcomeRecord.FromString(record))

            monkeypatch.setattr(home.controller.generation._chronicle, "log", Kept())
            await asyncio.gather(*(home.answer(latency_class=name) for name in ("standard", "batch")))

            assert {record.latency_class for record in records} == {"standard", "batch"}
            assert records[0].timings.queue_ns < records[1].timings.queue_ns

    run(scenario())


def test_a_caller_that_does_not_read_loses_its_place() -> None:
    """It asks for more than the connection's window holds, and reads nothing of it."""

    async def scenario() -> None:
        hurried = QUICK.model_copy(update={"slow_reader_s": 0.3})
        async with house(fakes.description(max_length=40_000), timeouts=hurried, policy="none") as home:
            options = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 4096))
            reception = home.controller.generation.reception
            async with grpc.aio.insecure_channel(home.controller.address, options=options) as channel:
                stub = type(home.generation)(channel)
                unread = stub.Generate(request(max_new_tokens=30_000, explain=True, logprobs=5), timeout=60)
                await eventually(lambda: reception.inside == 1)
                await eventually(lambda: reception.inside == 0, within_s=20)

                error = await refusal(read(unread))
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "not read for 0.3 s" in str(error.details())
            assert (await home.answer()).token_ids == plain()

    run(scenario())
