"""How `forerun top` shows a controller."""

from collections.abc import Iterable
from typing import Self

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from forerun.console import PEOPLE
from forerun.top import Drafting, TopView, WorkerLoad

GOOD, WARNING, BAD = "green", "yellow", "bold red"
MOST_ROWS = 8


class TopScreen:
    """The last view, until there is a newer one."""

    def __init__(self, address: str) -> None:
        waiting = Text(f"looking at {address}", style="dim")
        self._live = Live(waiting, console=PEOPLE, auto_refresh=False, screen=PEOPLE.is_terminal)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, view: TopView) -> None:
        """A newer one."""
        self._live.update(draw_top(view), refresh=True)


def draw_top(view: TopView) -> RenderableType:
    """Everything on one screen."""
    parts: list[RenderableType] = [_traffic(view), _state(view)]
    if view.by_drafters:
        parts += [Text(), _drafting_table("drafters", view.by_drafters)]
    if view.by_policy:
        parts += [Text(), _drafting_table("policy", view.by_policy)]
    return Group(*parts, Text(), _workers_table(view.workers))


def _traffic(view: TopView) -> Text:
    first = "" if view.first_token_s is None else f"   first token {1000 * view.first_token_s:.0f} ms"
    line = Text.assemble(
        (f"{view.requests_per_second:.1f}", "bold"),
        " requests/s   ",
        (f"{view.tokens_per_second:.1f}", "bold"),
        " tokens/s   ",
        (f"{view.accepted_per_round:.2f}", "bold"),
        f" accepted a round{first}   {view.in_flight} of {view.capacity} in flight",
    )
    if view.waiting:
        line.append(f", {view.waiting} waiting", WARNING)
    if view.in_line:
        line.append(f"   in line {', '.join(f'{number} {name}' for name, number in view.in_line.items())}", WARNING)
    if view.refused_per_second:
        line.append(f"   refused {view.refused_per_second:.1f}/s", BAD)
    if view.failed_per_second:
        line.append(f"   broken off {view.failed_per_second:.1f}/s", WARNING)
    return line


def _state(view: TopView) -> Text:
    line = Text.assemble(("policy ", "dim"), view.policy, ("   mode ", "dim"), view.mode)
    if view.learning_lag is not None:
        line.append("   not learnt yet ", "dim").append(f"{view.learning_lag} records")
    if view.log_dropped:
        line.append(f"   {view.log_dropped} records dropped", WARNING)
    if view.kill_switch:
        line.append("   KILL SWITCH ON", BAD)
    if view.config_wrong:
        line.append("   the configuration file is wrong: forerun router show", BAD)
    return line


def _drafting_table(heading: str, rows: Iterable[Drafting]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column(heading, min_width=12)
    for column in ("rounds/s", "accepted a round", "of the drafted", "tokens/s a request"):
        table.add_column(column, justify="right")
    for row in tuple(rows)[:MOST_ROWS]:
        table.add_row(
            row.name,
            f"{row.rounds_per_second:.1f}",
            f"{row.accepted_per_round:.2f}",
            f"{row.accepted_share:.0%}",
            f"{row.tokens_per_second:.1f}",
        )
    return table


def _workers_table(workers: Iterable[WorkerLoad]) -> Table:
    table = Table(box=None, header_style="dim")
    for column in ("worker", "role", "address", "health"):
        table.add_column(column, min_width=6)
    table.add_column("sessions", justify="right")
    for worker in workers:
        health = Text("serving", GOOD) if worker.serving else Text("not serving", BAD)
        load = f"{worker.sessions} of {worker.slots}" if worker.slots else str(worker.sessions)
        table.add_row(worker.name, worker.role, worker.address, health, load)
    return table
