"""`python -m bench`, which is what `forerun bench` runs: the measurements behind the README's numbers."""

import typer

from bench.commands import faults, fuzz, gpu, load, measurements, router, runs
from forerun.console import run_commands

KEPT = "Runs that were kept"

app = typer.Typer(
    name="forerun bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Measure a fleet that is started for the purpose, with the models of the zoo.

With [cyan]--json[/cyan] the last line of stdout is {"figures": [...], "machine": ..., "commit": ..., "seed": ...}
[cyan]--output FILE[/cyan] keeps the same as a file.""",
)
app.command()(measurements.exactness)
app.command()(measurements.speed)
app.command()(measurements.chains)
app.command()(measurements.ahead)
app.command()(measurements.edits)
app.command()(measurements.overhead)
app.command()(measurements.rules)
app.command()(measurements.peers)
app.command()(load.load)
app.command()(load.overload)
app.command()(load.scale)
app.command()(faults.faults)
app.command()(faults.soak)
app.command()(router.router)
app.command()(fuzz.fuzz)
app.command()(gpu.gpu)
app.command(rich_help_panel=KEPT)(runs.compare)
app.command(rich_help_panel=KEPT)(runs.report)


def main() -> None:
    """Run the command line."""
    run_commands(app)


if __name__ == "__main__":
    main()
