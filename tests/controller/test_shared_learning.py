"""What all controllers see is learnt once, by one of them, and served by all."""

import asyncio
import contextlib
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis.asyncio import Redis

from controller import learner, serve
from controller.event_log import EventLog
from controller.learner import Learner
from controller.model_store import ModelStore, Origin
from controller.settings import RedisSettings
from controller.shared_learning import learner_named, policy_to_share
from controller.snapshot import Keys, Snapshot, read_snapshot, shared_key
from controller.tasks import owned_tasks
from router_models.catalogue import all_policies
from router_models.model_state import ModelState
from router_models.policy import LearningPolicy
from speculation.errors import ConflictError
from speculation.v1 import generation_pb2, router_pb2
from tests.controller.house import DRAFT, VERIFY, House, eventually, house, plain, run
from tests.controller.shared import (
    FULL,
    NAMESPACE,
    ROUNDS,
    SCORES,
    Commons,
    commons,
    counted,
    record,
    score,
    sharing,
    stepped,
    times,
)
from tests.learners import CountingPolicy

KEYS = Keys(NAMESPACE, "counting")

SHARER = """
import asyncio, sys
from tests.controller.shared import sharing

async def main():
    learning = sharing(sys.argv[1], interval_s=0.01, lease_s=1.0)
    lease = learning._learner._lease
    working = asyncio.create_task(learning.run())
    told = 0
    while not working.done():
        if lease.epoch > told:
            told = lease.epoch
            print(told, flush=True)
        await asyncio.sleep(0.01)

asyncio.run(main())
"""
"""A process that learns and follows, and says which leases it holds."""


def test_one_learns_and_all_serve_by_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one, common.controller() as other:
            await common.write("mine", range(300))

            await one.step()
            await other.step()

            assert (one.leads, other.leads) == (True, False)
            assert counted(one) == counted(other) == times(("mine", range(300)))
            assert one.policy.state().to_bytes() == other.policy.state().to_bytes()

    run(scenario())


def test_what_is_shared_is_not_learnt_a_second_time_by_who_served_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            assert one.policy.learns_across_requests

            await one.step()

            assert not one.policy.learns_across_requests

    run(scenario())


