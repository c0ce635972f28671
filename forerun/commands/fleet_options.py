"""What several commands say about a fleet on the command line, and what they show while it starts."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.table import Table

from forerun.console import PEOPLE
from forerun.local_fleet import EMBEDDED_REDIS, FleetSettings, LocalFleet, local_fleet
from forerun.supervisor import ProcessState, ProcessStatus
from speculation.errors import ConfigurationError


def fleet_settings(file: Path | None, given: Mapping[str, Any], *, redis: str | None = None) -> FleetSettings:
    """The settings of a file, or the default ones, overruled by what the command line gives (None: nothing).

    Raises:
        ConfigurationError: A value is wrong; the message names file and line, or the option.
    """
    settings = FleetSettings() if file is None else FleetSettings.load(file)
    overruled = {name: value for name, value in given.items() if value is not None}
    if redis is not None:
        overruled["redis"] = {"embedded": EMBEDDED_REDIS, "none": None}.get(redis, {"url": redis})
    try:
        return FleetSettings.model_validate({**dict(settings), **overruled})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigurationError(f"--{option}", first["msg"]) from error


def drafters_of(text: str) -> dict[str, str]:
    """The drafters of "code,docs,small=./my-small-model": a zoo name, or a name of one's own and its model."""
    drafters: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, model = entry.partition("=")
        if not name or (equals and not model):
            raise ConfigurationError("--drafters", f"{entry!r} is neither NAME nor NAME=MODEL")
        if name in drafters:
            raise ConfigurationError("--drafters", f"{name!r} is given twice")
        drafters[name] = model or f"zoo:{name}"
    return drafters


@asynccontextmanager
async def fleet_with_status(settings: FleetSettings, folder: Path) -> AsyncIterator[LocalFleet]:
    """A fleet; while it starts a line says how far it is, afterwards every restart is told."""
    total = settings.verify_workers + len(settings.drafters) + 1
    ready: set[str] = set()
    status = PEOPLE.status(f"starting {total} processes")

    def tell(process: ProcessStatus) -> None:
        if process.state is ProcessState.RUNNING:
            ready.add(process.name)
            status.update(f"starting {total} processes, {len(ready)} ready: {', '.join(sorted(ready))}")
        if process.state is ProcessState.RESTARTING:
            PEOPLE.print(f"[yellow]{process.name} died and is restarted[/yellow]; its log is {process.log}")
        elif process.state is ProcessState.RUNNING and process.restarts:
            PEOPLE.print(f"{process.name} runs again (process {process.pid})")

    status.start()
    try:
        async with local_fleet(settings, folder, listener=tell) as fleet:
            status.stop()
            yield fleet
    finally:
        status.stop()


def process_table(processes: Iterable[ProcessStatus]) -> Table:
    """The fleet for people."""
    table = Table(box=None, header_style="dim")
    for heading in ("process", "address", "pid", "log"):
        table.add_column(heading)
    for process in processes:
        table.add_row(process.name, process.address, str(process.pid or ""), str(process.log))
    return table
