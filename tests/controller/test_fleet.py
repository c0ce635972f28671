"""Who belongs to the fleet, who can be asked, and who is asked first."""

import asyncio
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from controller.embedded_redis import embedded_redis
from controller.fleet import WorkerFleet
from controller.outliers import EXCHANGES
from controller.registry import Registry
from controller.roster import Health
from controller.sequence import Sequence
from controller.worker_client import Opening, Role
from speculation.errors import WorkerUnavailableError
from speculation.profile import ForwardProfile
from speculation.sampling import SamplingParameters
from speculation.v1 import common_pb2
from tests import fakes
from tests.controller.house import DRAFT, IDENTITY, QUICK_FLEET, VERIFY, eventually, fleet_of, run, until
from tests.fakes import description

OPENING = Opening(session_id="s", sampling=SamplingParameters(), prompt_length=1)


def examined(fleet: WorkerFleet) -> bool:
    return all("has not answered" not in worker.problem for worker in fleet.workers)


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        pytest.param(description("draft", "a", fingerprint="0" * 64), "would mean other words", id="another tokenizer"),
        pytest.param(description("draft", "a", vocab_size=90), "knows 90 tokens", id="a vocabulary too small"),
        pytest.param(description(revision="r2"), "model revision r2 is not r1", id="another target"),
        pytest.param(
            description("draft", "a", profile=common_pb2.ForwardProfile(node_ms=-1.0)),
            "forward_profile.node_ms: -1.0 is not a length of time",
            id="a profile of no times",
        ),
    ],
)
def test_who_does_not_belong_is_refused_with_the_reason(second: common_pb2.DescribeResponse, problem: str) -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], fleet_of(target) as fleet:
            await until(fleet, lambda fleet: fleet.serves)
            async with fakes.workers(second) as [stranger]:
                role = Role.DRAFT if second.role == common_pb2.WORKER_ROLE_DRAFT else Role.VERIFY
                fleet.list_workers([(target.address, Role.VERIFY), (stranger.address, role)])
                await until(fleet, examined)

                refused = fleet.workers[1]
                assert refused.health is Health.REFUSED
                assert problem in refused.problem
                assert fleet.drafter_names == ()
                assert (await fleet.verifier(None)).address == target.address

    run(scenario())


def test_what_workers_measured_at_their_start_is_known_of_those_that_serve() -> None:
    quick, slow = common_pb2.ForwardProfile(forward_ms=1.0), common_pb2.ForwardProfile(forward_ms=40.0, node_ms=2.0)

    async def scenario() -> None:
        told = (description(profile=slow), description("draft", "a", profile=quick), description("draft", "b"))
        async with fakes.workers(*told) as workers, fleet_of(*workers) as fleet:
            await until(fleet, lambda fleet: fleet.serves and len(fleet.drafter_names) == 2)

            assert fleet.target_profile == ForwardProfile(forward_ms=40.0, node_ms=2.0, prompt_token_ms=0.0)
            assert fleet.drafter_profiles == {"a": ForwardProfile(forward_ms=1.0, node_ms=0.0, prompt_token_ms=0.0)}

    run(scenario())


def test_a_model_with_padding_tokens_is_welcome() -> None:
    async def scenario() -> None:
        async with fakes.workers(description(vocab_size=128)) as [target], fleet_of(target) as fleet:
            await until(fleet, lambda fleet: fleet.serves)

    run(scenario())


def test_a_worker_listed_with_the_wrong_role_does_not_serve() -> None:
    async def scenario() -> None:
        async with fakes.workers(DRAFT) as [drafter]:
            fleet = WorkerFleet(IDENTITY, QUICK_FLEET)
            fleet.list_workers([(drafter.address, Role.VERIFY)])
            watching = asyncio.create_task(fleet.run())
            await until(fleet, examined)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

            assert not fleet.serves

    run(scenario())


def test_the_least_loaded_worker_is_asked_first() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, VERIFY, VERIFY) as started, fleet_of(*started) as fleet:
            await until(fleet, lambda fleet: all(worker.serving for worker in fleet.workers))

            chosen = []
            for _ in range(6):
                worker = await fleet.verifier(None)
                chosen.append(worker.address)
                worker.open_verify(OPENING, timeout_s=5)

            assert sorted(chosen) == sorted(2 * [worker.address for worker in started])

    run(scenario())


