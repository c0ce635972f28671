"""A slice of `forerun bench fuzz` against a real controller, a real gateway and real workers in this process; and what
its judges say of answers that never may be."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import strategies as st

from bench.fuzz import requests
from bench.fuzz.calls import NOBODY, Answer, Call, Caller, Door
from bench.fuzz.campaign import Attack, Campaign, batches
from bench.fuzz.ground import Places, attacks_on, callers, new_secret, opened
from bench.fuzz.judging import FuzzError, HangError, LeakError, Secret, StatusError, paths
from bench.fuzz.run import figures_of
from controller.serve import running
from controller.settings import MetricsSettings, Settings, WorkerEntry
from gateway import serve as gateway
from gateway.settings import GatewaySettings
from tests.worker.grpc_session import save_tiny_model, worker_and_channel
from tests.worker.tiny_worker import run

SECRET = Secret("abcdefghijklmnop")
GENERATE = "/speculation.v1.GenerationService/Generate"
SHOW = "/speculation.v1.RouterService/Show"
CALLER = Caller(metadata=(), calls=True)
JSON = {"content-type": "application/json"}


def test_a_slice_of_the_campaign_finds_nothing(tmp_path: Path) -> None:
    async def scenario() -> Campaign:
        model = save_tiny_model(tmp_path / "target")
        known, secret, campaign = callers(tmp_path / "tokens.yaml"), new_secret(), Campaign()
        async with AsyncExitStack() as stack:
            target, _ = await stack.enter_async_context(worker_and_channel("verify", model))
            drafter, _ = await stack.enter_async_context(worker_and_channel("draft", f"suffix:{model}"))
            settings = Settings(
                listen="127.0.0.1:0",
                tokenizer=str(model),
                tokens=tmp_path / "tokens.yaml",
                metrics=MetricsSettings(listen="127.0.0.1:0"),
                workers=(
                    WorkerEntry(role="verify", address=target.address),
                    WorkerEntry(role="draft", address=drafter.address),
                ),
            )
            controller = await stack.enter_async_context(running(settings))
            hurried: Any = {"headers_within_s": 0.5, "body_within_s": 0.5, "idle_s": 1}
            http = await stack.enter_async_context(
                gateway.running(GatewaySettings(controller=controller.address, listen="127.0.0.1:0", **hurried))
            )
            places = Places(
                controller=controller.address,
                workers={"target": target.address, "suffix": drafter.address},
                gateway=http,
                metrics=controller.metrics_address,
            )

            def attack() -> None:
                with opened(places, known) as doors:
                    attacks = attacks_on(places, doors, known, secret)
                    for number, (way, count) in enumerate(batches(attacks, 220)):
                        campaign.carry_out(way, count, seed=number, look=lambda: None)

            await asyncio.to_thread(attack)
        return campaign

    campaign = run(scenario())

    assert not campaign.failures, "\n".join(str(failure) for failure in campaign.failures.values())
    assert campaign.asked.total() >= 220
    statuses = {status for _, status in campaign.answered}
    assert {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "200", "400", "401"} <= statuses


def answer(code: grpc.StatusCode, *messages: bytes, details: str = "") -> Answer:
    return Answer(code, details, messages, (), 0.1)


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    """Nobody is behind it: judges need none."""
    closed = Door("127.0.0.1:1", callers=[NOBODY], operator=NOBODY)
    yield closed
    closed.close()


@pytest.mark.parametrize(
    ("caller", "method", "given", "error"),
    [
        pytest.param(CALLER, GENERATE, answer(grpc.StatusCode.UNKNOWN), StatusError, id="no status"),
        pytest.param(CALLER, GENERATE, answer(grpc.StatusCode.INTERNAL), StatusError, id="our fault"),
        pytest.param(CALLER, GENERATE, answer(grpc.StatusCode.UNAVAILABLE), StatusError, id="lost"),
        pytest.param(CALLER, GENERATE, answer(grpc.StatusCode.DEADLINE_EXCEEDED), HangError, id="too late"),
        pytest.param(NOBODY, GENERATE, answer(grpc.StatusCode.OK), LeakError, id="let in"),
        pytest.param(CALLER, SHOW, answer(grpc.StatusCode.OK), LeakError, id="no operator"),
        pytest.param(
            CALLER, SHOW, answer(grpc.StatusCode.NOT_FOUND, details="no 'cdefghijkl'"), LeakError, id="in an error"
        ),
    ],
)
def test_a_call_that_may_not_be_answered_so_is_a_failure(
    door: Door, caller: Caller, method: str, given: Answer, error: type[FuzzError]
) -> None:
    with pytest.raises(error):
        door.judge(SECRET, Call(method=method, messages=(), caller=caller), given)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        pytest.param(500, b"", StatusError, id="our fault"),
        pytest.param(400, b"Invalid HTTP request received.", StatusError, id="plain text"),
        pytest.param(200, b"{}", LeakError, id="let in"),
        pytest.param(200, b'"... efghijklmn ..."', LeakError, id="a text"),
        pytest.param(200, b'{"logprob": NaN}', StatusError, id="no JSON"),
        pytest.param(0, b"", StatusError, id="no answer"),
    ],
)
def test_an_answer_over_http_that_may_not_be_is_a_failure(status: int, body: bytes, error: type[FuzzError]) -> None:
    with pytest.raises(error):
        requests.judge(SECRET, requests.good({}, NOBODY), requests.Answer(status, JSON, body, 0.1))


def test_a_secret_is_heard_in_pieces_of_a_tree() -> None:
    said = list(paths([0, 1, 2, 2], ["abcd", "efgh", "ijkl", "x"]))

    assert said == ["abcd", "abcdefgh", "abcdefghijkl", "abcdefghx"]
    with pytest.raises(LeakError):
        SECRET.require_absent(said)
    SECRET.require_absent(["abcd", "efgh", "ijklmno"])


def test_failures_are_counted_and_the_shortest_request_is_kept() -> None:
    campaign = Campaign()

    def judge(asked: int, answered: Any) -> None:
        if asked > 5:
            raise HangError("too large")

    class Answered:
        status = 200

    def look() -> None:
        raise StatusError("not as before")

    attack = Attack(name="numbers", share=1.0, requests=st.integers(0, 9_999), ask=lambda _: Answered, judge=judge)
    campaign.carry_out(attack, 50, seed=1, look=look)
    figures = {figure.name: figure.value for figure in figures_of(campaign)}

    assert campaign.asked == {"numbers": 50}
    assert {failure.problem for failure in campaign.failures.values()} == {"too large", "not as before"}
    assert figures["fuzz.hangs"] + figures["fuzz.statuses"] == figures["fuzz.failures"] == campaign.failed > 2
    assert figures["fuzz.statuses"] == 1
    assert len(campaign.failures["numbers", "too large"].request) <= 4
