"""`forerun router export | retrain | evaluate` on a real Redis, with the log of a simulated fleet."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.embedded_redis import embedded_redis
from controller.event_log import redis_client
from controller.log_export import export_log
from controller.log_folder import MANIFEST, file_of
from controller.logged_history import read_log
from controller.model_store import History, ModelStore
from forerun.__main__ import app, main
from router_models.offline.logged import split_by_time
from router_models.offline.training import taught
from router_models.planner import PlannerPolicy
from tests.logs import NAMESPACE, cold_run, having, in_redis, scored_run, write

Router = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Redis with a log, and of that log, exported."""
    home = tmp_path_factory.mktemp("served")

    async def fill() -> None:
        async with embedded_redis(f"embedded://{home}/r") as url, redis_client(url) as redis:
            await write(redis, scored_run(160))  # a planner that learns soon tries little: estimates need many answers

    asyncio.run(fill())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["forerun", "router", "export", str(home / "log"), *at(home)])
        with pytest.raises(SystemExit):
            main()
    return home


@pytest.fixture
def home(served: Path, tmp_path: Path) -> Path:
    """A copy of it for one test."""
    shutil.copytree(served, tmp_path / "home", ignore=shutil.ignore_patterns("*.sock"))
    return tmp_path / "home"


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path) -> Router:
    """Runs a command there: exit status, stdout, stderr."""

    def run(*arguments: str, where: tuple[str, ...] | None = None) -> Any:
        place = at(home) if where is None else where
        monkeypatch.setattr(sys, "argv", ["forerun", "router", *arguments, *place])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def at(home: Path) -> tuple[str, ...]:
    return ("--redis", f"embedded://{home}/r", "--namespace", NAMESPACE)


def history(home: Path) -> History:
    async def look() -> History:
        async with embedded_redis(f"embedded://{home}/r") as url, redis_client(url) as redis:
            return await ModelStore(redis, namespace=NAMESPACE, make_policy=PlannerPolicy).history()

    return asyncio.run(look())


def test_a_model_that_wins_is_kept_and_promoted_only_if_asked(router: Router, home: Path) -> None:
    status, told, _ = router("retrain", str(home / "log"), "--hold-out", "0.4", "--json")

    result = json.loads(told)
    assert status == 0
    assert (result["version"], result["promoted"], result["objection"]) == (1, False, "")
    assert result["evaluation"]["gain_low"] > 1.0
    assert set(result["evaluation"]["candidate"]["estimates"]) == {"ips", "snips", "dm", "dr"}
    replay = result["evaluation"]["replay"]
    assert replay["answers"] == replay["scored_answers"] > 20
    assert 0 < replay["checked_rounds"] == replay["agreed_rounds"] <= replay["served_rounds"]
    assert replay["gain_low"] > 1.0
    known = history(home)
    assert (known.active, known.versions[0].origin.value) == (0, "retrained")
    assert known.versions[0].evaluation["gain"] == pytest.approx(result["evaluation"]["gain"], abs=1e-3)

    status, told, _ = router("promote", "1")
    assert "version 1 is in charge" in told

    # The same model again is no better than the one in charge.
    status, told, problem = router("retrain", str(home / "log"), "--hold-out", "0.4", "--promote")
    assert status == 1
    assert "Not kept: its speed is" in " ".join(problem.split())
    assert told == ""
    known = history(home)
    assert (known.active, [version.version for version in known.versions]) == (1, [1])


