"""The `forerun` command.

Only what is needed to parse the command line is imported here: torch, transformers and gRPC come in when a command
that needs them runs, so that `forerun --help` answers at once.
"""

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

app = typer.Typer(
    name="forerun",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Serve a large language model faster, without changing one token of its output.

Small drafters run ahead, the target checks many of their tokens in one pass.

[bold]Try it:[/bold]  [cyan]forerun demo[/cyan]

[bold]Use it:[/bold]  [cyan]forerun up[/cyan], and in another terminal  [cyan]forerun generate "def area(r):"[/cyan]

Every command takes [cyan]--json[/cyan]: results as JSON on stdout, all else on stderr.""",
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("generate")(generate.generate)
app.command("diagnose")(diagnose.diagnose)
app.command("top")(top.top)
app.command("health")(health.health)
app.command("worker", context_settings=worker.PASS_ON)(worker.worker)
app.command("controller", context_settings=controller.PASS_ON_HELP)(controller.controller)
app.command("gateway", context_settings=gateway.PASS_ON_HELP)(gateway.gateway)
app.command("bench", context_settings=bench.PASS_ON_HELP)(bench.bench)
router_models.add_to(router.app)
router_retraining.add_to(router.app)
app.add_typer(router.app, name="router")
app.add_typer(fleet.app, name="fleet")
app.add_typer(config.app, name="config")
app.add_typer(token.app, name="token")
app.add_typer(zoo.app, name="zoo")


def main() -> None:
    """Run the command line."""
    run_commands(app)


if __name__ == "__main__":
    main()
