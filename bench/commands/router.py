"""The comparison of routing policies."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import DEFAULT_SEED, HELD_FOR_TUNING, AsJson, Cost, Output, Quick, Seed
from forerun.commands.profile import Profile

if TYPE_CHECKING:
    from bench.figures import Curves, Figure


def router(
    recording: Annotated[
        Path | None, typer.Option(help="A file of what the models said: read if it is there, else written.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="A file of what rounds take: read if it is there, else written.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A folder for tables and learning curves.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Compare policies on rows of your own fleet instead.")] = None,
    live: Annotated[bool, typer.Option(help="Ask the real fleet with many streams, too.")] = True,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Compare routing policies with an oracle, by replaying what real models drafted.

    [b]Real:[/b] the answers, every draft of every drafter at every position, which tokens are accepted, prompt
    surprisal, and [cyan]router.load_of_none[/cyan], which is served live by a fleet. [b]Replayed:[/b] time. What a
    round takes is predicted from a profile that is measured on a fleet first, with noise of the measured spread. The
    prompts recur in a long run; a policy is not told which they are.

    With [cyan]--csv FILE[/cyan] nothing is started. The file has a line for each round measured elsewhere,

    [cyan]context,arm,tokens,milliseconds[/cyan]

    where an arm is [cyan]none[/cyan] or [cyan]DRAFTER:DEPTHxBRANCHINGxBUDGET[/cyan]. Each choice of a policy draws one
    of the rows of its arm in that context. Policies that choose what has no rows are left out, and named.

    [cyan]forerun bench router --recording said.safetensors --costs took.json --report router --json[/cyan]
    """
    load_before = os.getloadavg()[0]
    figures, curves = _measured(recording, costs, report, csv, live=live, profile=profile, quick=quick, seed=seed)
    from bench.runs.report import Report

    Report(figures=figures, seed=seed, load_before=load_before, curves=curves).show(as_json=as_json, output=output)


def _measured(
    recording: Path | None,
    costs: Path | None,
    report: Path | None,
    csv: Path | None,
    *,
    live: bool,
    profile: Profile,
    quick: bool,
    seed: int,
) -> "tuple[tuple[Figure, ...], tuple[Curves, ...]]":
    """Figures and learning curves; rows of another fleet give no curves."""
    from dataclasses import replace

    from bench.router.rows import measure_rows, read_rows
    from bench.router.run import FULL, QUICK, measure_router
    from forerun.console import PEOPLE

    extent = QUICK if quick else FULL
    if csv is None:
        measured, curves = measure_router(
            extent if live else replace(extent, bursts=0),
            profile=profile,
            seed=seed,
            skip=HELD_FOR_TUNING,
            recording_file=recording,
            costs_file=costs,
            report_folder=report,
        )
        return measured, (curves,)
    seeds = range(seed, seed + extent.seeds)
    figures, remarks = measure_rows(
        read_rows(csv), warm_up=extent.warm_up, measured=extent.measured, seeds=seeds, seed=seed
    )
    for remark in remarks:
        PEOPLE.print(f"[yellow]{remark}[/yellow]")
    return figures, ()
