"""`forerun demo` and `forerun bench` as a newcomer calls them."""

import json
import subprocess
import sys

import pytest

from bench.changes import LEARNERS
from forerun.demo import POLICIES
from forerun.workload import PROMPT_SETS


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_finds_every_answer_identical() -> None:
    done = forerun("demo", "--profile", "plain", "--prompts", "2", "--tokens", "16", "--json")

    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["differences"] == []
    assert [(row["set"], row["policy"]) for row in shown["results"]] == [
        (name, policy) for name in PROMPT_SETS for policy in POLICIES
    ]
    assert all(row["identical_to_plain_decoding"] for row in shown["results"])
    assert shown["transformers_asked"] == len(PROMPT_SETS)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_answers_stay_exact_while_models_and_configuration_change() -> None:
    counted = figures_of("exactness", "--prompts", "1", "--tokens", "24")

    assert counted["exactness.differences"] == 0
    assert counted["exactness.policies_in_charge"] == counted["exactness.retrained_models"] == len(LEARNERS)
    assert counted["exactness.promotions"] == counted["exactness.rollbacks"] > len(LEARNERS)
    assert counted["exactness.reloads"] == 2 * counted["exactness.promotions"]
    assert counted["exactness.refused_configurations"] == counted["exactness.promotions"]
    assert counted["exactness.versions_served"] >= 2 * len(LEARNERS)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("speed", "speed.static_over_none"),
        ("speed", "speed.coupled_over_uncoupled_t1"),
        ("overhead", "overhead.round_ms_median"),
    ],
)
def test_a_bench_ends_with_a_line_of_figures(name: str, figure: str) -> None:
    assert figure in figures_of(name, "--prompts", "1", "--tokens", "8")


def figures_of(bench: str, *options: str) -> dict[str, float]:
    done = forerun("bench", bench, "--profile", "plain", *options, "--json")

    assert done.returncode == 0, done.stderr
    return {entry["name"]: entry["value"] for entry in json.loads(done.stdout.splitlines()[-1])["figures"]}


def forerun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "forerun", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1180, check=False)
