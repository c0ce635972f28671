"""`forerun top` against a real controller, and what it makes of two readings."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from rich.console import Console

from controller.settings import MetricsSettings
from forerun.commands.fleet_options import fleet_settings
from forerun.top import Reading, compared, looks
from forerun.top_screen import TopScreen, draw_top
from speculation.errors import ConfigurationError, WorkerUnavailableError
from speculation.v1 import generation_pb2
from tests.controller.house import DRAFT, DRAFT_TOO, VERIFY, House, house, run
from tests.forerun.test_command_line import forerun

SERVED = MetricsSettings(listen="127.0.0.1:0")


def while_asked(home: House, scenario: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[float], None]:
    """In place of a pause: what requests do meanwhile. It is called in another thread than the controller's."""
    loop = asyncio.get_running_loop()
    return lambda interval_s: asyncio.run_coroutine_threadsafe(scenario(), loop).result(20)


def test_it_shows_what_happened_between_two_looks() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, metrics=SERVED) as home:
            await home.answer()  # before the first look: none of its business

            async def ask() -> None:
                answers.append(await home.answer())
                answers.append(await home.answer(speculation=generation_pb2.Speculation(drafters=["beta"])))

            answers: list[Any] = []
            views = looks(home.controller.metrics_address, interval_s=1.0, sleep=while_asked(home, ask))
            view = await asyncio.to_thread(next, views)

            assert view.tokens_per_second * view.interval_s == pytest.approx(80)
            assert view.requests_per_second * view.interval_s == pytest.approx(2)
            alpha, beta = sorted(
                (one for one in view.by_drafters if one.name != "none"), key=lambda drafting: drafting.name
            )
            for drafting, record in zip((alpha, beta), (answer.summary.acceptance for answer in answers), strict=True):
                both = zip(record.per_step_accepted, record.per_step_drafted, strict=True)
                steps = [step for step, nodes in both if nodes]
                assert drafting.accepted_per_round == pytest.approx(sum(steps) / len(steps))
                assert drafting.accepted_share == pytest.approx(
                    record.num_accepted_draft_tokens / record.num_draft_tokens
                )
            assert [policy.name for policy in view.by_policy] == ["static"]
            assert [(worker.name, worker.serving) for worker in view.workers] == [
                ("target", True),
                ("alpha", True),
                ("beta", True),
            ]
            assert (view.policy, view.mode, view.kill_switch, view.learning_lag) == ("static", "apply", False, None)

    run(scenario())


def test_the_screen_says_it_in_words() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, metrics=SERVED) as home:

            async def trouble() -> None:
                await home.answer()
                home.controller.steering.set_kill_switch(True)

            views = looks(home.controller.metrics_address, interval_s=1.0, sleep=while_asked(home, trouble))
            view = await asyncio.to_thread(next, views)
            console = Console(record=True, width=160)
            console.print(draw_top(view))
            shown = console.export_text()

            for words in (
                "tokens/s",
                "accepted a round",
                "alpha",
                "target",
                "serving",
                "KILL SWITCH ON",
                "0 of 8 in",
            ):
                assert words in shown
            with TopScreen("here") as screen:
                screen.show(view)

    run(scenario())


def test_json_is_one_reading_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, metrics=SERVED) as home:
            command = ("top", "--metrics", home.controller.metrics_address, "--interval", "0.2", "--json")
            status = await asyncio.to_thread(forerun, monkeypatch, *command)

            assert status == 0
            (line,) = capsys.readouterr().out.splitlines()
            view = json.loads(line)
            assert view["tokens_per_second"] == 0
            assert [worker["name"] for worker in view["workers"]] == ["target", "alpha"]

    run(scenario())


def test_where_no_controller_tells_anything_it_says_how_to_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert forerun(monkeypatch, "top", "--metrics", "127.0.0.1:1", "--json") == 1

    assert "forerun up --metrics 127.0.0.1:1" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_something_else_that_answers_is_no_controller() -> None:
    async def scenario() -> None:
        async with house(metrics=SERVED) as home:
            with pytest.raises(WorkerUnavailableError, match="no metrics at"):
                await asyncio.to_thread(next, looks(home.controller.address, interval_s=0.2))

    run(scenario())


def test_a_controller_that_began_anew_between_two_looks_has_done_nothing_negative() -> None:
    lines = 'forerun_requests_total{outcome="ok"} %d\nforerun_rounds_total{drafters="a",policy="p"} %d\n'
    lines += "".join(
        f'forerun_{name}_total{{drafters="a",policy="p"}} %d\n'
        for name in ("drafted_tokens", "accepted_tokens", "emitted_tokens", "round_seconds")
    )

    view = compared(Reading.of(lines % (9, 9, 9, 9, 9, 9), 1.0), Reading.of(lines % (1, 2, 2, 2, 2, 2), 2.0))

    assert view.requests_per_second == view.tokens_per_second == 0
    assert view.by_drafters == ()


def test_up_takes_an_address_for_metrics_and_leaves_the_rest_as_it_was() -> None:
    assert fleet_settings(None, {}).metrics.listen is None
    assert fleet_settings(None, {}, metrics="127.0.0.1:9464").metrics == MetricsSettings(listen="127.0.0.1:9464")
    with pytest.raises(ConfigurationError, match="--metrics"):
        fleet_settings(None, {}, metrics="nonsense")
