"""`forerun router history | promote | rollback` on a real Redis."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from controller.embedded_redis import embedded_redis
from controller.event_log import redis_client
from controller.model_store import ModelStore, Origin
from controller.snapshot import shared_key
from forerun.__main__ import app, main
from router_models import catalogue
from tests.learners import CountingPolicy

Router = Callable[..., tuple[int, str, str]]

OPTIONS = ("--namespace", "ns", "--policy", "counting")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a Redis with two published versions of a counting policy."""
    policies = catalogue.all_policies()
    monkeypatch.setattr(catalogue, "all_policies", lambda: {**policies, "counting": CountingPolicy()})

    async def publish(url: str) -> None:
        async with embedded_redis(url) as socket, redis_client(socket) as redis:
            store = ModelStore(redis, namespace="ns", make_policy=CountingPolicy)
            await store.publish(CountingPolicy().state(), origin=Origin.RETRAINED, evaluation={"gain": 1.25})
            await store.publish(CountingPolicy().state(), origin=Origin.RETRAINED, parent=1)

    asyncio.run(publish(url := f"embedded://{tmp_path}/r"))
    return url


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str) -> Router:
    """Runs a command there: exit status, stdout, stderr."""

    def run(
        *arguments: str, at: tuple[str, ...] = ("--redis", url, "--namespace", "ns", "--policy", "counting")
    ) -> Any:
        monkeypatch.setattr(sys, "argv", ["forerun", "router", *arguments, *at])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run


def test_versions_are_listed_promoted_and_taken_back(router: Router) -> None:
    _, told, _ = router("history", "--json")
    assert [version["version"] for version in json.loads(told)["versions"]] == [2, 1]
    assert json.loads(told)["active"] == 0

    assert router("promote", "1")[0] == 0
    _, told, _ = router("promote", "2", "--json")
    assert json.loads(told) == {"active": 2, "before": 1}
    _, told, _ = router("history")
    assert "in charge" in told
    assert "gain 1.25" in told
    _, told, _ = router("rollback")

    assert "version 1 is in charge" in told
    status, _, problem = router("rollback")
    assert (status, "nothing to go back to" in problem) == (1, True)


def test_the_place_can_be_read_from_a_controllers_configuration(router: Router, url: str, tmp_path: Path) -> None:
    config = tmp_path / "controller.yaml"
    config.write_text(f"tokenizer: letters\nredis: {{url: '{url}', namespace: ns}}\n")

    status, told, _ = router("history", "--json", at=("--config", str(config), "--policy", "counting"))

    assert status == 0
    assert len(json.loads(told)["versions"]) == 2


def test_without_a_name_the_versions_are_those_of_the_policy_that_is_shared(router: Router, url: str) -> None:
    place = ("--redis", url, "--namespace", "ns")
    _, told, _ = router("history", "--json", at=place)
    assert json.loads(told)["versions"] == [], "nobody shares anything yet, so they are the planner's"

    async def share() -> None:
        async with embedded_redis(url) as socket, redis_client(socket) as redis:
            await redis.set(shared_key("ns"), "counting")

    asyncio.run(share())
    _, told, _ = router("history", "--json", at=place)

    assert [version["version"] for version in json.loads(told)["versions"]] == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("promote", "9"), "'9'; known: 1, 2", id="a version that is not kept"),
        pytest.param(("history", "--policy", "none"), "learning policy is called 'none'", id="it never learns"),
        pytest.param(("history", "--config", "x.yaml"), "either --redis URL or --config FILE", id="two places at once"),
        pytest.param(("history", "--redis", "redis://127.0.0.1:1"), "--redis: cannot be used", id="nobody there"),
        pytest.param(("history", "--redis", "http://here"), "--redis: Redis URL must", id="no URL of Redis"),
    ],
)
def test_a_mistake_is_told_in_one_line(router: Router, url: str, arguments: tuple[str, ...], says: str) -> None:
    command, *options = arguments

    status, _, problem = router(command, "--redis", url, *OPTIONS, *options, at=())

    assert status == 2
    assert says in problem
    assert len(problem.splitlines()) == 1


@pytest.mark.parametrize("command", ["history", "promote", "rollback"])
def test_the_help_of_a_command_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, ["router", command, "--help"], env={"COLUMNS": "200"}).output

    assert f"forerun router {command}" in shown
