"""What operators are given: board, alerts, runbook and reference speak of metrics that exist."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from controller.settings import MetricsSettings, RedisSettings
from forerun.metrics_reference import SECTIONS, reference
from speculation.metrics_http import LOOP_WAIT
from tests.controller.house import DRAFT, VERIFY, house, run
from tests.scraping import Scrape, scrape
from tests.test_house import ROOT_FOLDER
from tests.worker.grpc_session import DraftTalk, open_draft, propose, save_tiny_model, worker_and_channel
from tests.worker.tiny_worker import PROMPT

DEPLOY, DOCS = ROOT_FOLDER / "deploy", ROOT_FOLDER / "docs"
BOARD: Mapping[str, Any] = json.loads((DEPLOY / "grafana" / "forerun.json").read_text())
ALERTS_FILE = DEPLOY / "prometheus" / "alerts.yaml"
RULES = [rule for group in yaml.safe_load(ALERTS_FILE.read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
BOARD_EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
EXPRESSIONS = [*BOARD_EXPRESSIONS, *(rule["expr"] for rule in RULES)]

PROMETHEUS_OWN = {"up"}
LABELS_OF_ALL = {"instance", "job", "le"}
PROMTOOL = shutil.which("promtool")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Scrape, ...]:
    """What a controller with everything and a worker with a model tell."""
    folder = tmp_path_factory.mktemp("fleet")

    async def scenario() -> tuple[Scrape, ...]:
        served, redis = MetricsSettings(listen="127.0.0.1:0"), RedisSettings(url=f"embedded://{folder}/redis")
        model = save_tiny_model(folder / "model")
        async with (
            house(VERIFY, DRAFT, metrics=served, redis=redis, policy="planner") as home,
            worker_and_channel("draft", model, metrics_listen="127.0.0.1:0") as (ready, channel),
        ):
            await home.answer(task="code")
            talk = DraftTalk(channel)
            await talk.ask(open_draft())
            await talk.ask(propose(PROMPT))
            learnt = None
            while learnt is None or "forerun_learning_snapshot_timestamp_seconds" not in learnt.names:
                learnt = await asyncio.to_thread(scrape, home.controller.metrics_address)
            return learnt, await asyncio.to_thread(scrape, ready.metrics_address)

    return run(scenario(), within_s=60)


def told(fleet: tuple[Scrape, ...]) -> set[str]:
    """Every name that Prometheus could store."""
    types = {name: kind for seen in fleet for name, kind in seen.types.items()}
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in types.items() for part in parts.get(kind, ("",))}


def names_in(expression: str) -> set[str]:
    """The metrics that an expression names: words outside of braces, brackets and label lists, before no bracket."""
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", expression)
    bare = re.sub(r"\b(?:by|on|ignoring|group_left) \([^)]*\)", "", bare)
    words = re.findall(r"\b[a-zA-Z_:][\w:]*\b(?! ?\()", bare)
    return set(words) - {"and", "or", "sum", "max"}


def labels_in(expression: str) -> Iterator[str]:
    for matchers in re.findall(r"\{([^}]*)\}", expression):
        yield from re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
    for listed in re.findall(r"\b(?:by|on|ignoring) \(([^)]*)\)", expression):
        yield from re.findall(r"\w+", listed)


def test_a_test_reads_expressions_as_prometheus_does() -> None:
    expression = (
        'sum by (le, a) (rate(forerun_x_bucket{a="b"}[5m])) / ignoring (a) group_left () time() > 0 and up == 1'
    )

    assert names_in(expression) == {"forerun_x_bucket", "up"}
    assert set(labels_in(expression)) == {"le", "a"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_of_board_and_alerts_exists(expression: str, fleet: tuple[Scrape, ...]) -> None:
    names = names_in(expression)

    assert names
    assert names <= told(fleet) | PROMETHEUS_OWN


def test_every_label_of_board_and_alerts_exists() -> None:
    known = {label for _, metrics in SECTIONS for metric in metrics for label in metric.labels} | LABELS_OF_ALL

    for expression in EXPRESSIONS:
        assert set(labels_in(expression)) <= known, expression


def test_the_fleet_tells_all_that_the_reference_names(fleet: tuple[Scrape, ...]) -> None:
    named = {metric.name for _, metrics in SECTIONS for metric in metrics} | {LOOP_WAIT.name}

    assert named == {name for seen in fleet for name in seen.types if not name.startswith("process_")}


def test_the_page_holds_the_reference() -> None:
    """After a change: `python -m forerun.metrics_reference`."""
    assert (DOCS / "metrics.md").read_text().endswith(reference())


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_says_what_it_must(rule: Mapping[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")

    assert re.fullmatch(r"\d+[smh]", rule["for"])
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"].endswith(".")
    assert f"## {rule['alert']}\n" in (ROOT_FOLDER / page).read_text()
    assert anchor == rule["alert"].lower(), "as Markdown makes an anchor of a heading"


def test_the_runbook_speaks_of_no_other_alerts() -> None:
    headings = re.findall(r"^## (.*)$", (DOCS / "runbook.md").read_text(), re.MULTILINE)

    assert headings == [rule["alert"] for rule in RULES]


def test_the_runbook_names_metrics_that_exist(fleet: tuple[Scrape, ...]) -> None:
    types = {name for seen in fleet for name in seen.types}

    for name in re.findall(r"`\w*\(?((?:forerun|gen_ai|process)_\w+)", (DOCS / "runbook.md").read_text()):
        assert name in types, name


def test_the_board_can_be_imported() -> None:
    numbers = [panel["id"] for panel in BOARD["panels"]]
    places = [panel["gridPos"] for panel in BOARD["panels"]]

    assert len(numbers) == len(set(numbers))
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in PANELS)
    variables = {variable["name"] for variable in BOARD["templating"]["list"]} | {"__rate_interval"}
    assert set(re.findall(r"\$\{?(\w+)", " ".join(BOARD_EXPRESSIONS))) <= variables


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_itself_takes_configuration_alerts_and_the_boards_expressions(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    queries = [re.sub(r"\$__rate_interval", "5m", expression) for expression in BOARD_EXPRESSIONS]
    rules = [{"record": f"board:{place}", "expr": query} for place, query in enumerate(queries)]
    board = tmp_path / "board.yaml"
    board.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))

    configuration = DEPLOY / "prometheus" / "prometheus.yaml"
    for command in (["config", str(configuration)], ["rules", str(ALERTS_FILE), str(board)]):
        done = subprocess.run([PROMTOOL, "check", *command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")
def test_prometheus_itself_takes_its_configuration_in_kubernetes() -> None:
    assert PROMTOOL is not None
    configuration = str(DEPLOY / "prometheus" / "kubernetes.yaml")

    done = subprocess.run([PROMTOOL, "check", "config", configuration], capture_output=True, text=True, timeout=60)

    if "kubernetes_sd_configs not found" in done.stderr:
        pytest.skip("this promtool was built without Kubernetes, as Debian's is")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool (Debian: prometheus) is not installed")
def test_alerts_fire_when_they_should_and_not_before() -> None:
    """By Prometheus's own unit tests of rules; it is needed for nothing else."""
    assert PROMTOOL is not None
    scenarios = str(ROOT_FOLDER / "tests" / "alert_scenarios.yaml")

    done = subprocess.run([PROMTOOL, "test", "rules", scenarios], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stdout + done.stderr
