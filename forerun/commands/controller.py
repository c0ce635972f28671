"""`forerun controller`: one controller in the foreground."""

import typer

from forerun.commands.program import PASS_ON_HELP, become

__all__ = ["PASS_ON_HELP", "controller"]


def controller(context: typer.Context) -> None:
    """Run one controller in the foreground; `forerun controller --help` lists its options.

    [cyan]forerun controller --config controller.yaml[/cyan]
    """
    become("controller", context.args)
