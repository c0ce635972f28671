"""The `forerun` command.

Only what is needed to parse the command line is imported here: torch, transformers and gRPC come in when a command
that needs them runs, so that `forerun --help` answers at once.
"""

from typing import Annotated

import typer

from forerun.commands import (
    bench,
    config,
    controller,
    demo,
    diagnose,
    fleet,
    gateway,
    generate,
    health,
    page,
    router,
    router_models,
    router_retraining,
    token,
    top,
    up,
    worker,
    zoo,
)
from forerun.console import run_commands

RUN, CALL, OPERATE, PREPARE = "Run it", "Call it", "See and steer it", "Prepare and measure"

app = typer.Typer(
    name="forerun",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"forerun {version('forerun')}")
        raise typer.Exit


@app.callback()
def forerun(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Serve a large language model faster, without changing one token of its output.

    Small drafters run ahead, the target checks many of their tokens in one pass.

    [bold]Try it:[/bold]  [cyan]forerun demo[/cyan]

    [bold]Use it:[/bold]  [cyan]forerun up[/cyan], and in another terminal  [cyan]forerun generate "def area(r):"[/cyan]

    [bold]Your own models:[/bold]  [cyan]forerun up --target ./my-model --drafters small=./my-small-model[/cyan]

    Every command takes [cyan]--json[/cyan]: results as JSON on stdout, all else on stderr. A mistake of yours ends with
    status 2, a failure with 1, and either with one line that says what to do.
    """


app.command("up", rich_help_panel=RUN)(up.up)
app.command("demo", rich_help_panel=RUN)(demo.demo)
app.command("controller", rich_help_panel=RUN, context_settings=controller.PASS_ON_HELP)(controller.controller)
app.command("worker", rich_help_panel=RUN, context_settings=worker.PASS_ON)(worker.worker)
app.command("gateway", rich_help_panel=RUN, context_settings=gateway.PASS_ON_HELP)(gateway.gateway)
app.command("page", rich_help_panel=RUN, context_settings=page.PASS_ON_HELP)(page.page)
app.command("generate", rich_help_panel=CALL)(generate.generate)
app.command("top", rich_help_panel=OPERATE)(top.top)
app.command("health", rich_help_panel=OPERATE)(health.health)
app.command("diagnose", rich_help_panel=OPERATE)(diagnose.diagnose)
router_models.add_to(router.app)
router_retraining.add_to(router.app)
app.add_typer(router.app, name="router", rich_help_panel=OPERATE)
app.add_typer(fleet.app, name="fleet", rich_help_panel=RUN)
app.add_typer(config.app, name="config", rich_help_panel=PREPARE)
app.add_typer(token.app, name="token", rich_help_panel=PREPARE)
app.add_typer(zoo.app, name="zoo", rich_help_panel=PREPARE)
app.command("bench", rich_help_panel=PREPARE, context_settings=bench.PASS_ON_HELP)(bench.bench)


def main() -> None:
    """Run the command line."""
    run_commands(app)


if __name__ == "__main__":
    main()
