"""Runs that were kept: their form, and what may be compared."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.__main__ import app, main
from bench.figures import Figure, count
from bench.runs.compare import Change, Verdict, compare
from bench.runs.run import Run
from speculation.errors import ConfigurationError
from tests.bench.runs import CURVES, FALSE, GAIN, RATE, SERVER, WAIT, run_of


def moved(entry: Figure, by: float) -> Figure:
    """The same figure with another value, and its interval with it."""
    low, high = entry.ends
    interval = {} if entry.low is None else {"low": low + by, "high": high + by}
    return replace(entry, value=entry.value + by, **interval)


def test_a_run_comes_back_from_its_file(tmp_path: Path) -> None:
    run = run_of(GAIN, FALSE, machine=SERVER, curves=(CURVES,))
    run.save(tmp_path / "run.json")

    assert Run.load(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    ("change", "field"),
    [
        pytest.param({"format": "forerun bench run 9"}, "format", id="another version"),
        pytest.param({"seed": "7"}, "seed", id="text for a number"),
        pytest.param({"date": "2026-11-23T01:02:03"}, "date", id="a date without its zone"),
        pytest.param({"machine": {"cpu": "A"}}, "machine.cores", id="a machine without cores"),
        pytest.param({"figures": [{"name": "a", "unit": "x"}]}, "figures[0].value", id="a figure without its value"),
        pytest.param({"figures": [{"name": "a", "unit": "x", "value": 1, "low": 1}]}, "figures", id="half an interval"),
        pytest.param({"figures": [{"name": "a", "unit": "x", "value": 1}] * 2}, "figures", id="a figure twice"),
        pytest.param({"figures": [{"name": "a", "unit": " ", "value": 1}]}, "figures", id="a figure without its unit"),
        pytest.param({"curves": [asdict(replace(CURVES, x=(1.0,)))]}, "curves", id="a curve without its places"),
        pytest.param({"load_before": None}, "load_before", id="nothing for a number"),
    ],
)
def test_a_wrong_run_is_refused_by_file_and_field(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    (tmp_path / "run.json").write_text(json.dumps(json.loads(run_of(GAIN).line()) | change))

    with pytest.raises(ConfigurationError) as refused:
        Run.load(tmp_path / "run.json")
    assert str(refused.value).startswith(f"{tmp_path / 'run.json'}, {field}:")


@pytest.mark.parametrize("content", [b"", b"figures", b"[1, 2]", b"{}", b"\xff\xfe", b'{"figures": NaN}'])
def test_what_is_no_run_is_refused_by_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"run\.json"):
        Run.load(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("old", "by", "tolerance", "verdict"),
    [
        pytest.param(GAIN, 0.15, 0.0, Verdict.SAME, id="the intervals overlap"),
        pytest.param(GAIN, 0.5, 0.0, Verdict.BETTER, id="more of what is good"),
        pytest.param(GAIN, -0.5, 0.0, Verdict.WORSE, id="less of what is good"),
        pytest.param(GAIN, -0.5, 0.3, Verdict.SAME, id="less, but nobody minds"),
        pytest.param(WAIT, 0.5, 0.0, Verdict.WORSE, id="more of what is bad"),
        pytest.param(WAIT, -0.5, 0.0, Verdict.BETTER, id="less of what is bad"),
        pytest.param(FALSE, 0, 0.0, Verdict.SAME, id="a count again"),
        pytest.param(FALSE, 1, 0.0, Verdict.WORSE, id="one is one too many"),
        pytest.param(count("exactness.requests", 8, "requests"), 1, 0.0, Verdict.CHANGED, id="neither good nor bad"),
    ],
)
def test_a_figure_got_worse_beyond_its_interval_or_it_did_not(
    old: Figure, by: float, tolerance: float, verdict: Verdict
) -> None:
    assert Change(old=old, new=moved(old, by), tolerance=tolerance).verdict is verdict


def test_a_comparison_says_what_only_one_run_has_and_what_else_differs() -> None:
    found = compare(run_of(GAIN, WAIT), run_of(GAIN, RATE, seed=8, versions={"python": "3.12.0", "torch": "2.13"}))

    assert [change.new.name for change in found.changes] == [GAIN.name]
    assert (found.only_old, found.only_new) == ((WAIT.name,), (RATE.name,))
    assert found.remarks == ("seed: 7 and 8", "python: 3.11.7 and 3.12.0")


def test_machines_are_not_compared_unless_by_their_ratios() -> None:
    old, new = run_of(GAIN, RATE), run_of(moved(GAIN, -1.0), RATE, machine=SERVER)

    with pytest.raises(ConfigurationError, match=r"cores: 8 and 64; accelerator: None and 1 x G.*--ratios-only"):
        compare(old, new)
    assert [change.new.name for change in compare(old, new, ratios_only=True).worse] == [GAIN.name]


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        pytest.param(WAIT, "no figure in common", id="another bench"),
        pytest.param(replace(GAIN, unit="ms"), "is in x in one run and in ms", id="another unit"),
    ],
)
def test_what_cannot_be_compared_is_refused(other: Figure, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        compare(run_of(GAIN), run_of(other))


def kept(folder: Path, name: str, run: Run) -> str:
    run.save(folder / name)
    return str(folder / name)


@pytest.mark.parametrize(("by", "status"), [(0.0, 0), (-0.5, 1)])
def test_the_exit_status_tells_whether_anything_got_worse(tmp_path: Path, by: float, status: int) -> None:
    files = kept(tmp_path, "old", run_of(GAIN)), kept(tmp_path, "new", run_of(moved(GAIN, by)))

    done = CliRunner().invoke(app, ["compare", *files, "--json"])

    assert done.exit_code == status
    assert json.loads(done.output)["worse"] == [GAIN.name] * status


def test_a_refused_comparison_ends_with_another_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = kept(tmp_path, "old", run_of(GAIN)), kept(tmp_path, "new", run_of(GAIN, machine=SERVER))
    monkeypatch.setattr("sys.argv", ["bench", "compare", *files])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: machine: the runs are of different machines")