def test_a_restart_resumes_what_was_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the snapshot: the log alone, as far as a new learner goes back in it, would not tell all."""
    monkeypatch.setattr(learner, "REMEMBERED_RECORDS", 2)

    async def scenario() -> None:
        async with commons(tmp_path) as common:
            await common.write("mine", range(5))
            async with common.controller() as before:
                await before.step()
            await common.write("mine", range(5, 9))
            async with common.controller() as after:
                await after.step()

                assert after.leads
                assert counted(after) == times(("mine", range(9)))
                assert after.snapshot is not None
                assert after.snapshot.folded == 9

    run(scenario())


def test_a_learner_that_lost_its_lease_unawares_writes_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as old, common.controller() as new:
            await common.write("mine", range(3))
            await old.step()
            await common.redis.delete(KEYS.lease)
            await new.step()
            await common.write("mine", range(3, 7))
            # The old one does not ask whether it still may: it reads, folds and writes.
            await common.redis.set(KEYS.lease, 1)
            await old.step()
            assert counted(old) == times(("mine", range(3)))

            await common.redis.delete(KEYS.lease)
            await stepped(new, lambda: counted(new) == times(("mine", range(7))))
            assert new.snapshot is not None
            assert new.snapshot.folded == 7

    run(scenario())


def test_a_record_that_was_written_twice_counts_once_even_across_learners(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            twice = record("mine", 1)
            async with common.controller() as before:
                await common.redis.xadd(ROUNDS, {"record": twice})
                await before.step()
            await common.redis.xadd(ROUNDS, {"record": twice})
            await common.redis.xadd(ROUNDS, {"record": record("mine", 2)})
            async with common.controller() as after:
                await after.step()

                assert counted(after) == times(("mine", (1, 2)))

    run(scenario())


def test_a_round_is_known_by_its_id_however_many_scores_came_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "REMEMBERED_RECORDS", 4)

    async def scenario() -> None:
        async with commons(tmp_path) as common:
            twice = record("mine", 1)
            async with common.controller() as before:
                await common.redis.xadd(ROUNDS, {"record": twice})
                for number in range(8):
                    await common.redis.xadd(SCORES, {"record": score("scored", str(number))})
                await before.step()
            await common.redis.xadd(ROUNDS, {"record": twice})
            async with common.controller() as after:
                await after.step()

                assert counted(after) == times(("mine", (1,)), ("scored", range(8)))

    run(scenario())


def test_what_cannot_be_read_is_passed_over_and_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            await common.redis.xadd(ROUNDS, {"record": b"\xff\xff"})
            await common.redis.xadd(ROUNDS, {"something": "else"})
            await common.write("mine", range(2))

            await one.step()

            assert counted(one) == times(("mine", range(2)))
            assert one.snapshot is not None
            assert (one.snapshot.folded, one.snapshot.unreadable) == (2, 2)

    run(scenario())


def test_what_was_trimmed_unread_is_counted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            await common.write("mine", range(10))
            await common.redis.xtrim(ROUNDS, maxlen=4, approximate=False)
            await one.step()
            assert one.snapshot is not None
            assert (one.snapshot.folded, one.snapshot.missed) == (4, 0), "nobody was there to learn them"

            await common.write("mine", range(10, 30))
            await common.redis.xtrim(ROUNDS, maxlen=7, approximate=False)
            await one.step()

            assert counted(one) == times(("mine", range(6, 10)), ("mine", range(23, 30)))
            assert (one.snapshot.folded, one.snapshot.missed) == (11, 13)

    run(scenario())


def test_without_redis_a_policy_learns_alone_and_later_takes_up_what_all_have_learnt(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            await common.write("mine", range(3))
            async with common.controller() as one:
                await one.step()
                down = sharing(f"unix://{tmp_path}/nobody.sock")
                await down.step()
                assert down.policy.learns_across_requests
                assert down.problem

                await common.redis.config_set("maxclients", 1)
                with contextlib.suppress(Exception):
                    await common.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                await one.step()
                assert one.policy.learns_across_requests
                one.policy.learn(FULL.context, FULL.plan, FULL.outcome)
                assert counted(one) != times(("mine", range(3)))

                await common.redis.config_set("maxclients", 100)
                await stepped(one, lambda: not one.problem)
                assert counted(one) == times(("mine", range(3)))
                assert not one.policy.learns_across_requests
                await down.close()

    run(scenario())


def test_a_snapshot_that_cannot_be_read_is_left_alone_until_a_promotion_replaces_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            await common.write("mine", range(3))
            alien = Snapshot.taken_now(ModelState(policy="of tomorrow").to_bytes(), {})
            await common.redis.hset(KEYS.snapshot, mapping=dict(alien.fields))

            await one.step()

            assert one.problem
            assert one.policy.learns_across_requests
            assert await read_snapshot(common.redis, KEYS) == alien

            good = await common.store().publish(CountingPolicy().state(), origin=Origin.RETRAINED)
            await common.store().promote(good.version, replacing=0)
            await stepped(one, lambda: not one.problem)
            assert not one.policy.learns_across_requests

    run(scenario())


def test_a_damaged_snapshot_is_noticed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common, common.controller() as one:
            await common.write("mine", range(3))
            await one.step()
            async with common.controller() as other:
                await common.redis.hset(KEYS.snapshot, "state", CountingPolicy().state().to_bytes())
                await other.step()

                assert "SHA-256" in other.problem

    run(scenario())


def test_the_death_of_learners_loses_nothing_and_counts_nothing_twice(tmp_path: Path) -> None:
    """Of three processes the one that leads is killed, twice, while rounds and scores keep coming."""

    async def scenario() -> None:
        async with commons(tmp_path) as common, sharers(common.url, 3) as leading, keep_writing(common.log) as written:
            for _ in range(2):
                await more_folded(common)
                await kill_leader(common, leading)
            await more_folded(common)
            written.stop.set()
            await eventually(lambda: common.log.written == 2 * written.rounds)
            async with common.controller() as witness:
                await stepped(witness, lambda: len(counted(witness)) >= 2 * written.rounds)

                expected = times(("mine", range(written.rounds)), ("scored", range(written.rounds)))
                assert counted(witness) == expected
                assert witness.snapshot is not None
                assert (witness.snapshot.folded, witness.snapshot.missed) == (2 * written.rounds, 0)
                assert written.rounds > 10

    run(scenario(), within_s=120)


@asynccontextmanager
async def sharers(url: str, count: int) -> AsyncIterator[dict[int, Process]]:
    """Processes that learn and follow, by the leases that they have held."""
    root = Path(__file__).parent.parent.parent
    leading: dict[int, Process] = {}
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", SHARER, url, cwd=root, stdout=subprocess.PIPE)
        for _ in range(count)
    ]

    async def listen(process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            leading[int(line)] = process

    async with owned_tasks() as spawn:
        for process in processes:
            spawn(listen(process))
        try:
            yield leading
        finally:
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


async def kill_leader(common: Commons, leading: dict[int, Process]) -> None:
    """Kill the process that holds the lease."""
    while True:
        process = leading.get(int(await common.redis.get(KEYS.lease) or 0))
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
            return
        await asyncio.sleep(0.01)


async def more_folded(common: Commons) -> None:
    """Wait for a snapshot that holds more than there was."""
    before = await folded(common)
    while await folded(common) <= before:  # noqa: ASYNC110 - other processes fold
        await asyncio.sleep(0.01)


async def folded(common: Commons) -> int:
    snapshot = await read_snapshot(common.redis, KEYS)
    return snapshot.folded if snapshot is not None else 0


@dataclass(slots=True)
class Written:
    """How many rounds were written so far, and whether that is enough."""

    rounds: int = 0
    stop: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def keep_writing(log: EventLog) -> AsyncIterator[Written]:
    """Rounds come in until told to stop, and with each somebody's scores."""
    written = Written()

    async def write() -> None:
        while not written.stop.is_set():
            log.append("rounds", record("mine", written.rounds))
            log.append("scores", score("scored", str(written.rounds)))
            written.rounds += 1
            await asyncio.sleep(0.01)

    async with owned_tasks() as spawn:
        spawn(write())
        yield written


