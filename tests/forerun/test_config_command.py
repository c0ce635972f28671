"""`forerun config`, and the page that explains what it checks."""

import json
import re
from pathlib import Path

import pytest
import yaml

from controller.settings import NEEDS_RESTART, Settings
from forerun.config_reference import reference
from tests.forerun.test_command_line import forerun
from tests.test_house import ROOT_FOLDER

PAGE = (ROOT_FOLDER / "docs" / "configuration.md").read_text(encoding="utf-8")
GOOD = "tokenizer: some/model\nrouter:\n  mode: off\n  rules:\n    - {task: code, max_nodes: 16}\n"
BAD = GOOD.replace("off", "loud").replace("max_nodes", "max_node")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text(BAD)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_passes_what_a_controller_would_take(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forerun(monkeypatch, "config", "check", "good.yaml", "--json") == 0

    told = json.loads(capsys.readouterr().out)
    assert (told["ok"], told["hash"]) == (True, Settings.load(folder / "good.yaml").content_hash)


def test_check_tells_everything_that_is_wrong_a_line_each(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forerun(monkeypatch, "config", "check", "bad.yaml") == 1
    mode, rule = capsys.readouterr().out.splitlines()
    assert mode.startswith("bad.yaml:3: router.mode: ")
    assert rule == "bad.yaml:5: router.rules.0.max_node: there is no such field"

    assert forerun(monkeypatch, "config", "check", "bad.yaml", "--json") == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [(one["line"], one["field"]) for one in problems] == [(3, "router.mode"), (5, "router.rules.0.max_node")]


def test_check_knows_the_files_of_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "fleet.yaml").write_text("target: zoo:target\nrouter: {policy: planner}\n")

    assert forerun(monkeypatch, "config", "check", "--up", "fleet.yaml") == 0
    assert forerun(monkeypatch, "config", "check", "fleet.yaml") == 1
    assert "target: there is no such field" in capsys.readouterr().out


def test_diff_tells_what_takes_a_restart(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "new.yaml").write_text(GOOD.replace("some", "another").replace("16", "8"))

    assert forerun(monkeypatch, "config", "diff", "good.yaml", "new.yaml") == 0
    tokenizer, nodes = capsys.readouterr().out.splitlines()[1:]
    assert re.search(r"tokenizer .*after a restart", tokenizer)
    assert re.search(r"router\.rules\.0\.max_nodes +16 +8 +at once", nodes)

    assert forerun(monkeypatch, "config", "diff", "good.yaml", "new.yaml", "--json") == 0
    changes = json.loads(capsys.readouterr().out)["changes"]
    assert [change["needs_restart"] for change in changes] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["check", "nothing.yaml"], "nothing.yaml: cannot be read", id="no file"),
        pytest.param(["diff", "good.yaml", "bad.yaml"], "bad.yaml:3: router.mode", id="a file that is wrong"),
    ],
)
def test_a_file_that_cannot_be_looked_at_is_told_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert forerun(monkeypatch, "config", *arguments) == 2

    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_every_field_of_the_schema_is_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forerun(monkeypatch, "config", "schema", "--json") == 0

    schema = json.loads(capsys.readouterr().out)
    sections = [one for one in (schema, *schema["$defs"].values()) if "properties" in one]
    for section in sections:
        for name, field in section["properties"].items():
            assert "description" in field or "$ref" in field, name
    assert schema["properties"]["listen"][NEEDS_RESTART]
    assert NEEDS_RESTART not in schema["properties"]["workers"]


def test_the_page_holds_the_reference_that_the_command_prints() -> None:
    """After a change: `forerun config schema --markdown`."""
    assert reference(Settings.model_json_schema()) in PAGE


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_every_example_of_the_page_can_be_used(tmp_path: Path, example: str) -> None:
    file = tmp_path / "controller.yaml"
    file.write_text(example if "tokenizer" in yaml.safe_load(example) else f"tokenizer: some/model\n{example}")

    Settings.load(file)
