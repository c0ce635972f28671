"""The end of a bench: its figures for people and for programs, and the run as a file."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from bench.figures import Curves, Figure
from bench.machine import these_versions, this_checkout, this_machine
from bench.runs.run import Run
from forerun.console import PEOPLE


def remarks_on(figures: Sequence[Figure], *, load_before: float, cores: int) -> list[str]:
    """Why these figures may not be what a quiet machine would give."""
    remarks = []
    if unstable := [entry.name for entry in figures if entry.unstable]:
        remarks.append(f"unstable, with intervals wider than a tenth of their values: {', '.join(unstable)}")
    if pointed := sum(entry.low is not None and entry.low == entry.high for entry in figures):
        remarks.append(f"{pointed} figures have intervals without width, as after one sample: their spread is unknown")
    if load_before > 0.5 * cores:
        remarks.append(f"the machine was busy before the bench began (load {load_before:.2f} on {cores} cores)")
    return remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a bench found.

    Attributes:
        figures: Its figures.
        seed: Of sampled answers and of the resampling.
        load_before: Load of the machine in the minute before it began.
        curves: How something went.
    """

    figures: tuple[Figure, ...]
    seed: int
    load_before: float
    curves: tuple[Curves, ...] = ()

    def run(self) -> Run:
        """With where, when and by which code it was measured: this machine, now, the code that runs."""
        machine, checkout = this_machine(), this_checkout()
        finite = tuple(entry for entry in self.figures if entry.is_finite)
        lost = [
            f"{entry.name} came out as {entry.value}, and is left out" for entry in self.figures if entry not in finite
        ]
        return Run(
            figures=finite,
            curves=tuple(entry for entry in self.curves if entry.is_whole),
            machine=machine,
            versions=these_versions(),
            commit=checkout.commit,
            dirty=checkout.dirty,
            seed=self.seed,
            date=datetime.now(UTC).replace(microsecond=0),
            command=shlex.join(["forerun", "bench", *sys.argv[1:]]),
            load_before=round(self.load_before, 2),
            remarks=(*lost, *remarks_on(finite, load_before=self.load_before, cores=machine.cores)),
        )

    def show(self, *, as_json: bool, output: Path | None = None) -> None:
        """A table for people; with `output` the run in a file, and with `as_json` on the last line of stdout."""
        run = self.run()
        PEOPLE.print(_table(run.figures))
        PEOPLE.print(f"[dim]{run.machine}; commit {run.checkout}[/dim]")
        for remark in run.remarks:
            PEOPLE.print(f"[yellow]{remark}[/yellow]")
        if output is not None:
            run.save(output)
        if as_json:
            print(run.line(), flush=True)


def _table(figures: Sequence[Figure]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("figure", overflow="fold")
    for heading in ("value", "95% interval", "goal"):
        table.add_column(heading, justify="right")
    for entry in figures:
        style = {True: "green", False: "bold red", None: ""}[entry.reached]
        table.add_row(entry.name, f"{entry.value:g} {entry.unit}", entry.interval, entry.goal_in_words, style=style)
    return table
