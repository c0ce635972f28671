"""The report of a bench."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.__main__ import app
from bench.figures import Figure, count, figure
from bench.machine import this_checkout, this_machine
from bench.runs.report import Report, remarks_on
from bench.spread import Spread

STEADY = figure("speed.static_over_none", Spread(2.0, 1.95, 2.05), "x", goal=1.7)


def test_the_last_line_is_the_whole_report(capsys: pytest.CaptureFixture[str]) -> None:
    Report(figures=(STEADY, count("exactness.differences", 0, "differences", goal=0)), seed=7, load_before=0.0).show(
        as_json=True
    )

    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["figures"][0] == {
        "name": "speed.static_over_none",
        "value": 2.0,
        "unit": "x",
        "low": 1.95,
        "high": 2.05,
        "goal": 1.7,
        "at_most": False,
    }
    assert report["seed"] == 7
    assert set(report["machine"]) == {"cpu", "cores", "memory_gib", "system", "accelerator"}
    assert set(report["versions"]) >= {"python", "torch", "transformers", "grpcio", "forerun"}


def test_a_run_is_kept_as_the_same_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    Report(figures=(STEADY,), seed=7, load_before=0.0).show(as_json=True, output=tmp_path / "run.json")

    assert (tmp_path / "run.json").read_text() == capsys.readouterr().out


def test_a_file_that_cannot_be_written_is_noticed_before_anything_is_measured(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["speed", "--output", str(tmp_path / "missing" / "run.json")])

    assert done.exit_code == 2
    assert "name a file in a folder that exists" in " ".join(done.output.replace("│", " ").split())


def test_without_json_stdout_stays_empty(capsys: pytest.CaptureFixture[str]) -> None:
    Report(figures=(STEADY,), seed=7, load_before=0.0).show(as_json=False)

    assert capsys.readouterr().out == ""


def test_what_is_not_a_number_is_left_out_and_said() -> None:
    run = Report(figures=(STEADY, count("over_nothing", float("inf"), "x")), seed=7, load_before=0.0).run()  # type: ignore[arg-type]

    assert [entry.name for entry in run.figures] == [STEADY.name]
    assert run.remarks == ("over_nothing came out as inf, and is left out",)


@pytest.mark.parametrize(
    ("unit", "goal", "at_most", "direction"),
    [
        pytest.param("x", None, False, 1, id="a ratio"),
        pytest.param("x assisted, mixed, constant 3", None, False, 1, id="a ratio over the best of several"),
        pytest.param("ms", None, False, -1, id="a time"),
        pytest.param("tokens", None, False, 0, id="a count"),
        pytest.param("requests", 100, True, -1, id="a goal says so"),
        pytest.param("tokens", 4, False, 1, id="a goal says the contrary"),
    ],
)
def test_a_figure_knows_which_way_is_better(unit: str, goal: float | None, at_most: bool, direction: int) -> None:
    assert Figure(name="a", value=1.0, unit=unit, goal=goal, at_most=at_most).direction == direction


@pytest.mark.parametrize(
    ("value", "goal", "at_most", "reached"),
    [
        pytest.param(1.8, 1.7, False, True, id="enough"),
        pytest.param(1.6, 1.7, False, False, id="too little"),
        pytest.param(1.6, 2.0, True, True, id="within the limit"),
        pytest.param(2.1, 2.0, True, False, id="over the limit"),
        pytest.param(2.1, None, False, None, id="for information"),
    ],
)
def test_a_figure_knows_whether_it_reaches_its_goal(
    value: float, goal: float | None, at_most: bool, reached: bool | None
) -> None:
    assert Figure(name="a", value=value, unit="x", goal=goal, at_most=at_most).reached is reached


def test_doubts_are_said() -> None:
    wobbly = figure("wobbly", Spread(1.0, 0.5, 1.5), "x")

    single = figure("single", Spread(1.0, 1.0, 1.0), "x")

    remarks = remarks_on([STEADY, wobbly, single], load_before=3.0, cores=2)

    assert [remark.split()[0] for remark in remarks] == ["unstable,", "1", "the"]
    assert remarks[0].endswith(": wobbly")
    assert remarks_on([STEADY], load_before=0.1, cores=2) == []


def test_machine_and_commit_are_known() -> None:
    assert this_machine().cores
    assert len(this_checkout().commit) == 40 or this_checkout().commit == "unknown"
