"""What is done with runs that were kept."""

from pathlib import Path
from typing import Annotated

import typer

from bench.commands.options import AsJson, writable
from forerun.console import FAILURE

RunFile = Annotated[Path, typer.Argument(help="A run that --output of a bench wrote.", show_default=False)]


def compare(
    old: RunFile,
    new: RunFile,
    ratios_only: Annotated[
        bool, typer.Option("--ratios-only", help="Only what each run compares within itself; machines may differ.")
    ] = False,
    tolerance: Annotated[float, typer.Option(min=0, max=1, help="Share of a figure by which it may get worse.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Compare the figures of two runs; the exit status is 1 if any got worse.

    A figure is better or worse if its 95% intervals do not overlap, and if it differs by more than the tolerance. What
    was counted has no interval: any other count is one. Runs of different machines are refused, with exit status 2.

    [cyan]forerun bench compare before.json after.json --tolerance 0.05[/cyan]
    """
    from bench.runs.compare import as_values, table
    from bench.runs.compare import compare as compared
    from bench.runs.run import Run
    from forerun.console import RESULT, emit

    found = compared(Run.load(old), Run.load(new), ratios_only=ratios_only, tolerance=tolerance)
    if as_json:
        emit(as_values(found))
    else:
        RESULT.print(table(found))
        for remark in found.remarks:
            RESULT.print(f"[dim]{remark}[/dim]")
        for which, names in (("old", found.only_old), ("new", found.only_new)):
            if names:
                RESULT.print(f"[dim]only in the {which} run: {', '.join(names)}[/dim]")
    if found.worse:
        raise typer.Exit(FAILURE)


def report(
    runs: Annotated[list[Path], typer.Argument(help="Runs that --output of a bench wrote.", show_default=False)],
    output: Annotated[Path, typer.Option(callback=writable, help="The page.")] = Path("report.html"),
) -> None:
    """Make one page of runs: goals, plots and all figures, in a file that needs nothing beside it.

    Runs of different machines are refused: they belong on different pages.

    [cyan]forerun bench report speed.json router.json --output report.html[/cyan]
    """
    from bench.runs.page import page_of
    from bench.runs.run import Run
    from forerun.console import PEOPLE

    output.write_text(page_of([Run.load(file) for file in runs]), encoding="utf-8")
    PEOPLE.print(f"{output}: {len(runs)} runs")
