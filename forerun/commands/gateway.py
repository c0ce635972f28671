"""`forerun gateway`: OpenAI-compatible HTTP in the foreground."""

import typer

from forerun.commands.program import PASS_ON_HELP, become

__all__ = ["PASS_ON_HELP", "gateway"]


def gateway(context: typer.Context) -> None:
    """Run OpenAI-compatible HTTP in front of a controller; `forerun gateway --help` lists all options.

    [cyan]forerun gateway --controller 127.0.0.1:50050 --listen 127.0.0.1:8000[/cyan]
    """
    become("gateway", context.args)
