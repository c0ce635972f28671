"""What holds for every request: its name, its size, its time, and that its caller is still there."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

import httpx2
import pytest

from gateway.__main__ import main
from gateway.serve import running
from gateway.settings import GatewaySettings
from speculation.v1 import router_pb2
from tests.collector import collector
from tests.controller.house import eventually, house, run
from tests.forerun.fake_service import FakeGenerationService, serving
from tests.gateway.front import PROMPT, Front, front, front_of

LONG: dict[str, Any] = {"max_tokens": 2000, "ignore_eos": True}


def test_a_request_keeps_its_name() -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            named = await gateway.completion(extra_headers={"x-request-id": "mine-1"})
            rounds = await home.router.Explain(router_pb2.ExplainRequest(request_id="mine-1"))
            wrong = await gateway.http.get("/nowhere", headers={"x-request-id": "mine-2"})

            assert named.id == "cmpl-mine-1"
            assert named._request_id == "mine-1"
            assert len(rounds.rounds) > 0
            assert wrong.headers["x-request-id"] == "mine-2"

    run(scenario())


def test_a_request_without_a_name_gets_one() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            first, other = await gateway.post(), await gateway.post()

            assert first.json()["id"] == f"cmpl-{first.headers['x-request-id']}"
            assert first.headers["x-request-id"] != other.headers["x-request-id"]

    run(scenario())


@pytest.mark.parametrize("name", ["", "two words", "r" * 129, "\x7f"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            response = await gateway.http.get("/health", headers={"x-request-id": name})

            assert response.status_code == 400
            assert response.json()["error"]["param"] == "x-request-id"

    run(scenario())


def test_authorization_and_trace_are_passed_on_untouched() -> None:
    async def scenario() -> None:
        service = FakeGenerationService()
        with serving(service) as controller:
            async with front_of(controller) as gateway:
                trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                await gateway.completion(model="words", extra_headers={"traceparent": trace, "cookie": "c=1"})

                asked_for_models, asked_for_text = service.metadata
                for metadata in (asked_for_models, asked_for_text):
                    assert metadata["authorization"] == "Bearer secret"
                    assert metadata["traceparent"] == trace
                    assert "cookie" not in metadata

    run(scenario())


def test_every_option_reaches_the_controller() -> None:
    async def scenario() -> None:
        service = FakeGenerationService()
        with serving(service) as controller:
            async with front_of(controller) as gateway:
                shape = {"depth": 3, "branching": 2, "budget": 5}
                await gateway.completion(
                    model="words",
                    temperature=0.5,
                    top_p=0.25,
                    presence_penalty=0.5,
                    frequency_penalty=-0.5,
                    logit_bias={"5": -100},
                    stop=["\n"],
                    user="somebody",
                    extra_body={
                        **{"top_k": 4, "min_p": 0.125, "repetition_penalty": 2.0},
                        **{"ignore_eos": True, "stop_token_ids": [3]},
                        "speculation": {
                            **{"policy": "merged", "drafters": ["code"], "shape": shape, "in_turn": True},
                            **{"uncoupled": True, "task": "code", "tenant": "acme"},
                        },
                    },
                )

                sent = service.requests[0]
                sampling, speculation = sent.sampling, sent.speculation
                assert (sent.text, sent.max_new_tokens, list(sent.stop)) == (PROMPT, 40, ["\n"])
                assert (sent.ignore_eos, list(sent.stop_token_ids)) == (True, [3])
                assert (sent.task, sent.tenant) == ("code", "acme")
                assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.25, 4, 0.125)
                assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
                assert (sampling.repetition_penalty, dict(sampling.logit_bias)) == (2.0, {5: -100.0})
                assert (sampling.seed, sent.HasField("logprobs")) == (7, False)
                assert (speculation.policy, list(speculation.drafters)) == ("merged", ["code"])
                assert (speculation.shape.depth, speculation.shape.branching, speculation.shape.budget) == (3, 2, 5)
                assert (speculation.in_turn, speculation.uncoupled, speculation.off) == (True, True, False)

    run(scenario())


def test_what_is_not_said_is_as_openai_has_it() -> None:
    async def scenario() -> None:
        service = FakeGenerationService()
        with serving(service) as controller:
            async with front_of(controller) as gateway:
                await gateway.http.post("/v1/completions", json={"model": "words", "prompt": "a"})
                await gateway.http.post(
                    "/v1/chat/completions", json={"model": "words", "messages": [{"role": "user", "content": "a"}]}
                )

                completion, chat = service.requests
                assert (completion.sampling.temperature, chat.sampling.temperature) == (1.0, 1.0)
                assert (completion.max_new_tokens, chat.max_new_tokens) == (16, 0)
                assert not completion.HasField("speculation")

    run(scenario())


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_leaves_ends_everything_that_was_begun(stream: bool) -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            home.workers[0].worker.faults.delay_s = 0.02
            asking = asyncio.ensure_future(read_a_little(gateway) if stream else gateway.post(**LONG))
            await eventually(lambda: home.sessions() > 0)
            if not stream:
                asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

            await eventually(lambda: home.sessions() == 0 and home.controller.generation.reception.inside == 0)
            verified = home.workers[0].worker.exchanges
            assert verified < 1000, "it was not served to its end"

    run(scenario())


async def read_a_little(gateway: Front) -> None:
    stream = await gateway.completion(stream=True, max_tokens=2000)
    async for _ in stream:
        await stream.close()
        return


def test_a_large_body_is_refused_announced_or_not() -> None:
    async def scenario() -> None:
        async with front({"longest_body_bytes": 1000}) as (gateway, _):

            async def pieces() -> Any:
                for _ in range(100):
                    yield b" " * 100

            announced = await gateway.post(prompt="a" * 1000)
            not_announced = await gateway.http.post("/v1/completions", content=pieces())

            for response in (announced, not_announced):
                assert response.status_code == 413
                assert response.json()["error"]["code"] == "body_too_large"
            assert (await gateway.post()).status_code == 200

    run(scenario())


async def connected(gateway: Front) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of which a test says every byte."""
    host, _, port = gateway.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def raw(gateway: Front, sent: bytes) -> bytes:
    """All that comes back until the gateway closes the connection."""
    reader, writer = await connected(gateway)
    writer.write(sent)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    "sent", [pytest.param(b"", id="nothing"), pytest.param(b"GET /health HTTP/1.1\r\nHost: x\r\n", id="half of them")]
)
def test_headers_that_do_not_come_close_the_connection(sent: bytes) -> None:
    async def scenario() -> None:
        async with front({"headers_within_s": 0.2}) as (gateway, _):
            assert await raw(gateway, sent) == b""
            assert (await gateway.post()).status_code == 200

    run(scenario())