def test_a_failed_worker_is_tried_again_and_later_each_time() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], fleet_of(target) as fleet:
            await until(fleet, lambda fleet: fleet.serves)
            (worker,) = fleet.workers
            pauses = []
            for _ in range(3):
                worker.eject("failed")
                began = time.monotonic()
                assert not fleet.serves
                await until(fleet, lambda fleet: fleet.serves)
                pauses.append(time.monotonic() - began)

            assert pauses[0] >= 0.2
            assert pauses[1] >= 0.4
            assert pauses[2] >= 0.8
            for _ in range(EXCHANGES):
                assert worker.failures == 3
                fleet.worked(worker, 0.01)
            assert worker.failures == worker.on_probation == 0

    run(scenario())


def test_a_frozen_worker_is_noticed_and_its_streams_end() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], fleet_of(target) as fleet:
            await until(fleet, lambda fleet: fleet.serves)
            (worker,) = fleet.workers
            stream = worker.open_verify(OPENING, timeout_s=20)
            target.worker.faults.frozen = True
            with pytest.raises(WorkerUnavailableError, match="Deadline"):
                await stream.tell(Sequence([1, 2, 3], max_new_tokens=5), 2)

            assert worker.health is Health.NOT_SERVING
            target.worker.faults.frozen = False
            await until(fleet, lambda fleet: fleet.serves)

    run(scenario())


def test_a_worker_that_says_it_stops_gets_nothing_new_and_keeps_what_it_has() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], fleet_of(target) as fleet:
            await until(fleet, lambda fleet: fleet.serves)
            (worker,) = fleet.workers
            stream = worker.open_verify(OPENING, timeout_s=20)

            target.health.serving = False
            await until(fleet, lambda fleet: not fleet.serves)

            await stream.tell(Sequence([1, 2, 3], max_new_tokens=5), 2)

    run(scenario())


def test_cancelling_a_task_is_not_mistaken_for_a_lost_worker() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY) as [target], fleet_of(target) as fleet:
            await until(fleet, lambda fleet: fleet.serves)
            target.worker.faults.delay_s = 5
            stream = fleet.workers[0].open_verify(OPENING, timeout_s=20)
            waiting = asyncio.create_task(stream.tell(Sequence([1, 2], max_new_tokens=5), 1))
            await eventually(lambda: bool(target.worker.sessions))

            waiting.cancel()

            with pytest.raises(asyncio.CancelledError):
                await waiting
            await eventually(lambda: not target.worker.sessions, within_s=1)

    run(scenario())


def test_workers_that_announce_themselves_join_and_those_that_fall_silent_leave(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, fakes.workers(VERIFY, DRAFT) as started:
            redis = Redis.from_url(url)
            now = 1_000_000.0
            fleet = WorkerFleet(IDENTITY, QUICK_FLEET)
            fleet.list_workers([])
            registry = Registry(url, namespace="ns", fleet=fleet, configured=(), now=lambda: now)
            for worker in started:
                entry = common_pb2.WorkerRegistration(
                    address=worker.address,
                    worker=worker.worker.description,
                    heartbeat_ms=7,
                    ttl_ms=5000,
                )
                await redis.hset("forerun:ns:workers", worker.address, entry.SerializeToString())
            await redis.hset("forerun:ns:workers", "junk", b"\xff\xff")

            await registry.look()
            joined = {(worker.address, worker.role) for worker in fleet.workers}
            now += 6
            await registry.look()

            assert joined == {(started[0].address, Role.VERIFY), (started[1].address, Role.DRAFT)}
            assert fleet.workers == ()
            await redis.aclose()
            await registry.close()

    run(scenario())


def test_what_time_it_is_for_a_worker_does_not_matter(tmp_path: Path) -> None:
    """An hour ago, an hour to come, and back again: it is there for as long as it renews its entry."""

    async def scenario() -> None:
        async with embedded_redis(f"embedded://{tmp_path}/r") as url, Redis.from_url(url) as redis:
            now = 0.0
            fleet = WorkerFleet(IDENTITY, QUICK_FLEET)
            registry = Registry(url, namespace="ns", fleet=fleet, configured=(), now=lambda: now)
            listed = []
            for heartbeat_ms in (1, 7_200_000, 3_600_000, 2):
                entry = common_pb2.WorkerRegistration(
                    address="127.0.0.1:9", worker=VERIFY, heartbeat_ms=heartbeat_ms, ttl_ms=5000
                )
                await redis.hset("forerun:ns:workers", "127.0.0.1:9", entry.SerializeToString())
                await registry.look()
                listed.append([worker.address for worker in fleet.workers])
                now += 4

            assert listed == [["127.0.0.1:9"]] * 4
            await registry.close()

    run(scenario())
