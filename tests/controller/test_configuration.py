"""The configuration follows its file while requests run: nothing is dropped, and a wrong file changes nothing."""

import asyncio
import logging
import os
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from controller import configuration
from controller.embedded_redis import embedded_redis
from controller.event_log import redis_client
from controller.serve import Controller, serve
from controller.settings import RedisSettings, Settings
from speculation.v1 import log_pb2, router_pb2
from tests import fakes
from tests.controller.house import DRAFT, DRAFT_TOO, VERIFY, House, eventually, house, plain, run
from tests.controller.test_text import tokenizer_folder

BAD = "listen: 127.0.0.1:0\ntokenizer: letters\nrouter:\n  policy: psychic\n"


def edit(file: Path, **router: Any) -> None:
    """Change the router's section as an operator would."""
    content = yaml.safe_load(file.read_text())
    content["router"] |= router
    file.write_text(yaml.safe_dump(content))


async def reload(home: House) -> router_pb2.ReloadConfigResponse:
    """Have the file read now."""
    response: router_pb2.ReloadConfigResponse = await home.router.ReloadConfig(router_pb2.ReloadConfigRequest())
    return response


async def show(home: House) -> router_pb2.ShowResponse:
    """What operators see."""
    shown: router_pb2.ShowResponse = await home.router.Show(router_pb2.ShowRequest())
    return shown


