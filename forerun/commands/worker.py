"""`forerun worker`: one worker in the foreground."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from forerun.commands.program import PASS_ON, become
from speculation.errors import ConfigurationError
from worker.settings import SUFFIX

__all__ = ["PASS_ON", "worker"]

Role = Literal["draft", "verify"]


def worker(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help="What the model is for: to draft, or to verify (the target).")],
    model: Annotated[
        str,
        typer.Option(
            help="A folder, a hub id, or one of the zoo: zoo:code, zoo:target@deep. suffix:TARGET drafts for "
            "that target without a model, from what a text has said before."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Its name in requests.", show_default="target, or the model's last part")
    ] = None,
    fleet: Annotated[
        Path | None,
        typer.Option(
            help="Join the fleet whose `forerun up` has this --state-folder, in place of --redis and --namespace.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Run one worker in the foreground. Options not listed here are passed on.

    [cyan]forerun worker verify --model zoo:target@deep --listen 127.0.0.1:50061[/cyan]

    [cyan]forerun worker draft --model ./my-small-model --name small --device cuda:0 --redis redis://host:6379[/cyan]

    [cyan]forerun worker draft --model suffix:./my-target --redis redis://host:6379[/cyan]

    [cyan]forerun worker draft --model ./my-small-model --fleet .forerun[/cyan]

    All options:  [cyan]python -m worker --help[/cyan]
    """
    from forerun.models import model_folder

    arguments = {"role": role, "model": model_folder(model), "name": name or default_name(role, model)}
    if fleet is not None:
        arguments |= registry_of(fleet)
    become("worker", [*_flags(arguments), *context.args])


def registry_of(folder: Path) -> dict[str, str]:
    """Where workers of the fleet that runs in this folder announce themselves, as options of a worker.

    Raises:
        ConfigurationError: No fleet has run there, or it has no Redis.
    """
    from controller.embedded_redis import SCHEME, socket_path
    from controller.settings import Settings
    from forerun.local_fleet import CONTROLLER_FILE

    file = folder / CONTROLLER_FILE
    if not file.is_file():
        raise ConfigurationError("--fleet", f"{folder} holds no {CONTROLLER_FILE}: is it what `forerun up` runs in?")
    redis = Settings.load(file).redis
    if redis is None:
        raise ConfigurationError("--fleet", f"{folder}: that fleet has no Redis; add the worker to workers in {file}")
    url = redis.url
    if url.startswith(SCHEME):
        url = f"unix://{socket_path(Path(url.removeprefix(SCHEME)))}"
    return {"redis": url, "namespace": redis.namespace}


def default_name(role: Role, model: str) -> str:
    """ "target" for the target, "suffix" for a drafter without a model, and for one with a model the last part of that
    one's name: "code" for "zoo:code"."""
    if role == "verify":
        return "target"
    return SUFFIX.rstrip(":") if model.startswith(SUFFIX) else Path(model.rpartition(":")[2]).name


def _flags(arguments: dict[str, str]) -> Sequence[str]:
    return [part for name, value in arguments.items() for part in (f"--{name}", value)]