def test_a_version_can_be_evaluated_and_reported(router: Router, home: Path) -> None:
    report = home / "report"
    status, told, _ = router("retrain", str(home / "log"), "--hold-out", "0.4", "--promote", "--report", str(report))
    assert (status, "version 1 is in charge" in told) == (0, True)
    text = (report / "report.md").read_text()
    assert "doubly robust" in text
    assert "scored answers (scores agree with" in text
    assert "replayed" in (report / "estimates.svg").read_text()
    for name in ("estimates.svg", "calibration.svg", "learning.svg"):
        assert f"]({name})" in text
        assert "<svg" in (report / name).read_text()

    status, told, _ = router("evaluate", str(home / "log"), "--hold-out", "0.4", "--json")

    result = json.loads(told)
    assert (status, result["candidate"]) == (0, "version 1")
    assert result["incumbent"] == "a router that has learnt nothing"
    assert [remark.split(":")[0] for remark in result["remarks"]] == [
        "the log holds few choices of a router that has learnt nothing"
    ]
    assert result["evaluation"]["gain"] > 1.0

    _, told, _ = router("evaluate", str(home / "log"), "--hold-out", "0.8", "--json")
    assert "version 1 has learnt from some of what is held out here" in json.loads(told)["remarks"][0]


def test_where_nothing_was_scored_a_sentence_says_what_to_set(router: Router, home: Path) -> None:
    asyncio.run(in_redis(home / "other", [cold_run()], home / "unscored"))

    status, told, problem = router("retrain", str(home / "unscored"), "--hold-out", "0.4")

    assert (status, "version 1 is kept" in told) == (0, True)
    assert "nothing is replayed" in problem
    assert "set router.scoring_share above 0" in " ".join(problem.split())
    assert "replayed on" not in problem


def test_what_is_published_has_learnt_from_the_earlier_part_alone(router: Router, home: Path) -> None:
    router("retrain", str(home / "log"), "--hold-out", "0.4", "--json")

    async def published() -> bytes:
        async with embedded_redis(f"embedded://{home}/r") as url, redis_client(url) as redis:
            store = ModelStore(redis, namespace=NAMESPACE, make_policy=PlannerPolicy)
            return (await store.load(1)).to_bytes()

    cut = split_by_time(read_log(home / "log").lessons, hold_out=0.4)
    assert asyncio.run(published()) == taught(PlannerPolicy(), cut.taught).state().to_bytes()


def test_an_export_tells_what_it_wrote(served: Path, router: Router, home: Path) -> None:
    about = json.loads((served / "log" / MANIFEST).read_text())

    status, told, _ = router("export", str(home / "again"))

    assert status == 0
    assert f"{about['parts']['rounds']['rows']} rounds" in told
    assert file_of(home / "again", "rounds").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("export", "{home}/log"), "is not empty", id="a folder that is in use"),
        pytest.param(("export", "{home}/new", "--since", "yesterday"), "--since: 'yesterday' is no time", id="no time"),
        pytest.param(("retrain", "{home}/nowhere"), "no log was exported here", id="no log"),
        pytest.param(("retrain", "{home}/log", "--policy", "static"), "called 'static'", id="it never learns"),
        pytest.param(("evaluate", "{home}/log"), "no version of planner is in charge", id="nothing to evaluate"),
        pytest.param(("evaluate", "{home}/log", "--version", "9"), "version is called '9'", id="a version not kept"),
    ],
)
def test_a_mistake_is_told_in_one_line(router: Router, home: Path, arguments: tuple[str, ...], says: str) -> None:
    status, told, problem = router(*(argument.format(home=home) for argument in arguments))

    assert status in (1, 2)
    assert says in problem
    assert len(problem.strip().splitlines()) == 1
    assert told == ""


def test_a_corrupted_log_teaches_nothing(router: Router, home: Path) -> None:
    log = home / "log"
    shutil.rmtree(log)
    broken = having(cold_run(), "rounds", 5, lambda record: setattr(record, "propensity", 2.0))

    async def export() -> None:
        async with embedded_redis(f"embedded://{home}/other") as url, redis_client(url) as redis:
            await write(redis, broken)
            await export_log(redis, NAMESPACE, log)

    asyncio.run(export())

    status, told, problem = router("retrain", str(log), "--promote")

    assert (status, told) == (1, "")
    assert "rounds.parquet, row 5, column propensity" in problem
    assert history(home).versions == ()


@pytest.mark.parametrize("command", ["export", "retrain", "evaluate"])
def test_the_help_of_a_command_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, ["router", command, "--help"], env={"COLUMNS": "200"}).output

    assert f"forerun router {command}" in shown
    assert "--force" not in shown
