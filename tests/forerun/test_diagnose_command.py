"""`forerun diagnose` against a controller that runs and the log that it writes."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from controller.records import round_record
from controller.settings import RedisSettings
from forerun.client import (
    ConfigView,
    LearningView,
    LogView,
    RouterMode,
    RouterView,
    ScoringView,
    WorkerHealth,
    WorkerView,
)
from forerun.commands.diagnose import HELD_BACK
from forerun.decision_log import read_window
from forerun.state_notes import notes_in, notes_on
from speculation.errors import WorkerUnavailableError
from speculation.v1 import router_pb2
from tests.controller.house import DRAFT, ONE_PLACE, VERIFY, House, eventually, house, run
from tests.controller.shared import FULL, NAMESPACE, Commons, commons
from tests.forerun.test_command_line import forerun

FAR_S = 0.03

Diagnose = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]
"""Runs `forerun diagnose` with these arguments; exit status, standard output and standard error."""


@pytest.fixture
def diagnose(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Diagnose:
    async def call(*arguments: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(forerun, monkeypatch, "diagnose", *arguments)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def log_at(folder: Path) -> RedisSettings:
    return RedisSettings(url=f"embedded://{folder}/r", namespace="ns", shared_learning=False)


def test_a_long_way_to_a_drafter_is_found_with_its_price_and_its_remedy(diagnose: Diagnose, tmp_path: Path) -> None:
    async def scenario() -> None:
        # What is foreseen needs no link.
        async with house(VERIFY, DRAFT, redis=log_at(tmp_path), outcomes_ahead=0) as home:
            home.workers[1].worker.faults.delay_s = FAR_S
            for seed in range(2):
                await home.answer(max_new_tokens=150, sampling={"seed": seed}, task="code")
            await written(home, requests=2)
            target = ("--target", home.controller.address)
            status, line, _ = await diagnose("--json", *target)
            _, said, _ = await diagnose(*target)

            found = json.loads(line)
            first = found["findings"][0]
            assert status == HELD_BACK
            assert (found["verdict"], found["requests"]) == ("held back", 2)
            assert (first["cause"], first["subject"]) == ("far drafter", "alpha")
            assert first["figures"]["link_ms"] >= 1000 * FAR_S
            assert 0 < first["gain_ms"] < found["ms_per_token"]
            for words in ("far drafter", home.workers[1].address, "run alpha near the controller"):
                assert words in " ".join(said.split())

    run(scenario())


def test_before_there_is_enough_to_judge_by_it_says_so_and_is_content(diagnose: Diagnose, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, redis=log_at(tmp_path), mode="frozen") as home:
            await home.answer(max_new_tokens=5)
            await written(home)
            status, line, _ = await diagnose("--target", home.controller.address, "--json")
            _, said, _ = await diagnose("--target", home.controller.address, "--since", "90s")

            assert (status, json.loads(line)["verdict"]) == (0, "too few rounds")
            assert [note for note in json.loads(line)["notes"] if "frozen" in note]
            assert "Too few rounds" in said

    run(scenario())


def test_a_log_is_read_without_its_controller(diagnose: Diagnose, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            await common.write("mine", range(3))
            options = ("--redis", common.url, "--namespace", NAMESPACE, "--json")
            status, line, _ = await diagnose(*options)

            assert status == 0
            assert (json.loads(line)["rounds"], json.loads(line)["notes"]) == (3, [])

    run(scenario())


def test_what_the_log_says_of_a_round_arrives_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            await common.write("mine", range(2, 4))
            later = replace(
                FULL, context=replace(FULL.context, request_id="mine", round=4), retold_tokens=20, failovers=3
            )
            await append(common, round_record(later, decision_event_id="d").SerializeToString())
            await append(common, b"no record")
            window = await read_window(common.url, namespace=NAMESPACE, since_ms=0)

            assert window.unreadable == 1
            assert [row.number for row in window.rows] == [2, 3, 4]
            # Sums of a request become each round's own; what came before the window is nobody's.
            assert [(row.retold, row.moves) for row in window.rows] == [(0, 0), (0, 0), (8, 2)]
            row = window.rows[0]
            code = next(answer for answer in row.answers if answer.drafter == "code")
            assert (code.address, code.elapsed_ms, code.compute_ms, code.forwards) == ("here:1", 6e-6, 2e-6, 3)
            assert (row.target, row.verify_worker_ms, row.batch) == ("there:2", 3e-6, 4)
            assert (row.task, row.sampled, row.missing, row.tokens) == ("code", True, ("docs",), 3.0)

    run(scenario())


def test_only_the_latest_rounds_are_read(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with commons(tmp_path) as common:
            await common.write("mine", range(10))
            window = await read_window(common.url, namespace=NAMESPACE, since_ms=0, most_rounds=4)

            assert window.cut
            assert [row.number for row in window.rows] == [6, 7, 8, 9]

    run(scenario())


def test_rounds_under_the_kill_switch_are_counted_and_not_judged(diagnose: Diagnose, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, redis=log_at(tmp_path)) as home:
            home.controller.steering.set_kill_switch(True)
            await home.answer(max_new_tokens=60)
            await written(home)
            _, line, _ = await diagnose("--target", home.controller.address, "--json")

            said = json.loads(line)
            assert said["rounds"] == 0
            assert [note for note in said["notes"] if note.startswith("60 rounds were decoded plainly")]
            assert [note for note in said["notes"] if "forerun router kill off" in note]

    run(scenario())


def test_that_requests_wait_for_a_place_is_noted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with house(VERIFY, redis=log_at(tmp_path), limits=ONE_PLACE) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            await asyncio.gather(*(home.answer(max_new_tokens=4) for _ in range(2)))
            await written(home, requests=2)
            shown = await home.router.Show(router_pb2.ShowRequest())
            window = await read_window(shown.log.url, namespace=shown.log.namespace, since_ms=0)

            (note,) = notes_in(window)
            assert 0 < window.waited_ms < window.lasted_ms
            assert f"waited {window.waited_ms:.0f} ms" in note
            assert not list(notes_in(replace(window, waited_ms=0.04 * window.lasted_ms)))

    run(scenario())


def test_a_log_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(WorkerUnavailableError, match=r"nobody\.sock"):
            await read_window(f"unix://{tmp_path}/nobody.sock", namespace="ns", since_ms=0)

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(["--since", "yesterday"], 2, "90s", id="no time"),
        pytest.param(["--redis", "http://host"], 2, "--redis", id="no Redis"),
        pytest.param(["--redis", "redis://h", "--config", "f"], 2, "either", id="two logs"),
        pytest.param(["--target", "127.0.0.1:1"], 1, "forerun up", id="nobody answers"),
    ],
)
def test_a_mistake_is_answered_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, said: str
) -> None:
    assert forerun(monkeypatch, "diagnose", *arguments) == status

    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_controller_without_a_log_says_what_to_set(diagnose: Diagnose) -> None:
    async def scenario() -> None:
        async with house() as home:
            status, _, problem = await diagnose("--target", home.controller.address)

            assert status == 2
            assert "redis.url" in problem

    run(scenario())


WELL = RouterView(
    policy="planner",
    known_policies=("planner",),
    mode=RouterMode.APPLY,
    kill_switch=False,
    kill_switch_in_config=False,
    workers=(
        WorkerView(
            address="h:1",
            name="code",
            role="draft",
            model="m",
            health=WorkerHealth.SERVING,
            problem="",
            open_sessions=0,
        ),
    ),
    arms=(),
    log=LogView(url="unix://r", connected=True, written=5, dropped=0),
    config=ConfigView(file="f", hash="h", problem="", waiting_for_restart=(), reloads=0),
    scoring=ScoringView(share=0.1, scored=0, waiting=0, dropped=0),
    learning=LearningView(
        policy="planner", leads=True, follows=True, problem="", base_version=0, folded=5, written_ms=1
    ),
)
"""A controller of which nothing need be said."""


@pytest.mark.parametrize(
    ("view", "said"),
    [
        pytest.param(replace(WELL, kill_switch=True), "router kill off", id="killed by hand"),
        pytest.param(
            replace(WELL, kill_switch=True, kill_switch_in_config=True), "router.kill_switch", id="killed by the file"
        ),
        pytest.param(replace(WELL, mode=RouterMode.OFF), "off", id="off"),
        pytest.param(replace(WELL, mode=RouterMode.OBSERVE), "observe", id="observe"),
        pytest.param(replace(WELL, mode=RouterMode.FROZEN), "frozen", id="frozen"),
        pytest.param(
            replace(WELL, workers=(replace(WELL.workers[0], health=WorkerHealth.NOT_SERVING, problem="late"),)),
            "code at h:1 is not serving: late",
            id="a worker is out",
        ),
        pytest.param(replace(WELL, log=replace(WELL.log, connected=False)), "cannot reach", id="no Redis"),
        pytest.param(replace(WELL, log=replace(WELL.log, url="")), "no decision log", id="no log"),
        pytest.param(replace(WELL, log=replace(WELL.log, dropped=7)), "7 of the log", id="dropped"),
        pytest.param(replace(WELL, config=replace(WELL.config, problem="f:3: bad")), "f:3: bad", id="a bad file"),
    ],
)
def test_the_state_of_a_controller_is_noted_where_something_is_to_be_said(view: RouterView, said: str) -> None:
    (note,) = notes_on(view)

    assert said in note
    assert not list(notes_on(WELL))


async def written(home: House, *, requests: int = 1) -> None:
    """Wait until the log has the end of so many requests: it is written last."""
    shown = await home.router.Show(router_pb2.ShowRequest())
    async with asyncio.timeout(10):
        while True:
            window = await read_window(shown.log.url, namespace=shown.log.namespace, since_ms=0)
            if window.requests == requests:
                return
            await asyncio.sleep(0.02)


async def append(common: Commons, record: bytes) -> None:
    """Write a record, whatever it is, and wait until Redis has it."""
    expected = common.log.written + 1
    common.log.append("rounds", record)
    await eventually(lambda: common.log.written == expected)
