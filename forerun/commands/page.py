"""`forerun page`: the operator's page in the foreground."""

import typer

from forerun.commands.program import PASS_ON_HELP, become

__all__ = ["PASS_ON_HELP", "page"]


def page(context: typer.Context) -> None:
    """Run the operator's page of a controller; `forerun page --help` lists all options.

    [cyan]forerun page --controller 127.0.0.1:50050 --listen 127.0.0.1:8080[/cyan]
    """
    become("page", context.args)
