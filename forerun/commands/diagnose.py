"""`forerun diagnose`: what holds a fleet back, and which setting to change."""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forerun.commands.controller_address import (
    DEFAULT_ADDRESS,
    Ca,
    Cert,
    ServerName,
    Target,
    Token,
    told_if_nobody_answers,
)
from forerun.console import RESULT, emit, plain
from speculation.errors import ConfigurationError

if TYPE_CHECKING:
    from forerun.client import RouterView
    from forerun.decision_log import Window
    from forerun.diagnosis.findings import Diagnosis

HELD_BACK = 3
"""Exit status when something was found; 1 and 2 are failures of the command itself."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def diagnose(
    target: Target = DEFAULT_ADDRESS,
    since: Annotated[str, typer.Option(help="How far back to look: 90s, 15m, 2h, 1d.")] = "1h",
    redis: Annotated[
        str | None,
        typer.Option(help="The log itself, in place of a controller: redis://, rediss://, unix://, embedded://."),
    ] = None,
    namespace: Annotated[str, typer.Option(help="The fleet's; with --redis.")] = "default",
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    config: Annotated[Path | None, typer.Option(help="A controller's configuration, in place of a controller.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")] = False,
) -> None:
    """Say what holds a fleet back and which setting to change, the dearest first, in milliseconds a token.

    Asks the controller at --target for its state and reads its decision log. With --redis or --config it reads a log
    without its controller. Gains are estimates; docs/diagnosis.md says how each is made.

    Exit status: 0 nothing found (or too few rounds to judge by: see .verdict), 3 something found, 1 or 2 the command
    itself failed.

    [cyan]forerun diagnose[/cyan]

    [cyan]forerun diagnose --since 15m --json | jq '.findings[0]'[/cyan]
    """
    from forerun.diagnosis.findings import Verdict
    from forerun.diagnosis.judge import diagnose as judged
    from forerun.state_notes import notes_in, notes_on

    since_ms = int(1000 * (time.time() - _seconds(since)))
    view, url, namespace = _log(
        lambda: _asked(target, {"token": token, "ca": ca, "cert": cert, "server_name": server_name}),
        redis,
        namespace,
        config,
    )
    window = asyncio.run(_window(url, namespace, since_ms))
    diagnosis = judged(window.rows)
    notes = (*(notes_on(view) if view is not None else ()), *notes_in(window))
    _tell(diagnosis, notes, since=since, as_json=as_json)
    raise typer.Exit(HELD_BACK if diagnosis.verdict is Verdict.HELD_BACK else 0)


def _tell(diagnosis: "Diagnosis", notes: tuple[str, ...], *, since: str, as_json: bool) -> None:
    if as_json:
        emit({**plain(diagnosis), "notes": notes})
        return
    from forerun.diagnosis_screen import draw_diagnosis

    RESULT.print(draw_diagnosis(diagnosis, notes, since=since))


def _seconds(text: str) -> float:
    """How long "15m" is.

    Raises:
        ConfigurationError: It is no time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise ConfigurationError("--since", f"{text!r} is no time; say 90s, 15m, 2h or 1d")
    return float(match[1]) * _SECONDS[match[2]]


def _log(
    ask: Callable[[], "RouterView"], redis: str | None, namespace: str, config: Path | None
) -> "tuple[RouterView | None, str, str]":
    """The controller's state if it is asked, and where its log is.

    Raises:
        ConfigurationError: There is no log, or the options contradict each other.
    """
    if redis is not None and config is not None:
        raise ConfigurationError("--redis", "say where the log is once: either --redis URL or --config FILE")
    if redis is not None:
        return None, redis, namespace
    if config is not None:
        from controller.settings import Settings

        settings = Settings.load(config)
        if settings.redis is None:
            raise ConfigurationError(str(config), "redis: is missing; without it nothing is logged")
        return None, settings.redis.url, settings.redis.namespace
    view = ask()
    if not view.log.url:
        raise ConfigurationError("redis", "this controller keeps no decision log; set redis.url in its configuration")
    return view, view.log.url, view.log.namespace or namespace


def _asked(target: str, way: Mapping[str, Any]) -> "RouterView":
    from forerun.client import RouterClient

    with told_if_nobody_answers(target), RouterClient(target, **way) as router:
        return router.show()


async def _window(url: str, namespace: str, since_ms: int) -> "Window":
    from controller.embedded_redis import SCHEME, embedded_redis
    from forerun.decision_log import read_window

    async with AsyncExitStack() as stack:
        if url.startswith(SCHEME):
            url = await stack.enter_async_context(embedded_redis(url))
        return await read_window(url, namespace=namespace, since_ms=since_ms)