def test_the_next_request_of_a_connection_must_come_to_the_point_too() -> None:
    async def scenario() -> None:
        async with front({"headers_within_s": 0.2, "idle_s": 1}) as (gateway, _):
            reader, writer = await connected(gateway)
            writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"serving")).startswith(b"HTTP/1.1 200")
            writer.write(b"GET /he")
            await reader.read()
            writer.close()

    run(scenario())


async def send_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"a" * 1000)
        await writer.drain()
        await asyncio.sleep(0.01)


def test_a_body_without_end_is_not_thrown_away_for_ever() -> None:
    async def scenario() -> None:
        async with front({"longest_body_bytes": 1000, "headers_within_s": 0.2}) as (gateway, _):
            reader, writer = await connected(gateway)
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
            assert (await reader.readuntil(b"bytes")).startswith(b"HTTP/1.1 413")
            with pytest.raises(ConnectionError):
                await send_for_ever(writer)
            writer.close()

    run(scenario())


def test_a_body_that_does_not_come_is_408() -> None:
    async def scenario() -> None:
        async with front({"body_within_s": 0.2}) as (gateway, _):
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 50\r\n\r\n"
            answer = await raw(gateway, head + b'{"model"')

            assert answer.startswith(b"HTTP/1.1 408")

    run(scenario())


def test_headers_without_end_are_refused() -> None:
    async def scenario() -> None:
        async with front({"most_header_bytes": 2000}) as (gateway, _):
            answer = await raw(gateway, b"GET / HTTP/1.1\r\nA: " + b"a" * 3000)

            assert answer.startswith(b"HTTP/1.1 400")
            assert problem_in(answer)["code"] == "invalid_http"

    run(scenario())


def problem_in(answer: bytes) -> dict[str, Any]:
    """The error of an answer of which every byte was read."""
    body: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


