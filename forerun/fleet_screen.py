"""What is shown of a fleet: how far it is while it starts, its processes, and every restart."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from rich.table import Table

from forerun.console import PEOPLE
from forerun.local_fleet import FleetSettings, LocalFleet, local_fleet
from forerun.supervisor import ProcessState, ProcessStatus


@asynccontextmanager
async def shown_fleet(settings: FleetSettings, folder: Path) -> AsyncIterator[LocalFleet]:
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
        elif process.state is ProcessState.GIVEN_UP:
            PEOPLE.print(
                f"[bold red]{process.name} dies again and again, and is not started any more[/bold red]; "
                f"the others go on; its log is {process.log}"
            )
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
