"""`forerun bench`: the measurements behind the README's numbers."""

import typer

from forerun.commands.program import PASS_ON_HELP, become

__all__ = ["PASS_ON_HELP", "bench"]


def bench(context: typer.Context) -> None:
    """Measure, compare runs, and show them on a page; `forerun bench --help` lists all of it.

    [cyan]forerun bench speed --output speed.json[/cyan]
    """
    # A program of its own, which sees the product as any caller does; nothing here depends on it.
    become("bench", context.args)
