"""The decision log counts what it cannot keep, and nothing ever waits for it."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from redis.asyncio import Redis

from controller.embedded_redis import embedded_redis
from controller.event_log import EventLog
from controller.settings import PrivacySettings, RedisSettings
from speculation.v1 import log_pb2, router_pb2
from tests.controller.house import DRAFT, PROMPT, VERIFY, eventually, house, plain, run


def test_records_reach_their_streams_in_order(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            log = EventLog(url, namespace="ns", most_entries=1000)
            writing = asyncio.create_task(log.run())
            for number in range(700):
                log.append("rounds" if number % 2 else "decisions", b"%d" % number)

            await eventually(lambda: log.written == 700)

            entries = await redis.xrange("forerun:ns:rounds")
            assert [fields[b"record"] for _, fields in entries] == [b"%d" % number for number in range(1, 700, 2)]
            assert log.connected
            assert log.dropped == 0
            await ended(writing)

    run(scenario())


def test_what_is_lost_while_redis_is_down_is_counted_and_the_count_is_logged(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = EventLog(f"unix://{tmp_path}/r/redis.sock", namespace="ns", most_entries=1000, most_waiting=10)
        writing = asyncio.create_task(log.run())
        for number in range(25):
            log.append("rounds", b"%d" % number)
        await asyncio.sleep(0.2)
        assert (log.connected, log.written, log.dropped) == (False, 0, 15)

        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            await eventually(lambda: log.written == 10)
            log.append("rounds", b"later")
            await eventually(lambda: log.written == 11)

            entries = [fields for _, fields in await redis.xrange("forerun:ns:rounds")]
            assert [fields[b"record"] for fields in entries] == [*(b"%d" % number for number in range(10)), b"later"]
            assert [fields.get(b"dropped") for fields in entries] == [b"15", *[None] * 10]
            assert log.connected
            await ended(writing)

    run(scenario())


def test_what_waits_is_written_before_the_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            log = EventLog(url, namespace="ns", most_entries=1000)
            writing = asyncio.create_task(log.run())
            await asyncio.sleep(0)
            log.append("outcomes", b"last words")

            await ended(writing)

            assert await redis.xlen("forerun:ns:outcomes") == 1

    run(scenario())


def test_streams_are_kept_short(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            log = EventLog(url, namespace="ns", most_entries=100)
            writing = asyncio.create_task(log.run())
            for _ in range(2000):
                log.append("rounds", b"x")
            await eventually(lambda: log.written == 2000)

            assert 100 <= await redis.xlen("forerun:ns:rounds") < 400
            await ended(writing)

    run(scenario())


async def leave_room(redis: Redis, size: int) -> None:
    """Let Redis take so many bytes more, and no others."""
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used + size)


def test_a_log_in_a_redis_of_its_own_never_fills_it(tmp_path: Path) -> None:
    """However large its entries are: the newest is always there, and others can go on writing."""

    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            await leave_room(redis, 3_000_000)
            log = EventLog(url, namespace="ns", most_entries=1_000_000, may_make_room=True)
            writing = asyncio.create_task(log.run())
            for number in range(2000):
                log.append("rounds" if number % 2 else "outcomes", b"%4000d" % number)
            await eventually(lambda: log.written == 2000)

            assert log.dropped == 0
            for stream, number in (("outcomes", 1998), ("rounds", 1999)):
                ((_, newest),) = await redis.xrevrange(f"forerun:ns:{stream}", count=1)
                assert int(newest[b"record"]) == number
                assert 50 < await redis.xlen(f"forerun:ns:{stream}") < 1000
            log.append("rounds", b"one more")
            await eventually(lambda: log.written == 2001)
            await ended(writing)

    run(scenario())


def test_a_log_gives_nothing_up_for_others_who_fill_redis(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            log = EventLog(url, namespace="ns", most_entries=1000)
            writing = asyncio.create_task(log.run())
            log.append("rounds", b"kept")
            await eventually(lambda: log.written == 1)

            await redis.config_set("maxmemory", 1)  # less than it has: its own buffers shrink, and would leave room
            log.append("rounds", b"too much")
            await eventually(lambda: not log.connected)
            assert await redis.xlen("forerun:ns:rounds") == 1

            await leave_room(redis, 1_000_000)
            await eventually(lambda: log.written == 2)
            await ended(writing)

    run(scenario())


def test_a_password_is_not_shown() -> None:
    async def scenario() -> None:
        assert EventLog("redis://me:secret@host:1/0", namespace="n", most_entries=1).url == "redis://host:1/0"

    run(scenario())


def test_a_request_leaves_its_decision_its_rounds_and_its_outcome(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            redis_settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace="ns")
            more = {"privacy": PrivacySettings(log_tokens_of=("us",))}
            home = await stack.enter_async_context(house(VERIFY, DRAFT, redis=redis_settings, more=more))
            redis = await stack.enter_async_context(Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")))
            answer = await home.answer(request_id="mine", task="code", tenant="us")
            await eventually_logged(redis)

            decisions = [log_pb2.DecisionRecord.FromString(r) for r in await records(redis, "decisions")]
            rounds = [log_pb2.RoundRecord.FromString(r) for r in await records(redis, "rounds")]
            (outcome,) = [log_pb2.OutcomeRecord.FromString(r) for r in await records(redis, "outcomes")]

            assert decisions[0].mode == log_pb2.DECISION_MODE_ONLINE
            assert (decisions[0].task, decisions[0].tenant) == ("code", "us")
            assert list(decisions[0].eligible_drafters) == ["alpha"]
            assert decisions[0].config_hash
            assert {record.decision_event_id for record in rounds} == {record.event_id for record in decisions}
            assert [token for record in rounds for token in record.token_ids][:40] == plain()
            assert sum(record.tokens_emitted for record in rounds) == 40
            assert all(len(record.node_probs) == record.num_draft_tokens for record in rounds)
            assert {record.verify_address for record in rounds} == {home.workers[0].address}
            for record in rounds:
                exchanges = [(one.drafter, one.address) for one in record.exchanges]
                asked = [name for name in record.drafters if name not in record.foreseen_drafters]
                assert exchanges == [(name, home.workers[1].address) for name in asked]
                assert all(one.elapsed_ns == record.timings.draft_ns for one in record.exchanges)
            assert outcome.status == log_pb2.OUTCOME_STATUS_OK
            assert list(outcome.token_ids) == plain()
            assert outcome.acceptance == answer.summary.acceptance

    run(scenario())


def test_what_workers_had_to_be_told_again_is_counted_round_by_round(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            redis_settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace="ns")
            home = await stack.enter_async_context(house(VERIFY, DRAFT, redis=redis_settings))
            redis = await stack.enter_async_context(Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")))

            await home.answer(speculation={"off": True})
            await eventually_logged(redis)
            assert [log_pb2.RoundRecord.FromString(r).retold_tokens for r in await records(redis, "rounds")] == [0] * 40

            await redis.delete("forerun:ns:rounds", "forerun:ns:outcomes")
            home.workers[0].worker.faults.forget = 4
            await home.answer(speculation={"off": True})
            await eventually_logged(redis)
            retold = [log_pb2.RoundRecord.FromString(r).retold_tokens for r in await records(redis, "rounds")]
            assert retold == sorted(retold)
            assert retold[-1] >= len(PROMPT) - 1  # the last one belongs to the first verdict

    run(scenario())


def test_a_request_does_not_notice_that_redis_is_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        gone = RedisSettings(url=f"unix://{tmp_path}/nobody.sock")
        async with house(VERIFY, DRAFT, redis=gone) as home:
            answer = await home.answer()
            shown = await home.router.Show(router_pb2.ShowRequest())

            assert answer.token_ids == plain()
            assert not shown.log.connected

    run(scenario())


async def records(redis: Redis, stream: str) -> list[bytes]:
    return [fields[b"record"] for _, fields in await redis.xrange(f"forerun:ns:{stream}")]


async def eventually_logged(redis: Redis) -> None:
    """Wait for the outcome, which is written last."""
    async with asyncio.timeout(10):
        while not await redis.xlen("forerun:ns:outcomes"):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
