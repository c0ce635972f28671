"""`forerun fleet`: the workers of a fleet, on whatever runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forerun.console import PEOPLE, RESULT, emit

if TYPE_CHECKING:
    from forerun.ray_fleet.host import Hosting

app = typer.Typer(no_args_is_help=True, help="The workers of a fleet, on a cluster.")


@app.command("ray")
def ray_fleet(
    file: Annotated[Path, typer.Argument(help="A YAML file: the workers, and what each needs of a machine.")],
    stop: Annotated[bool, typer.Option("--stop", help="Let all workers of the fleet drain and end.")] = False,
    within_s: Annotated[float, typer.Option(min=0.1, help="How long workers may take to start, in seconds.")] = 900.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")] = False,
) -> None:
    """Make the workers on a Ray cluster what FILE says: start, replace, end. They go on when this command ends.

    Ray starts workers of a lost machine on another one. Controllers find them through the file's Redis.

    [cyan]forerun fleet ray fleet.yaml[/cyan]

    [cyan]forerun fleet ray fleet.yaml --stop[/cyan]
    """
    from forerun.ray_fleet.fleet import connected
    from forerun.ray_fleet.settings import RayFleetSettings

    settings = RayFleetSettings.load(file)
    with connected(settings) as fleet:
        if stop:
            _show_stopped(fleet.stop(), as_json=as_json)
        else:
            _show(fleet.update(within_s=within_s), as_json=as_json)


def _show(workers: Sequence["Hosting"], *, as_json: bool) -> None:
    if as_json:
        emit({"workers": [_told(worker) for worker in workers]})
        return
    for worker in workers:
        RESULT.print(f"{worker.hosted.name} {worker.address} on node {worker.node[:8]}", markup=False)


def _told(worker: "Hosting") -> dict[str, Any]:
    return {
        "name": worker.hosted.name,
        "address": worker.address,
        "node": worker.node,
        "restarts": worker.restarts,
    }


def _show_stopped(names: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        emit({"stopped": names})
    else:
        PEOPLE.print(f"ended: {', '.join(names) or 'nothing, as no worker ran'}", markup=False)
