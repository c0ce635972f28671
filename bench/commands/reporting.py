"""From a bench to a report: start what is measured, measure, show the figures, keep the run."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from forerun.commands.profile import Profile
from forerun.workload import Task

if TYPE_CHECKING:
    from bench.figures import Figure
    from bench.fleet import Bench


class Measure(Protocol):
    """One bench: figures from a fleet and tasks."""

    async def __call__(
        self, bench: "Bench", tasks: Sequence[Task], /, *, max_new_tokens: int, seed: int
    ) -> "tuple[Figure, ...]":
        """Measure."""


class MeasureAlone(Protocol):
    """One bench of figures from tasks: it starts for itself what it needs."""

    async def __call__(self, tasks: Sequence[Task], /, *, seed: int) -> "tuple[Figure, ...]":
        """Measure."""


def report_fleet(
    measure: Measure,
    *,
    work: Sequence[Task],
    tokens: int,
    profile: Profile,
    drafters: Mapping[str, str],
    seed: int,
    as_json: bool,
    output: Path | None,
    fleet: Mapping[str, Any] = MappingProxyType({}),
    alone: MeasureAlone | None = None,
) -> "tuple[Figure, ...]":
    """Start a fleet, with these further settings of it, measure it, end it, measure what needs none, and report."""
    from bench.fleet import bench_fleet
    from bench.runs.report import Report

    load_before = os.getloadavg()[0]

    async def measured() -> "tuple[Figure, ...]":
        async with bench_fleet(profile, drafters, **fleet) as bench:
            figures = await measure(bench, work, max_new_tokens=tokens, seed=seed)
        return figures if alone is None else (*figures, *await alone(work, seed=seed))

    figures = asyncio.run(measured())
    Report(figures=figures, seed=seed, load_before=load_before).show(as_json=as_json, output=output)
    return figures
