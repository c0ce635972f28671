"""The page's calls over real HTTP: operators' gRPC as JSON, with the caller's own token, and for the page alone."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from controller.tokens import Role, new_token
from page.__main__ import main
from page.serve import running
from page.settings import PageSettings
from speculation.errors import ConfigurationError
from tests.controller.house import House, house, run

HEADERS = {"content-type": "application/json"}


@asynccontextmanager
async def page_of(home: House, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
    given = PageSettings(controller=home.controller.address, listen="127.0.0.1:0", **settings)
    async with (
        running(given) as address,
        httpx2.AsyncClient(base_url=f"http://{address}", trust_env=False, headers=HEADERS) as client,
    ):
        yield client


def test_a_call_is_a_message_of_the_protocol_as_json() -> None:
    async def scenario() -> None:
        async with house() as home, page_of(home) as page:
            shown = (await page.post("/api/RouterService/Show", json={})).json()
            await page.post("/api/RouterService/SetKillSwitch", json={"engaged": True})

            assert shown["policy"] == "static"
            assert shown["kill_switch"] is False, "what is not set is told, too"
            assert [worker["worker"]["name"] for worker in shown["workers"]] == ["target", "alpha"]
            assert home.controller.steering.kill_switch

    run(scenario())


@pytest.mark.parametrize(
    ("call", "body", "status", "words"),
    [
        pytest.param("RouterService/Explain", '{"request_id": "gone"}', 404, "no recent request", id="unknown request"),
        pytest.param("RouterService/SetPolicy", '{"policy": "psychic"}', 404, "psychic", id="unknown policy"),
        pytest.param("RouterService/SetPolicy", '{"polcy": "none"}', 400, "polcy", id="unknown field"),
        pytest.param("RouterService/SetPolicy", '{"policy": 7}', 400, "policy", id="wrong type"),
        pytest.param("RouterService/SetPolicy", "[]", 400, "", id="no object"),
        pytest.param("RouterService/SetPolicy", "null", 400, "", id="nothing"),
        pytest.param("RouterService/SetPolicy", "{", 400, "JSON", id="no JSON"),
        pytest.param("RouterService/SetPolicy", "[" * 60_000, 400, "JSON", id="deep JSON"),
        pytest.param("RouterService/SetPolicy", "{}" + " " * 70_000, 413, "bytes", id="too long"),
        pytest.param("RouterService/Reboot", "{}", 404, "RouterService/Show", id="no such call"),
        pytest.param("GenerationService/ListModels", "{}", 404, "known", id="no call of operators"),
        pytest.param("ModelService/ListVersions", "{}", 501, "Redis", id="nothing keeps versions"),
        pytest.param("RouterService/ReloadConfig", "{}", 400, "configuration file", id="no file"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(call: str, body: str, status: int, words: str) -> None:
    async def scenario() -> None:
        async with house() as home, page_of(home) as page:
            answer = await page.post(f"/api/{call}", content=body)

            assert answer.status_code == status, answer.text
            assert words in answer.json()["error"]["message"]

    run(scenario())


def test_the_controller_says_what_a_token_may_do(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    caller, operator = (new_token(tokens, role=role, tenant="", expires=None) for role in (Role.CALL, Role.OPERATE))

    async def scenario() -> None:
        async with house(more={"tokens": tokens}, settle=False) as home, page_of(home) as page:

            async def status(header: str | None) -> int:
                headers = {} if header is None else {"authorization": header}
                return (await page.post("/api/RouterService/Show", json={}, headers=headers)).status_code

            assert await status(None) == 401
            assert await status("Bearer forerun_wrong") == 401
            assert await status(f"Bearer {caller}") == 403
            assert await status(f"Bearer {operator}") == 200
            assert await status(None) == 401, "a token is not remembered"

    run(scenario())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"origin": "https://elsewhere.example"}, 403, id="another site's script"),
        pytest.param({"origin": "null"}, 403, id="a sandboxed frame"),
        pytest.param({"sec-fetch-site": "cross-site"}, 403, id="the browser says so"),
        pytest.param({"content-type": "text/plain"}, 415, id="a form, which needs no permission"),
        pytest.param({"host": "elsewhere.example"}, 421, id="another name for this address"),
        pytest.param({"host": "["}, 421, id="no name at all"),
    ],
)
def test_other_sites_call_nothing(headers: dict[str, str], status: int) -> None:
    async def scenario() -> None:
        async with house() as home, page_of(home) as page:
            refused = await page.post("/api/RouterService/SetKillSwitch", content='{"engaged": true}', headers=headers)

            assert refused.status_code == status
            assert not home.controller.steering.kill_switch

    run(scenario())


def test_another_name_is_answered_to_where_the_operator_says_so() -> None:
    async def scenario() -> None:
        async with house() as home, page_of(home, host="fleet.example") as page:
            answer = await page.get("/", headers={"host": "fleet.example:8443"})

            assert answer.status_code == 200

    run(scenario())


def test_every_answer_forbids_what_the_page_does_not_need() -> None:
    async def scenario() -> None:
        async with house() as home, page_of(home) as page:
            answers = [await page.get(path) for path in ("/", "/app.js", "/../settings.py", "/nothing")]
            answers.append(await page.post("/api/RouterService/Show", json={}))

            assert [answer.status_code for answer in answers] == [200, 200, 404, 404, 200]
            for answer in answers:
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert "set-cookie" not in answer.headers
            assert answers[-1].headers["cache-control"] == "no-store"

    run(scenario())


def test_a_lost_controller_is_told() -> None:
    async def scenario() -> None:
        async with house() as home:
            address = home.controller.address
        settings = PageSettings(controller=address, listen="127.0.0.1:0")
        async with (
            running(settings) as page,
            httpx2.AsyncClient(base_url=f"http://{page}", trust_env=False, headers=HEADERS) as client,
        ):
            answer = await client.post("/api/RouterService/Show", json={})

            assert answer.status_code == 503
            assert answer.json()["error"]["message"].startswith("no controller answers")

    run(scenario())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"controller": "192.0.2.1:50050"}, "plain text", id="tokens would travel in plain text"),
        pytest.param({"listen": "0.0.0.0:0"}, "other machines", id="others could read along"),
        pytest.param({"ca": "/nowhere.pem"}, "ca", id="no such authority"),
    ],
)
def test_a_page_that_would_be_unsafe_does_not_start(settings: dict[str, Any], words: str) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigurationError, match=words):
            async with running(PageSettings(**{"listen": "127.0.0.1:0", **settings})):
                pass

    run(scenario())


def test_a_page_of_its_own_says_where_it_is_and_ends_when_told() -> None:
    command = [sys.executable, "-m", "forerun", "page", "--controller", "127.0.0.1:1", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        ready = json.loads(page.stdout.readline())
        answer = httpx2.get(f"http://{ready['address']}/", trust_env=False)
        page.send_signal(signal.SIGTERM)

        assert page.wait(timeout=30) == 0
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("option", "value"), [("--listen", "here"), ("--host", "two names"), ("--ca", "/nowhere.pem"), ("--idle-s", "soon")]
)
def test_a_wrong_option_is_told_in_one_line(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([option, value]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("page: ")
    assert option.removeprefix("--") in line
