"""`forerun worker`: one worker in the foreground."""

from collections.abc import Sequence

import typer

from forerun.commands.program import PASS_ON, become

__all__ = ["PASS_ON", "worker"]


def worker(context: typer.Context) -> None:
    """Run one worker in the foreground; `forerun worker --help` lists its options.

    A model is a folder, a hub id, or one of the zoo:  [cyan]forerun worker --role draft --model zoo:code[/cyan]
    """
    become("worker", with_models_resolved(context.args))


def with_models_resolved(arguments: Sequence[str]) -> list[str]:
    """The same arguments with the folder of a zoo model instead of its name: a worker knows folders and hub ids."""
    from forerun.models import model_folder

    resolved = list(arguments)
    for place, argument in enumerate(resolved):
        if argument.startswith("--model="):
            resolved[place] = f"--model={model_folder(argument.removeprefix('--model='))}"
        elif place and resolved[place - 1] == "--model":
            resolved[place] = model_folder(argument)
    return resolved
