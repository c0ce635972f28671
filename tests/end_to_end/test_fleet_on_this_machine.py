"""`forerun up` with real models: every process real, everything over gRPC. One fleet serves the whole module."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import psutil
import pytest

from bench.changes import LEARNERS
from bench.exactness import SAMPLED_VARIANTS, VARIANTS, measure_exactness
from bench.fleet import Bench
from forerun.client import AsyncClient, Client, RouterClient
from forerun.local_fleet import CONTROLLER_FILE
from forerun.workload import tasks
from tests.end_to_end.processes import free_address
from tests.reader import Reader
from tests.scraping import scrape
from tests.test_house import ROOT_FOLDER

FORERUN = (sys.executable, "-m", "forerun")
DRAFTERS = ("code", "mixed", "suffix")
PATIENCE_S = 600
METRICS = free_address()


@dataclass(frozen=True)
class Up:
    """What `forerun up --json` said, and its folder."""

    process: "subprocess.Popen[str]"
    ready: dict[str, Any]
    folder: Path

    @property
    def address(self) -> str:
        return str(self.ready["address"])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("state")
    options = ["--profile", "plain", "--drafters", ",".join(DRAFTERS), "--remember", "4000"]
    options += ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--metrics", METRICS, "--json"]
    options += ["--page", "127.0.0.1:0"]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [*FORERUN, "up", *options, "--state-folder", str(folder)], stdout=subprocess.PIPE, stderr=stderr, text=True
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, (folder / "stderr").read_text()
    yield Up(process, json.loads(line), folder)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=60)
    process.stdout.close()

    assert status == 0
    assert len(children) >= 1 + len(DRAFTERS) + 3
    assert not [child for child in children if child.is_running()]


@pytest.mark.timeout(PATIENCE_S)
def test_the_fleet_listens_on_the_loopback_only(up: Up) -> None:
    names = [process["name"] for process in up.ready["processes"]]

    assert names == ["target", *DRAFTERS, "controller", "gateway", "page"]
    parent = psutil.Process(up.process.pid)
    listening = [
        connection.laddr.ip.removeprefix("::ffff:")
        for process in (parent, *parent.children(recursive=True))
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    assert len(listening) == len(names) + 1, "metrics"


@pytest.mark.timeout(PATIENCE_S)
def test_the_page_is_there_and_asks_the_controller(up: Up) -> None:
    with httpx2.Client(base_url=f"http://{up.ready['page']}", trust_env=False) as client:
        page = client.get("/")
        shown = client.post("/api/RouterService/Show", json={})

    assert "<h1>Forerun</h1>" in page.text
    assert [worker["worker"]["name"] for worker in shown.json()["workers"]] == ["target", *DRAFTERS]


@pytest.mark.timeout(PATIENCE_S)
def test_top_and_metrics_tell_what_the_answers_said(up: Up) -> None:
    before = scrape(METRICS)
    with Client(up.address) as client:
        answer = client.generate("def area(radius):", max_new_tokens=24, task="code", policy="static")
    now = scrape(METRICS)
    told = subprocess.run(
        [*FORERUN, "top", "--metrics", METRICS, "--interval", "0.2", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )

    emitted, accepted = "forerun_emitted_tokens_total", "forerun_spec_decode_num_accepted_tokens_total"
    assert now.value(emitted) - sum(before.values(emitted)) == len(answer.token_ids)
    assert now.value(accepted) - before.value(accepted) == answer.acceptance.num_accepted_draft_tokens
    workers = [(worker["name"], worker["serving"]) for worker in json.loads(told.stdout)["workers"]]
    assert workers == [("target", True), *((name, True) for name in DRAFTERS)]


@pytest.mark.timeout(PATIENCE_S)
def test_greedy_and_sampled_answers_are_exact(up: Up) -> None:
    """The exactness bench itself, small: every policy, one and eight requests at a time, against transformers; and
    while models are promoted, among them retrained ones, and taken back, and the configuration is changed."""
    work = tasks(("code", "hybrid"), 1)

    async def measure() -> dict[str, float]:
        async with AsyncClient(up.address) as client:
            bench = Bench(client, up.ready["target"], DRAFTERS, up.folder / CONTROLLER_FILE)
            figures = await measure_exactness(bench, work, max_new_tokens=8, seed=3)
        return {figure.name: figure.value for figure in figures}

    counted = asyncio.run(measure())
    asked = len(work) * (2 * len(VARIANTS) + len(SAMPLED_VARIANTS))
    asked_while_changing = counted["exactness.requests_while_changing"]
    turns = counted["exactness.promotions"]
    with RouterClient(up.address) as router:
        config = router.show().config

    assert counted["exactness.differences"] == 0
    assert counted["exactness.requests"] == asked + asked_while_changing
    assert asked_while_changing >= len(work) * (len(VARIANTS) + len(SAMPLED_VARIANTS))
    assert counted["exactness.policies_in_charge"] == counted["exactness.retrained_models"] == len(LEARNERS)
    assert turns > len(LEARNERS)
    assert turns == counted["exactness.rollbacks"] == counted["exactness.refused_configurations"]
    assert counted["exactness.versions_served"] >= 2 * len(LEARNERS)
    assert config.reloads == counted["exactness.reloads"] == 2 * turns
    assert not config.problem


@pytest.mark.timeout(PATIENCE_S)
def test_generate_streams_and_explains(up: Up) -> None:
    options = ["--drafters", "code", "--seed", "5", "--temperature", "0.8", "-n", "12", "--target", up.address]
    plain = run_forerun("generate", "def area(radius):", *options)
    explained = run_forerun("generate", "def area(radius):", *options, "--explain", "--json")

    answer = json.loads(explained.stdout)
    assert answer["text"] + "\n" == plain.stdout
    assert answer["rounds"][0]["decision"]["drafters"] == ["code"]
    assert (
        sum(len(entry["accepted"]) for entry in answer["rounds"]) == answer["acceptance"]["num_accepted_draft_tokens"]
    )


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_openais_client_gets_the_text_that_grpc_gives(up: Up, temperature: float) -> None:
    prompt, turns = "def area(radius):", [{"role": "user", "content": "What is 12 times 31?"}]
    sampling: Any = {"temperature": temperature, "seed": 7}
    with Client(up.address) as ours:
        text = ours.generate(prompt, max_new_tokens=24, **sampling)
        chat = ours.generate(messages=turns, max_new_tokens=24, **sampling)
    with openai.OpenAI(base_url=f"http://{up.ready['http']}/v1", api_key="none") as client:
        model = next(iter(client.models.list())).id
        asked: Any = {"model": model, "max_tokens": 24, **sampling}
        completion: Any = client.completions.create(prompt=prompt, logprobs=2, **asked)
        stream = client.completions.create(
            prompt=prompt, stream=True, extra_body={"speculation": {"off": True}}, **asked
        )
        streamed = "".join(chunk.choices[0].text for chunk in stream)
        answer = client.chat.completions.create(messages=turns, logprobs=True, top_logprobs=2, **asked)

    assert completion.choices[0].text == streamed == text.text
    assert completion.usage.completion_tokens == text.usage.completion_tokens
    assert completion.usage.speculation["accepted_tokens"] > 0
    assert answer.choices[0].message.content == chat.text
    assert len(completion.choices[0].logprobs.tokens) == len(text.token_ids)
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.content or ()) == len(chat.token_ids)


@pytest.mark.timeout(PATIENCE_S)
def test_a_drafter_without_a_model_says_nothing_where_it_has_nothing_to_say(up: Up) -> None:
    with Client(up.address, timeout_s=PATIENCE_S) as client:
        prompt = "one two three four five six one two three"
        plain = client.generate(prompt, max_new_tokens=24, policy="none")
        answer = client.generate(prompt, max_new_tokens=24, policy="static", drafters=["suffix"], explain=True)

    silent = [report for report in answer.rounds if report.silent_drafters]
    assert answer.text == plain.text
    assert any(report.decision.drafters == ("suffix",) and len(report.tree) for report in answer.rounds)
    assert all(report.silent_drafters == ("suffix",) and not report.decision.drafters for report in silent)
    assert all(len(report.tree) or report in silent for report in answer.rounds[:-1]), "an empty tree is a silence"


@pytest.mark.timeout(PATIENCE_S)
def test_what_a_tenant_asks_again_takes_fewer_rounds_and_has_the_same_text(up: Up) -> None:
    asked = []
    with Client(up.address, timeout_s=PATIENCE_S) as client:
        for tenant in ("acme", "bolt", "acme"):
            asked.append(
                client.generate(
                    "A letter about apples:",
                    max_new_tokens=32,
                    seed=3,
                    temperature=0.8,
                    policy="static",
                    drafters=["suffix"],
                    tenant=tenant,
                    explain=True,
                )
            )

    first, anothers, again = (len(answer.rounds) for answer in asked)
    assert len({answer.text for answer in asked}) == 1
    assert anothers == first, "what one tenant was told helps no other"
    assert again < first


@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("page", ["client.md", "api.md", "tutorials/read_a_decision.md"])
def test_a_page_can_be_followed(up: Up, tmp_path: Path, page: str) -> None:
    """With this fleet in place of the one that the page begins with."""
    (tmp_path / ".forerun").symlink_to(up.folder)
    with Reader(tmp_path, controller=up.address, metrics=METRICS) as reader:
        reader.follow(ROOT_FOLDER / "docs" / page, without="forerun up")


def test_a_mistake_of_the_caller_is_one_line(up: Up) -> None:
    done = run_forerun("generate", "x", "--policy", "psychic", "--target", up.address)

    assert done.returncode == 2
    assert done.stderr.startswith("error: no policy is called 'psychic'")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.timeout(PATIENCE_S)
def test_the_process_count_recovers_and_the_text_stays(up: Up) -> None:
    (drafter,) = [process["pid"] for process in up.ready["processes"] if process["name"] == "code"]
    options: dict[str, Any] = {"drafters": ["code"], "max_new_tokens": 48, "temperature": 1.0, "seed": 11}
    with Client(up.address) as client:
        undisturbed = client.generate("import os", **options)
        with client.stream("import os", **options) as deltas:
            next(deltas)
            os.kill(drafter, signal.SIGKILL)
            for _ in deltas:
                pass
        assert deltas.generation.token_ids == undisturbed.token_ids

        deadline = time.monotonic() + PATIENCE_S
        while client.generate("import os", **options).acceptance.num_draft_tokens == 0:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def run_forerun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*FORERUN, *arguments], capture_output=True, text=True, timeout=120, check=False)