def test_a_file_that_changes_is_followed_without_being_asked(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            edit(file, policy="none", mode="frozen")
            await eventually(lambda: home.controller.configuration.reloads == 1)
            shown = await show(home)

            assert (shown.policy, shown.mode) == ("none", router_pb2.ROUTER_MODE_FROZEN)
            assert shown.config.file == str(file)
            assert shown.config.hash == Settings.load(file).content_hash
            assert (await home.answer()).summary.decision.policy == "none"

    run(scenario())


def test_a_wrong_file_changes_nothing_and_is_told_with_line_and_field(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            before = await show(home)
            good = file.read_text()
            with caplog.at_level(logging.WARNING):
                file.write_text(BAD)
                await eventually(lambda: bool(home.controller.configuration.problem))
            shown = await show(home)
            answer = await home.answer()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await reload(home)
            file.write_text(good)
            await eventually(lambda: not home.controller.configuration.problem)

            assert shown.config.problem.startswith(f"{file}:4: router.policy: ")
            assert (shown.config.hash, shown.policy) == (before.config.hash, before.policy)
            assert answer.token_ids == plain()
            assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert f"{file}:4" in str(caught.value.details())
            told = [record for record in caplog.records if "configuration refused" in record.message]
            assert f"{file}:4" in told[0].__dict__["problem"]

    run(scenario())


def test_a_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            content = file.read_text()
            file.unlink()
            await eventually(lambda: "cannot be read" in home.controller.configuration.problem)
            assert (await home.answer()).token_ids == plain()

            file.write_text(content)
            await eventually(lambda: not home.controller.configuration.problem)

    run(scenario())


def test_what_needs_a_restart_is_named_and_not_applied(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            content = yaml.safe_load(file.read_text())
            content |= {"listen": "127.0.0.1:1", "tokenizer": "another"}
            content["router"] |= {"drafter": "beta", "policy": "merged"}
            file.write_text(yaml.safe_dump(content))
            response = await reload(home)

            assert list(response.changed) == ["router.policy"]
            assert list(response.config.waiting_for_restart) == ["listen", "tokenizer", "router.drafter"]
            assert home.controller.configuration.settings.tokenizer == "letters"

    run(scenario())


def test_the_port_that_port_0_became_is_no_change(tmp_path: Path) -> None:
    """`forerun up` writes it into the file, so that a controller that died comes back where its callers look."""
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            content = yaml.safe_load(file.read_text())
            file.write_text(yaml.safe_dump(content | {"listen": home.controller.address}))
            response = await reload(home)

            assert not response.changed
            assert not response.config.waiting_for_restart

    run(scenario())


def test_limits_timeouts_and_workers_follow_too(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with fakes.workers(DRAFT_TOO) as (newcomer,), house(file=file) as home:
            content = yaml.safe_load(file.read_text())
            content["workers"].append({"role": "draft", "address": newcomer.address})
            content["limits"]["default_max_new_tokens"] = 5
            content["timeouts"]["draft_timeout_s"] = 0.2
            file.write_text(yaml.safe_dump(content))
            await reload(home)
            await home.settled()
            answer = await home.answer(max_new_tokens=0, speculation={"drafters": ["beta"], "policy": "static"})

            assert answer.token_ids == plain(5)
            assert list(answer.summary.decision.drafters) == ["beta"]
            assert home.controller.fleet.timeouts.draft_timeout_s == 0.2

    run(scenario())


def test_nothing_is_dropped_by_many_reloads_under_load(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"
    states: tuple[dict[str, Any], ...] = (
        {"policy": "merged", "rules": [{"task": "a", "denied_drafters": ["alpha"], "max_nodes": 3}]},
        {"policy": "planner", "mode": "observe"},
        {"kill_switch": True},
        {"policy": "confidence", "mode": "frozen", "rules": [{"max_depth": 2}]},
        {"mode": "off"},
        {"policy": "static", "exploration": 0.0, "rules": [{"allowed_shapes": [{"depth": 2, "budget": 2}]}]},
    )

    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, file=file) as home:
            over = asyncio.Event()
            content = yaml.safe_load(file.read_text())

            async def callers() -> list[list[int]]:
                answers = []
                while not over.is_set():
                    answers.append((await home.answer(task="a", max_new_tokens=30)).token_ids)
                return answers

            running = [asyncio.create_task(callers()) for _ in range(4)]
            for number in range(40):
                router = content["router"] | states[number % len(states)]
                file.write_text(yaml.safe_dump(content | {"router": router}) if number % 7 else BAD)
                with nullcontext() if number % 7 else pytest.raises(grpc.aio.AioRpcError, match="psychic"):
                    await reload(home)
            over.set()
            answers = [answer for caller in await asyncio.gather(*running) for answer in caller]

            assert home.controller.configuration.reloads > 30
            assert len(answers) > 4
            assert all(answer == plain(30) for answer in answers)
            assert home.controller.generation.reception.inside == 0

    run(scenario(), within_s=60)


def test_the_kill_switch_and_limits_act_from_the_next_round_of_a_running_request(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            target = home.workers[0].worker

            async def in_mid_request(**router: Any) -> int:
                """Change the file between two answers of the target; the number of the round it then works on."""
                target.faults.frozen = True
                edit(file, **router)
                await reload(home)
                under_way = len(target.rounds)
                target.faults.frozen = False
                await eventually(lambda: len(target.rounds) > under_way + 3)
                return under_way

            held = asyncio.create_task(home.answer(explain=True, max_new_tokens=90))
            await eventually(lambda: len(target.rounds) > 2)
            cut = await in_mid_request(rules=[{"max_depth": 1}])
            killed = await in_mid_request(rules=[], kill_switch=True)
            answer = await held

            depths = [report.decision.shape.depth for report in answer.rounds]
            assert depths[0] > 1
            assert set(depths[cut + 1 : killed]) == {1}, "the round under way ends as it was planned"
            assert set(depths[killed + 1 :]) == {0}
            assert "kill switch" in answer.rounds[-1].decision.explanation
            assert answer.token_ids == plain(90)

    run(scenario())


async def decisions(url: str, *, until_hash: str) -> list[log_pb2.DecisionRecord]:
    """The decision log, once it holds a decision under that configuration: it is written off the hot path."""
    client = redis_client(url)
    records: list[log_pb2.DecisionRecord] = []
    while not any(record.config_hash == until_hash for record in records):
        entries = await client.xrange("forerun:default:decisions")
        records = [log_pb2.DecisionRecord.FromString(fields[b"record"]) for _, fields in entries]
        await asyncio.sleep(0.01)
    await client.aclose()
    return records


def test_the_decision_log_says_which_configuration_and_which_mode(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with (
            embedded_redis(f"embedded://{tmp_path / 'redis'}") as url,
            house(file=file, redis=RedisSettings(url=url)) as home,
        ):
            await home.answer()
            first = (await show(home)).config.hash
            edit(file, mode="observe")
            await reload(home)
            await home.answer()
            records = await decisions(url, until_hash=Settings.load(file).content_hash)

            online = [record for record in records if record.config_hash == first]
            observed = [record for record in records if record.config_hash != first]
            assert online[0].mode == log_pb2.DECISION_MODE_ONLINE
            ends = {log_pb2.DECISION_MODE_ONLINE, log_pb2.DECISION_MODE_FORCED}
            assert {record.mode for record in online} <= ends, "a plan cut short at the end is nobody's choice"
            assert not any(record.HasField("proposed") for record in online)
            assert {record.mode for record in observed} == {log_pb2.DECISION_MODE_OBSERVED}
            assert not any(record.decision.drafters for record in observed)
            assert list(observed[0].proposed.drafters) == ["alpha"]

    run(scenario())


def test_a_running_request_decides_anew_when_the_configuration_changes(tmp_path: Path) -> None:
    """Its plan may stay the same; the record must say what it obeyed."""
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with (
            embedded_redis(f"embedded://{tmp_path / 'redis'}") as url,
            house(file=file, redis=RedisSettings(url=url)) as home,
        ):
            target = home.workers[0].worker
            held = asyncio.create_task(home.answer(request_id="mine", max_new_tokens=60))
            await eventually(lambda: len(target.rounds) > 2)
            target.faults.frozen = True
            edit(file, exploration=0.5)
            await reload(home)
            target.faults.frozen = False
            await held
            records = await decisions(url, until_hash=Settings.load(file).content_hash)

            assert {record.request_id for record in records} == {"mine"}
            alike = [record for record in records if record.decision == records[0].decision]
            assert len({record.config_hash for record in alike}) == 2

    run(scenario())


def test_sighup_has_the_file_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "LOOK_INTERVAL_S", 3600)
    folder = tokenizer_folder(tmp_path / "tokenizer")
    file = tmp_path / "controller.yaml"
    file.write_text(f"listen: 127.0.0.1:0\ntokenizer: {folder.name}\n")
    ready: list[Controller] = []

    async def scenario() -> None:
        serving = asyncio.create_task(serve(Settings.load(file), file=file, on_ready=ready.append))
        await eventually(lambda: bool(ready))
        await asyncio.sleep(0)
        file.write_text("tokenizer: [")
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: f"{file}:1" in ready[0].configuration.problem)
        os.kill(os.getpid(), signal.SIGTERM)
        await serving

    run(scenario())
