"""`forerun zoo`: one line of JSON for programs, the same facts for people."""

import json
from pathlib import Path

from typer.testing import CliRunner

from forerun.commands.zoo import app
from zoo.recipe import MODELS


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_list_names_every_model() -> None:
    listed = json.loads(run("list", "--json"))

    assert [model["name"] for model in listed["models"]] == [f"zoo:{name}" for name in MODELS]


def test_list_shows_people_the_same_names() -> None:
    table = run("list")

    assert all(f"zoo:{name}" in table for name in MODELS)


def test_card_shows_the_card_of_the_model_asked_for() -> None:
    assert "zoo:math" in run("card", "math")
    assert json.loads(run("card", "zoo:math", "--json"))["name"] == "zoo:math"


def test_inflate_prints_a_folder_that_exists(tmp_path: Path) -> None:
    answer = json.loads(run("inflate", "deep", "--cache-dir", str(tmp_path), "--json"))

    assert Path(answer["folder"], "model.safetensors").is_file()