def test_two_controllers_share_what_they_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests of one controller teach the policy of the other."""
    with_counting(monkeypatch)

    async def scenario() -> None:
        redis = RedisSettings(url=f"embedded://{tmp_path}/r", namespace=NAMESPACE)
        async with (
            house(VERIFY, DRAFT, policy="counting", redis=redis) as one,
            house(VERIFY, DRAFT, policy="counting", redis=redis) as other,
        ):
            await eventually(lambda: not shares(one).learns_across_requests)
            answer = await one.answer(request_id="mine")
            rounds = len(answer.summary.acceptance.per_step_drafted)

            await eventually(lambda: served(other) == times(("mine", range(rounds))))
            await eventually(lambda: served(one) == times(("mine", range(rounds))))
            shown = [(await home.router.Show(router_pb2.ShowRequest())).learning for home in (one, other)]

            assert answer.token_ids == plain()
            assert (shares(one).taught_in_request, shares(other).taught_in_request) == (rounds, 0)
            assert sorted(state.leads for state in shown) == [False, True]
            assert all(state.follows and state.folded == rounds and state.policy == "counting" for state in shown)

    run(scenario())


def test_promotion_and_rollback_disturb_no_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_counting(monkeypatch)

    async def scenario() -> None:
        settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace=NAMESPACE)
        async with (
            house(VERIFY, DRAFT, policy="counting", redis=settings) as home,
            Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")) as redis,
        ):
            store = ModelStore(redis, namespace=NAMESPACE, make_policy=CountingPolicy)
            version = (await store.publish(CountingPolicy().state(), origin=Origin.RETRAINED)).version
            await eventually(lambda: served(home) == {} and not shares(home).learns_across_requests)
            switched = asyncio.Event()

            async def ask() -> list[list[int]]:
                return [(await home.answer()).token_ids async for _ in until_set(switched)]

            async with owned_tasks() as spawn:
                asking = [spawn(ask()) for _ in range(3)]
                for _ in range(4):
                    await store.promote(version, replacing=(await store.history()).active)
                    await asyncio.sleep(0.1)
                    with contextlib.suppress(ConflictError):  # nothing had been learnt that could be brought back
                        await store.rollback(replacing=version)
                switched.set()
                answers = [answer for task in asking for answer in await task]

            assert answers == [plain()] * len(answers)
            assert len(answers) > 3

    run(scenario())


def test_a_policy_that_is_put_in_charge_later_is_shared_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was logged before is learnt as well; the policy before it learns for itself, and names no version."""
    with_counting(monkeypatch)

    async def scenario() -> None:
        settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace=NAMESPACE)
        async with (
            house(VERIFY, DRAFT, policy="planner", redis=settings) as home,
            Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")) as redis,
        ):
            planner = home.controller.steering.policies["planner"]
            assert isinstance(planner, LearningPolicy)
            await eventually(lambda: not planner.learns_across_requests)
            assert shares(home).learns_across_requests
            before = await home.answer(request_id="before")

            await home.router.SetPolicy(router_pb2.SetPolicyRequest(policy="counting"))

            rounds = len(before.summary.acceptance.per_step_drafted)
            await eventually(lambda: served(home) == times(("before", range(rounds))))
            # What it counted by itself may be as much already: it is shared when it no longer learns so.
            await eventually(lambda: planner.learns_across_requests and not shares(home).learns_across_requests)
            assert await redis.get(shared_key(NAMESPACE)) == b"counting"

    run(scenario())