@pytest.mark.parametrize(
    "sent", [b"\x16\x03\x01\x00", b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", b"PING\r\n\r\n"]
)
def test_what_is_no_http_is_told_so_in_openais_words(sent: bytes) -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            assert problem_in(await raw(gateway, sent))["type"] == "invalid_request_error"
            assert (await gateway.post()).status_code == 200

    run(scenario())


def test_connections_beyond_the_limit_are_told_to_come_back() -> None:
    async def scenario() -> None:
        async with front({"most_connections": 2}) as (gateway, _):
            held = [await connected(gateway) for _ in range(2)]
            await asyncio.sleep(0)
            answer = await raw(gateway, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            for _, writer in held:
                writer.close()
                await writer.wait_closed()

            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 1" in answer.lower()
            assert problem_in(answer)["code"] == "too_many_connections"
            assert await raw(gateway, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    run(scenario())


def test_a_gateway_that_ends_lets_answers_finish() -> None:
    async def scenario() -> None:
        async with house() as home:
            home.workers[0].worker.faults.delay_s = 0.02
            settings = GatewaySettings(controller=home.controller.address, listen="127.0.0.1:0")
            async with httpx2.AsyncClient(trust_env=False) as http:
                async with running(settings) as address:
                    body = {"model": "acme/letters", "prompt": PROMPT, "max_tokens": 40, "ignore_eos": True}
                    asking = asyncio.ensure_future(http.post(f"http://{address}/v1/completions", json=body))
                    await eventually(lambda: home.sessions() > 0)
                assert len((await asking).json()["choices"][0]["text"]) == 40
                with pytest.raises(httpx2.ConnectError):
                    await http.get(f"http://{address}/health")

    run(scenario())


def test_the_calls_are_described() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            document = (await gateway.http.get("/openapi.json")).json()

            assert document["openapi"].startswith("3.1")
            assert set(document["paths"]) == {
                *("/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/models/{name}", "/health"),
            }
            responses = document["paths"]["/v1/completions"]["post"]["responses"]
            assert responses.keys() == {"200", "4XX", "5XX"}
            assert responses["200"]["content"].keys() == {"application/json", "text/event-stream"}
            assert (await gateway.http.get("/docs")).status_code == 404, "its page would load scripts from elsewhere"

    run(scenario())


def test_nothing_that_was_said_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        caplog.set_level("INFO")
        async with front() as (gateway, _):
            await gateway.completion(prompt="confidential", extra_headers={"x-request-id": "mine"})
            await gateway.post(prompt="confidential", temperature=-1)

        ended = [record for record in caplog.records if record.name == "gateway.door"]
        assert [record.status for record in ended] == [200, 400]  # type: ignore[attr-defined]
        assert ended[0].request_id == "mine"  # type: ignore[attr-defined]
        said = " ".join(str(vars(record)) for record in caplog.records)
        assert "confidential" not in said
        assert "secret" not in said

    run(scenario())


def test_the_callers_trace_goes_through_to_the_controller_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

    async def scenario(endpoint: str) -> None:
        caplog.set_level("INFO")
        async with front(more={"tracing": {"endpoint": endpoint}}) as (gateway, _):
            await gateway.completion(extra_headers={"traceparent": f"00-{trace}-{span}-01", "x-request-id": "mine"})

    with collector() as collecting:
        run(scenario(collecting.endpoint))

    (first,) = (one for one in collecting.spans if one.parent == span)
    assert (first.trace, first.attributes["forerun.request_id"]) == (trace, "mine")
    (ended,) = (record for record in caplog.records if record.name == "gateway.door")
    assert ended.trace_id == trace  # type: ignore[attr-defined]


def test_a_wrong_setting_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--listen", "here"]) == 1
    assert capsys.readouterr().err.startswith("gateway: --listen: ")


def test_a_gateway_of_its_own_says_where_it_is_and_ends_when_told() -> None:
    async def scenario() -> None:
        async with front() as (_, home):
            command = (sys.executable, "-P", "-m", "gateway", "--controller", home.controller.address)
            process = await asyncio.create_subprocess_exec(
                *command,
                *("--listen", "127.0.0.1:0"),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ,
            )
            assert process.stdout is not None
            ready = json.loads(await process.stdout.readline())
            taken = await asyncio.create_subprocess_exec(
                *command, *("--listen", ready["address"]), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            _, said = await taken.communicate()
            process.send_signal(signal.SIGTERM)

            assert ready["event"] == "ready"
            assert taken.returncode == 1
            assert ready["address"] in said.decode()
            assert await process.wait() == 0

    run(scenario())
