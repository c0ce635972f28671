"""The learner lives beside its controller, is born again when it dies, and ends with it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from controller import learner_process
from controller.learner_process import LearnerProcess, Lessons
from controller.settings import RedisSettings
from controller.snapshot import Keys, read_snapshot
from router_models.plan import CHAIN_OF_4
from speculation.v1 import router_pb2
from tests.controller.house import DRAFT, VERIFY, eventually, house, plain, run
from tests.controller.shared import NAMESPACE, Commons, commons

KEYS = Keys(NAMESPACE, "planner")

ORPHANING = """
import asyncio, sys
from controller.learner_process import LearnerProcess, Lessons

async def main():
    learner = LearnerProcess(Lessons.from_json(sys.argv[1].encode()))
    await learner.step()
    print(learner.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def lessons(url: str, *, lease_s: float = 3.0) -> Lessons:
    return Lessons(
        url=url,
        namespace=NAMESPACE,
        policy="planner",
        shape=CHAIN_OF_4,
        drafter=None,
        interval_s=0.02,
        lease_s=lease_s,
    )


async def comes(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(20):
        while not await true():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)


async def folded(common: Commons) -> int:
    snapshot = await read_snapshot(common.redis, KEYS)
    return snapshot.folded if snapshot is not None else 0


async def has_folded(common: Commons, count: int) -> bool:
    return await folded(common) >= count


async def is_another(learner: LearnerProcess, pid: int) -> bool:
    """Whether a new one has been born."""
    await learner.step()
    return learner.pid not in (None, pid)


async def is_no_longer(learner: LearnerProcess) -> bool:
    """Whether its death was noticed."""
    return not await learner.step() and learner.pid is None


def test_lessons_are_told_in_one_line() -> None:
    told = lessons("unix:///a")
    assert Lessons.from_json(told.to_json()) == told
    assert told.to_json().count(b"\n") == 1


def test_it_learns_and_is_born_again_and_every_record_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_process, "RESTART_PAUSE_S", 0.0)

    async def scenario() -> None:
        async with commons(tmp_path) as common:
            learner = LearnerProcess(lessons(common.url, lease_s=0.5))
            await comes(learner.step)
            await common.write("mine", range(40))
            await comes(lambda: has_folded(common, 40))

            assert learner.pid is not None
            first = psutil.Process(learner.pid)
            first.kill()
            await comes(lambda: is_another(learner, first.pid))
            await comes(learner.step)
            await common.write("mine", range(40, 60))

            await comes(lambda: has_folded(common, 60))
            await learner.close()
            assert await folded(common) == 60

    run(scenario(), within_s=60)


def test_one_that_dies_at_once_is_not_started_at_once_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            learner = LearnerProcess(lessons(common.url))
            await learner.step()
            assert learner.pid is not None
            psutil.Process(learner.pid).kill()
            await comes(lambda: is_no_longer(learner))

            assert not await learner.step()
            assert learner.pid is None

    run(scenario())


def test_its_end_gives_the_lease_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            learner = LearnerProcess(lessons(common.url, lease_s=60.0))
            await comes(learner.step)
            assert await common.redis.exists(KEYS.lease)
            born = psutil.Process(learner.pid)

            await learner.close()

            assert not await common.redis.exists(KEYS.lease)
            assert not born.is_running()

    run(scenario(), within_s=60)


def test_it_ends_when_its_controller_is_killed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            command = (sys.executable, "-P", "-c", ORPHANING, lessons(common.url).to_json().decode())
            controller = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
            assert controller.stdout is not None
            orphan = psutil.Process(int(await controller.stdout.readline()))
            controller.kill()
            await controller.wait()

            await eventually(lambda: not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE)

    run(scenario(), within_s=60)


def test_a_controller_serves_by_what_it_learnt(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = RedisSettings(url=f"embedded://{tmp_path}/r", namespace=NAMESPACE)
        async with house(VERIFY, DRAFT, policy="planner", redis=settings) as home:
            answer = await home.answer()
            rounds = len(answer.summary.acceptance.per_step_drafted)

            async def served() -> bool:
                shown = (await home.router.Show(router_pb2.ShowRequest())).learning
                return (shown.leads, shown.follows, shown.folded) == (True, True, rounds)

            await comes(served)
            assert answer.token_ids == plain()

    run(scenario(), within_s=60)
