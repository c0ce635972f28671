"""`forerun router`: see what the router of a running controller does, and overrule it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
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

if TYPE_CHECKING:
    from forerun.client import ArmView, RouterClient

app = typer.Typer(
    name="router",
    no_args_is_help=True,
    help="See what the router of a running controller does, and overrule it. No text ever changes by it.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")]


class Switch(Enum):
    """The positions of a switch."""

    ON = "on"
    OFF = "off"


@app.command("show")
def show(
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Show the workers, who decides and in which mode, the configuration and its problems, and what was decided.

    [cyan]forerun router show[/cyan]

    [cyan]forerun router show --json | jq .config.problem[/cyan]
    """
    with _router(target, token, ca, cert, server_name) as router:
        view = router.show()
    if as_json:
        emit({**plain(view), "arms": _arms(view.arms)})
        return
    from forerun.router_screen import draw_router

    RESULT.print(draw_router(view))


@app.command("explain")
def explain(
    request: Annotated[str, typer.Argument(help="Its request_id, as the answer's summary gives it.")],
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Show a recent request round by round: what was chosen and why, its tree, what was kept, what it cost.

    A controller remembers its last thousand requests.

    [cyan]forerun router explain 019a9b1c-7d54-7c11-a2f0-5d1f0c0e9b11[/cyan]
    """
    with _router(target, token, ca, cert, server_name) as router:
        rounds = router.explain(request)
    if as_json:
        emit({"request_id": request, "rounds": rounds})
        return
    from forerun.explanation import draw_round

    for report in rounds:
        RESULT.print(draw_round(report))


@app.command("arms")
def arms(
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Show every combination of drafters and tree, the most often chosen first, and what came of it.

    Counted since the controller began. `accepted` is the share of drafted tokens that was kept.

    [cyan]forerun router arms[/cyan]
    """
    from forerun.router_screen import arms_table, by_rounds

    with _router(target, token, ca, cert, server_name) as router:
        ordered = by_rounds(router.show().arms)
    if as_json:
        emit({"arms": _arms(ordered)})
    else:
        RESULT.print(arms_table(ordered))


@app.command("policy")
def policy(
    name: Annotated[str, typer.Argument(help="A name that `forerun router show` lists.")],
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Put another policy in charge, where neither the request nor a rule names one.

    Running requests end with the one they began with. It holds until the configuration file names another policy
    than it does now, or the controller starts again.

    [cyan]forerun router policy planner[/cyan]
    """
    with _router(target, token, ca, cert, server_name) as router:
        previous = router.set_policy(name)
    if as_json:
        emit({"policy": name, "previous_policy": previous})
    else:
        RESULT.print(f"{name} decides from now on, in place of {previous}")


@app.command("kill")
def kill(
    switch: Annotated[Switch, typer.Argument(help="on: no speculation from the next round on. off: allow it again.")],
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Stop all speculation at once, running requests included, or allow it again. Requests go on, only slower.

    A kill switch that the configuration engages is released there: router.kill_switch.

    [cyan]forerun router kill on[/cyan]
    """
    with _router(target, token, ca, cert, server_name) as router:
        engaged = router.set_kill_switch(switch is Switch.ON)
    if as_json:
        emit({"kill_switch": engaged})
    elif engaged and switch is Switch.OFF:
        RESULT.print("still on: the configuration engages it; set router.kill_switch to false in its file")
    else:
        RESULT.print("on: nothing is speculated" if engaged else "off: the policies decide again")


@app.command("reload")
def reload(
    target: Target = DEFAULT_ADDRESS,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    server_name: ServerName = None,
    as_json: AsJson = False,
) -> None:
    """Have the configuration file read now, and say what changed; a file that is wrong changes nothing.

    The controller also follows its file by itself, within a second.

    [cyan]forerun config check controller.yaml && forerun router reload[/cyan]
    """
    with _router(target, token, ca, cert, server_name) as router:
        changed, config = router.reload_config()
    if as_json:
        emit({"changed": changed, "config": config})
        return
    RESULT.print(f"changed: {', '.join(changed)}" if changed else "nothing changed")
    if config.waiting_for_restart:
        RESULT.print(f"waiting for a restart: {', '.join(config.waiting_for_restart)}")


@contextmanager
def _router(
    address: str, token: str | None, ca: str | None, cert: str | None, server_name: str | None
) -> "Iterator[RouterClient]":
    from forerun.client import RouterClient

    with (
        told_if_nobody_answers(address),
        RouterClient(address, token=token, ca=ca, cert=cert, server_name=server_name) as router,
    ):
        yield router


def _arms(arms: "Iterable[ArmView]") -> list[dict[str, Any]]:
    derived = ("acceptance_rate", "tokens_per_round")
    return [{**plain(arm), **{name: getattr(arm, name) for name in derived}} for arm in arms]
