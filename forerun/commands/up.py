"""`forerun up`: the whole fleet on this machine, until Ctrl-C."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forerun.commands.profile import Profile, target_of
from forerun.console import PEOPLE, RESULT, emit
from speculation.logs import FORMAT_VARIABLE, LogFormat

if TYPE_CHECKING:
    from forerun.local_fleet import FleetSettings, LocalFleet


def up(
    config: Annotated[
        Path | None, typer.Option(help="A YAML file with the same settings; options given here overrule it.")
    ] = None,
    profile: Annotated[
        Profile | None, typer.Option(help="What the zoo's target costs: plain, deep or wide.", show_default="deep")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Another target: a folder or hub id.", show_default="the zoo's")
    ] = None,
    drafters: Annotated[
        str | None,
        typer.Option(
            help="Zoo names, or NAME=MODEL for others, by commas; suffix drafts without a model.",
            show_default="code,docs,math,json,mixed",
        ),
    ] = None,
    verify_workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that serve the target.", show_default="1")
    ] = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Option(
            min=1, help="Ranks of each of them, for a target too large for one GPU (--device cuda).", show_default="1"
        ),
    ] = None,
    target_threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="Torch threads of each of them on a CPU.", show_default="the processors that others leave"
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Where the controller listens; port 0 takes a free one.", show_default="127.0.0.1:50050"),
    ] = None,
    http: Annotated[
        str | None,
        typer.Option(help="Also OpenAI-compatible HTTP, listening here, such as 127.0.0.1:8000.", show_default="none"),
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(help="Also the operator's page, listening here, such as 127.0.0.1:8080.", show_default="none"),
    ] = None,
    insecure: Annotated[
        bool | None,
        typer.Option("--insecure", help="Listen in plain text where other machines can reach the controller, too."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Torch device of the models.", show_default="cpu")] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Their numbers; exact to the token is float32, or bfloat16 with --exact.", show_default="float32"
        ),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact", help="A target in bfloat16 on a CPU decides as in plain decoding, to the last bit."),
    ] = None,
    prepack: Annotated[
        str | None,
        typer.Option(
            help="Pack weights for the CPU's kernels: on, off, or auto if a trial finds that faster.",
            show_default="auto",
        ),
    ] = None,
    remember: Annotated[
        int | None,
        typer.Option(
            min=0, help="Most tokens of ended texts that suffix drafts from, for each tenant.", show_default="0: none"
        ),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(help="Where decisions are logged: a URL, embedded or none.", show_default="embedded"),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Where the controller serves metrics for Prometheus and [cyan]forerun top[/cyan]; 127.0.0.1:9464 is "
            "where both look.",
            show_default="nowhere",
            metavar="ADDRESS",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="Of the logs of all processes: one line an event.", show_default="json")
    ] = None,
    state_folder: Annotated[
        Path, typer.Option(help="For logs, the decision log and the controller's settings.")
    ] = Path(".forerun"),
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON when the fleet is ready.")] = False,
) -> None:
    """Run the whole fleet on this machine until Ctrl-C: target, drafters, Redis and controller.

    Nothing listens beyond the loopback unless --listen says so. A process that dies is restarted, later
    each time, and given up after ten deaths in a row; the others go on.

    [cyan]forerun up[/cyan]

    [cyan]forerun up --profile plain --drafters code,math,suffix --listen 127.0.0.1:0 --json[/cyan]

    [cyan]forerun up --target ./my-model --drafters small=./my-small-model[/cyan]
    """
    from forerun.commands.fleet_options import drafters_of, fleet_settings

    given = {
        "target": target or (target_of(profile) if profile else None),
        "drafters": None if drafters is None else drafters_of(drafters),
        "verify_workers": verify_workers,
        "tensor_parallel": tensor_parallel,
        "target_threads": target_threads,
        "listen": listen,
        "http": http,
        "page": page,
        "insecure": insecure,
        "device": device,
        "dtype": dtype,
        "exact": exact,
        "prepack": prepack,
        "remember": remember,
    }
    settings = fleet_settings(config, given, redis=redis, metrics=metrics)
    if log_format is not None:
        os.environ[FORMAT_VARIABLE] = log_format  # which all processes inherit
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_up(settings, state_folder.absolute(), as_json=as_json))


async def _up(settings: "FleetSettings", state_folder: Path, *, as_json: bool) -> None:
    from forerun.fleet_screen import shown_fleet

    with _cancelled_by_signals():
        async with shown_fleet(settings, state_folder) as fleet:
            _show(fleet, as_json=as_json)
            # Until a signal: it cancels this task, and leaving the fleet drains it.
            await asyncio.Event().wait()


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT cancel the running task, at whatever point of starting or serving it is."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _show(fleet: "LocalFleet", *, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "event": "ready",
                "address": fleet.address,
                "http": fleet.http_address,
                "page": fleet.page_address,
                "target": fleet.target_folder,
                "processes": fleet.processes,
                "problems": fleet.problems,
            }
        )
        return
    from rich.text import Text

    from forerun.fleet_screen import process_table

    RESULT.print(process_table(fleet.processes))
    for problem in fleet.problems:
        PEOPLE.print(Text(problem, "yellow"))
    RESULT.print(f"\nready at [bold]{fleet.address}[/bold]; Ctrl-C stops everything. Try:\n")
    RESULT.print(f'  forerun generate "def area(radius):" --task code --explain --target {fleet.address}\n')
    if fleet.http_address is not None:
        RESULT.print(f"  curl http://{fleet.http_address}/v1/models\n")
    if fleet.page_address is not None:
        RESULT.print(f"  the operator's page: http://{fleet.page_address}\n")
    PEOPLE.print("[dim]all on one machine: for trying out, not for production[/dim]")
