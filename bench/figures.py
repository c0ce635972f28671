"""What a bench reports: figures with their spread and goal, and where, when and by which code they were measured."""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from bench.machine import describe_commit, describe_machine
from bench.spread import Spread
from forerun.console import PEOPLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number.

    Attributes:
        name: Its name, the same in every report.
        value: The number.
        unit: "x" for a ratio, "ms", "tokens/s", ...
        low: Lower end of its 95% interval; None for a count.
        high: Upper end.
        goal: What it should reach; None if it is only for information.
        at_most: Whether the goal is an upper limit.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def unstable(self) -> bool:
        """Whether its interval is too wide to rely on the value."""
        return self.low is not None and self.high is not None and Spread(self.value, self.low, self.high).unstable


def figure(
    name: str, spread: Spread, unit: str, *, goal: float | None = None, at_most: bool = False, digits: int = 4
) -> Figure:
    """A figure with its interval, rounded to what the measurement can carry."""
    value, low, high = (round(number, digits) for number in (spread.value, spread.low, spread.high))
    return Figure(name=name, value=value, unit=unit, low=low, high=high, goal=goal, at_most=at_most)


def count(name: str, value: int, unit: str, *, goal: float | None = None, at_most: bool = False) -> Figure:
    """A figure that was counted."""
    return Figure(name=name, value=value, unit=unit, goal=goal, at_most=at_most)


def remarks_on(figures: Sequence[Figure], *, load_before: float, cores: int) -> list[str]:
    """Why these figures may not be what a quiet machine would give."""
    remarks = [
        f"{entry.name} is unstable: its interval is wider than a tenth of it" for entry in figures if entry.unstable
    ]
    if load_before > 0.5 * cores:
        remarks.append(f"the machine was busy before the bench began (load {load_before:.2f} on {cores} cores)")
    return remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Figures and all that is needed to compare them with others."""

    figures: tuple[Figure, ...]
    seed: int
    load_before: float

    def line(self) -> str:
        """The report as one line of JSON."""
        machine = describe_machine() | {"load_1min": round(self.load_before, 2)}
        report = {
            "figures": [_without_direction(entry) for entry in self.figures],
            "machine": machine,
            "commit": describe_commit(),
            "seed": self.seed,
            "command": shlex.join(["forerun", "bench", *sys.argv[1:]]),
            "remarks": self.remarks(int(machine["cores"])),
        }
        return json.dumps(report)

    def remarks(self, cores: int) -> list[str]:
        """Why the figures may not be what a quiet machine would give."""
        return remarks_on(self.figures, load_before=self.load_before, cores=cores)

    def show(self, *, as_json: bool, output: Path | None = None) -> None:
        """A table for people; with `output` the run in a file, and with `as_json` on the last line of stdout."""
        machine = describe_machine()
        PEOPLE.print(_table(self.figures))
        PEOPLE.print(f"[dim]{machine['cpu']}, {machine['cores']} cores; commit {describe_commit()[:12]}[/dim]")
        for remark in self.remarks(int(machine["cores"])):
            PEOPLE.print(f"[yellow]{remark}[/yellow]")
        line = self.line()
        if output is not None:
            output.write_text(line + "\n", encoding="utf-8")
        if as_json:
            print(line, flush=True)


def _without_direction(entry: Figure) -> dict[str, object]:
    fields = asdict(entry)
    del fields["at_most"]
    return fields


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("figure")
    for heading in ("value", "95% interval", "goal"):
        table.add_column(heading, justify="right")
    for entry in figures:
        interval = f"{entry.low:g} to {entry.high:g}" if entry.low is not None and entry.high is not None else ""
        sign = "at most " if entry.at_most else "at least "
        goal = "" if entry.goal is None else f"{'' if entry.at_most and entry.goal == 0 else sign}{entry.goal:g}"
        style = {True: "green", False: "bold red", None: ""}[entry.reached]
        table.add_row(entry.name, f"{entry.value:g} {entry.unit}", interval, goal, style=style)
    return table