def test_a_decision_names_the_promoted_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_counting(monkeypatch)

    async def scenario() -> None:
        settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace=NAMESPACE)
        async with (
            house(VERIFY, DRAFT, policy="counting", redis=settings) as home,
            Redis(unix_socket_path=str(tmp_path / "r" / "redis.sock")) as redis,
        ):
            await eventually(lambda: not shares(home).learns_across_requests)
            assert (await home.answer()).summary.decision.model_version == ""
            store = ModelStore(redis, namespace=NAMESPACE, make_policy=CountingPolicy)
            version = (await store.publish(CountingPolicy().state(), origin=Origin.RETRAINED)).version

            await store.promote(version, replacing=0)

            steering = home.controller.steering
            await eventually(lambda: steering.model_version("counting") == str(version))
            assert steering.model_version("static") == ""
            assert (await home.answer()).summary.decision.model_version == str(version)
            other = await home.answer(speculation=generation_pb2.Speculation(policy="static"))
            assert other.summary.decision.model_version == ""

    run(scenario())


def test_sharing_can_be_turned_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_counting(monkeypatch)

    async def scenario() -> None:
        redis = RedisSettings(url=f"embedded://{tmp_path}/r", namespace=NAMESPACE, shared_learning=False)
        async with house(VERIFY, DRAFT, policy="counting", redis=redis) as home:
            await home.answer(request_id="mine")
            shown = await home.router.Show(router_pb2.ShowRequest())

            assert served(home)
            assert shown.learning.policy == ""

    run(scenario())


async def until_set(event: asyncio.Event) -> AsyncIterator[None]:
    """Once, and again until an event has come."""
    yield
    while not event.is_set():
        yield


def with_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let controllers offer the policy that counts."""
    monkeypatch.setattr(serve, "all_policies", lambda **_: {"counting": CountingPolicy(), **all_policies()})
    monkeypatch.setattr(serve, "_learner_of", lambda *_: learner_in_this_process)
    monkeypatch.setattr("controller.settings.all_policies", lambda: {"counting": None, **all_policies()})


def learner_in_this_process(redis: Redis, keys: Keys) -> Learner:
    """Another process would not know the policy that counts."""
    return Learner(redis, keys, lambda: learner_named(keys.policy, serve.all_policies()), lease_s=3.0)


def shares(home: House) -> CountingPolicy:
    """A controller's serving policy."""
    policy = home.controller.steering.policies["counting"]
    assert isinstance(policy, CountingPolicy)
    return policy


def served(home: House) -> dict[str, int]:
    """What it has counted."""
    return dict(shares(home).times)


def test_the_policy_in_charge_is_shared_or_else_the_planner() -> None:
    counting, planner = CountingPolicy(), CountingPolicy()
    policies = {"none": all_policies()["none"], "counting": counting, "planner": planner}

    assert policy_to_share(policies, "counting") is counting
    assert policy_to_share(policies, "none") is planner
    assert policy_to_share({"none": policies["none"]}, "none") is None
