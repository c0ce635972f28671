"""`forerun router` against a real controller over fake workers."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.controller.house import DRAFT, DRAFT_TOO, VERIFY, House, house, plain, run
from tests.forerun.test_command_line import forerun

Router = Callable[..., Coroutine[Any, Any, tuple[int, str, str]]]
"""Runs `forerun router` with these arguments; exit status, standard output and standard error."""


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Router:
    async def call(home: House, *arguments: str) -> tuple[int, str, str]:
        command = ("router", *arguments, "--target", home.controller.address)
        status = await asyncio.to_thread(forerun, monkeypatch, *command)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return call


def test_show_tells_who_decides_on_what_terms_and_what_came_of_it(router: Router, tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(VERIFY, DRAFT, policy="merged", mode="frozen", file=file, scoring_share=0.25) as home:
            await home.answer()
            home.controller.steering.set_kill_switch(True)
            file.write_text("tokenizer: [")
            await home.controller.configuration.look()
            status, said, _ = await router(home, "show")
            _, line, _ = await router(home, "show", "--json")

            assert status == 0
            unfolded = "".join(said.split())
            mode_and_file = ("merged", "planner", "frozen", "ON, by hand", str(file), "is no YAML", "alpha", "serving")
            for words in (
                *mode_and_file,
                "25% of the answers; 0 passes scored, 0 waiting, 0 dropped",
                "nothing is shared",
            ):
                assert words.replace(" ", "") in unfolded
            view = json.loads(line)
            assert (view["policy"], view["mode"], view["kill_switch"]) == ("merged", "frozen", True)
            assert view["config"]["problem"].startswith(f"{file}:1")
            assert [worker["name"] for worker in view["workers"]] == ["target", "alpha"]
            assert view["arms"][0]["tokens_per_round"] > 1
            assert view["scoring"] == {"share": 0.25, "scored": 0, "waiting": 0, "dropped": 0}

    run(scenario())


def test_explain_shows_a_request_round_by_round(router: Router) -> None:
    async def scenario() -> None:
        async with house() as home:
            answer = await home.answer(request_id="mine", explain=True)
            status, said, _ = await router(home, "explain", "mine")
            _, line, _ = await router(home, "explain", "mine", "--json")

            assert status == 0
            assert said.count("static: alpha, chain of") == len([one for one in answer.rounds if one.decision.drafters])
            rounds = json.loads(line)["rounds"]
            assert [one["accepted"] for one in rounds] == [list(one.accepted) for one in answer.rounds]

    run(scenario())


def test_arms_come_in_the_order_in_which_they_are_used(router: Router) -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO) as home:
            await home.answer(max_new_tokens=4, speculation={"drafters": ["beta"]})
            await home.answer(max_new_tokens=90, speculation={"off": True})
            status, said, _ = await router(home, "arms")
            _, line, _ = await router(home, "arms", "--json")

            assert status == 0
            assert "plain decoding" in said.splitlines()[1]
            arms = json.loads(line)["arms"]
            assert [arm["rounds"] for arm in arms] == sorted((arm["rounds"] for arm in arms), reverse=True)
            assert (arms[0]["drafters"], arms[0]["tokens_per_round"]) == ([], 1.0)

    run(scenario())


def test_a_policy_and_the_kill_switch_are_set_by_hand(router: Router) -> None:
    async def scenario() -> None:
        async with house() as home:
            assert await router(home, "policy", "merged") == (
                0,
                "merged decides from now on, in place of static\n",
                "",
            )
            assert home.controller.steering.policy == "merged"
            assert (await router(home, "kill", "on"))[1] == "on: nothing is speculated\n"
            assert home.controller.steering.kill_switch
            assert (await home.answer()).token_ids == plain()
            assert json.loads((await router(home, "kill", "off", "--json"))[1]) == {"kill_switch": False}
            assert not home.controller.steering.kill_switch

    run(scenario())


def test_a_kill_switch_of_the_configuration_is_not_released_by_hand(router: Router) -> None:
    async def scenario() -> None:
        async with house(kill_switch=True) as home:
            assert "router.kill_switch" in (await router(home, "kill", "off"))[1]
            assert "ON, by the configuration" in (await router(home, "show"))[1]

    run(scenario())


def test_reload_says_what_changed_or_what_is_wrong(router: Router, tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"

    async def scenario() -> None:
        async with house(file=file) as home:
            good = file.read_text()
            file.write_text(good.replace("policy: static", "policy: none").replace("tokenizer: ", "tokenizer: other-"))
            assert (await router(home, "reload"))[1] == "changed: router.policy\nwaiting for a restart: tokenizer\n"

            file.write_text(good.replace("policy: static", "policy: psychic"))
            status, _, problem = await router(home, "reload")
            assert status == 2
            assert "router.policy: no policy is called 'psychic'" in problem

    run(scenario())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["explain", "never-seen"], "never-seen", id="an unknown request"),
        pytest.param(["policy", "psychic"], "merged-trie", id="an unknown policy"),
    ],
)
def test_a_mistake_is_answered_in_one_line(router: Router, arguments: list[str], said: str) -> None:
    async def scenario() -> None:
        async with house() as home:
            status, out, problem = await router(home, *arguments)

            assert (status, out) == (2, "")
            (line,) = problem.splitlines()
            assert said in line

    run(scenario())


@pytest.mark.parametrize(
    "arguments",
    [["show"], ["arms"], ["explain", "r"], ["policy", "none"], ["kill", "on"], ["reload"]],
    ids=lambda a: a[0],
)
def test_without_a_controller_every_command_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert forerun(monkeypatch, "router", *arguments, "--target", "127.0.0.1:1") == 1

    assert "forerun up" in capsys.readouterr().err
