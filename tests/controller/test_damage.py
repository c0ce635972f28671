"""Replies that are damaged, or about something else: they cost time, and are believed by nobody."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TypeVar

import grpc
import pytest
from redis.asyncio import Redis

from bench.faults.lines import Proxy, RedisProxy, WorkerProxy
from controller.embedded_redis import embedded_redis
from controller.event_log import EventLog
from controller.fleet import WorkerFleet
from controller.registry import Registry
from controller.sequence import Sequence
from controller.worker_client import Opening, Role, VerifyStream, WorkerClient
from speculation.errors import WorkerUnavailableError
from speculation.prefix import EMPTY_PREFIX, extend_hash
from speculation.sampling import SamplingParameters
from speculation.tree import chain
from speculation.v1 import verify_pb2
from tests import fakes
from tests.controller.house import IDENTITY, QUICK_FLEET, VERIFY, eventually, fleet_of, run

PROMPT = [5, 6, 7]
OPENING = Opening(session_id="s", sampling=SamplingParameters(), prompt_length=len(PROMPT))
SomeProxy = TypeVar("SomeProxy", bound=Proxy)
Damage = Callable[[verify_pb2.Verdict], None]


def _other_token(verdict: verify_pb2.Verdict) -> None:
    verdict.token_ids[-1] = (verdict.token_ids[-1] + 1) % fakes.VOCAB_SIZE


def _other_text(verdict: verify_pb2.Verdict) -> None:
    verdict.prefix_hash = extend_hash(EMPTY_PREFIX, (1, 2, *verdict.token_ids))


def _no_hash(verdict: verify_pb2.Verdict) -> None:
    verdict.ClearField("prefix_hash")


def _no_token(verdict: verify_pb2.Verdict) -> None:
    del verdict.token_ids[:]


def _accepts_what_is_not_there(verdict: verify_pb2.Verdict) -> None:
    verdict.accepted.append(200)


def _goes_on_unasked(verdict: verify_pb2.Verdict) -> None:
    verdict.token_ids.append(1)
    verdict.logprobs.append(-0.5)
    verdict.top_logprobs.add(token_ids=[1], logprobs=[-0.5])
    verdict.prefix_hash = extend_hash(EMPTY_PREFIX, (*PROMPT, *verdict.token_ids))


def _one_logprob_too_few(verdict: verify_pb2.Verdict) -> None:
    del verdict.logprobs[-1]


def _no_number(verdict: verify_pb2.Verdict) -> None:
    verdict.node_probs[0] = float("nan")


def _one_alternative_without_logprob(verdict: verify_pb2.Verdict) -> None:
    del verdict.top_logprobs[0].logprobs[:]


@pytest.mark.parametrize(
    "damage",
    [
        _other_token,
        _other_text,
        _no_hash,
        _no_token,
        _accepts_what_is_not_there,
        _goes_on_unasked,
        _one_logprob_too_few,
        _no_number,
        _one_alternative_without_logprob,
    ],
)
def test_a_verdict_that_cannot_be_one_is_that_of_a_lost_worker(damage: Damage, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = fakes.FakeVerify.work

    def judge_wrongly(self: fakes.FakeVerify, session: fakes.FakeSession, body: object, reply: object) -> None:
        judge(self, session, body, reply)  # type: ignore[arg-type]
        damage(reply.verdict)  # type: ignore[attr-defined]

    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], _session(target.address) as stream:
            monkeypatch.setattr(fakes.FakeVerify, "work", judge_wrongly)
            sequence = Sequence(PROMPT, max_new_tokens=9)

            with pytest.raises(WorkerUnavailableError, match="verdict that"):
                await stream.verify(sequence, chain([3, 4]), round_number=1)

    run(scenario())


def test_a_verdict_as_it_should_be_is_believed() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], _session(target.address) as stream:
            truth = fakes.Language().continuation(PROMPT, 3)

            verdict = await stream.verify(Sequence(PROMPT, max_new_tokens=9), chain(truth[:2]), round_number=1)

            assert list(verdict.token_ids) == truth

    run(scenario())


def test_a_run_is_believed_as_far_as_it_was_asked_for() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], _session(target.address) as stream:
            sequence = Sequence(PROMPT, max_new_tokens=20)
            truth = fakes.Language().continuation(PROMPT, 12)

            first = await stream.verify(sequence, chain(truth[:2]), run=4, round_number=1)
            sequence.extend(first.token_ids)
            second = await stream.verify(sequence, chain([]), run=4, round_number=2)

            assert [first.num_run, second.num_run] == [4, 4]
            assert [*first.token_ids, *second.token_ids] == truth

    run(scenario())


@asynccontextmanager
async def _session(address: str) -> AsyncIterator[VerifyStream]:
    client = WorkerClient(address, Role.VERIFY)
    try:
        yield client.open_verify(OPENING, timeout_s=20)
    finally:
        await client.close()


@asynccontextmanager
async def _before(proxy: SomeProxy) -> AsyncIterator[SomeProxy]:
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()


def test_the_log_and_the_registry_outlive_replies_that_are_none(tmp_path: Path) -> None:
    """Whatever redis-py makes of them: a loop that ended would be missed when its records are."""

    async def scenario() -> None:
        async with (
            embedded_redis(f"embedded://{tmp_path}/r") as near,
            _before(RedisProxy("redis", near.removeprefix("unix://"))) as proxy,
            Redis.from_url(near) as redis,
        ):
            proxy.rng = Random(3)
            log = EventLog(f"redis://{proxy.address}", namespace="ns", most_entries=1000)
            fleet = WorkerFleet(IDENTITY, QUICK_FLEET)
            registry = Registry(f"redis://{proxy.address}", namespace="ns", fleet=fleet, configured=())
            loops = [asyncio.create_task(log.run()), asyncio.create_task(registry.run())]
            for number in range(20):
                for connection in proxy.connections:
                    connection.corrupts = 3
                log.append("rounds", b"%d" % number)
                await asyncio.sleep(0.05)

            for connection in proxy.connections:
                connection.corrupts = 0
            await eventually(lambda: not log.waiting, within_s=20)

            assert not any(loop.done() for loop in loops)
            kept = {fields[b"record"] for _, fields in await redis.xrange("forerun:ns:rounds")}
            assert kept == {b"%d" % number for number in range(20)}
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    run(scenario())


def test_a_connection_on_which_nothing_is_heard_is_followed_by_another() -> None:
    """As where a firewall forgot it: TCP tells nobody, and gRPC would wait for half a minute."""

    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], _before(WorkerProxy("t", target.address, "verify")) as proxy:
            client = WorkerClient(proxy.address, Role.VERIFY)
            await client.check(5.0)
            proxy.swallow()
            with pytest.raises(WorkerUnavailableError):
                await client.check(0.3)

            await client.check(5.0)

            assert any(not connection.swallows for connection in proxy.connections)
            await client.close()

    run(scenario())


def test_a_worker_whose_answers_are_no_messages_is_lost_and_not_more() -> None:
    async def damaged(request: object, context: object) -> bytes:
        return b"\xff"

    async def scenario() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(damaged)
        for service, method in (("grpc.health.v1.Health", "Check"), ("speculation.v1.VerifyService", "Describe")):
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        client = WorkerClient(address, Role.VERIFY)
        for ask in (client.check, client.describe):
            with pytest.raises(WorkerUnavailableError, match="no message"):
                await ask(5.0)

        await client.close()
        await server.stop(None)

    run(scenario())


def test_whatever_an_examination_ends_with_another_one_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that nobody examined any more would stay as it was last seen, with its connection closed."""
    check, failures = WorkerClient.check, [RuntimeError("nobody has thought of this")] * 2

    async def check_or_fail(self: WorkerClient, timeout_s: float) -> None:
        if failures:
            raise failures.pop()
        await check(self, timeout_s)

    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], fleet_of(target) as fleet:
            await eventually(lambda: fleet.serves)
            monkeypatch.setattr(WorkerClient, "check", check_or_fail)
            await eventually(lambda: not failures)
            await eventually(lambda: fleet.serves)

    run(scenario())
