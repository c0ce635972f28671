"""`forerun health`: whether processes are well; for operators, and for the probes of containers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forerun.commands.controller_address import DEFAULT_ADDRESS, Ca, Cert, ServerName
from forerun.console import RESULT, emit

if TYPE_CHECKING:
    from forerun.health import Health


def health(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ADDRESS]...",
            help="host:port of controllers and workers.",
            show_default=DEFAULT_ADDRESS,
        ),
    ] = None,
    alive: Annotated[
        bool,
        typer.Option(
            "--alive", help="Enough that it answers: a controller without a target and a draining process do."
        ),
    ] = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Annotated[
        Path | None, typer.Option(help="PEM file of the key of --cert.", show_default="the same file")
    ] = None,
    server_name: ServerName = None,
    timeout_s: Annotated[float, typer.Option(min=0.01, help="How long each may take to answer, in seconds.")] = 3.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")] = False,
) -> None:
    """Ask controllers and workers whether they serve; exit status 1 if any does not.

    [cyan]forerun health[/cyan]

    [cyan]forerun health 10.0.0.1:50050 10.0.0.2:50061 --json[/cyan]

    [cyan]forerun health 10.0.0.2:50061 --ca ca.pem --cert probe.pem --server-name worker.forerun[/cyan]
    """
    from forerun.connection import Connection
    from forerun.health import State, health_of

    ways = [
        Connection.to(each, ca=ca, cert=cert, key=key, server_name=server_name)
        for each in addresses or (DEFAULT_ADDRESS,)
    ]
    answers = [health_of(way, timeout_s=timeout_s) for way in ways]
    well = {State.SERVING, State.NOT_SERVING} if alive else {State.SERVING}
    ok = all(answer.state in well for answer in answers)
    if as_json:
        emit({"ok": ok, "processes": answers})
    for answer in () if as_json else answers:
        RESULT.print(_line(answer), markup=False)
    raise typer.Exit(0 if ok else 1)


def _line(answer: "Health") -> str:
    about = [answer.address, answer.kind, answer.state.value, f"({answer.problem})" if answer.problem else ""]
    return " ".join(part for part in about if part)
