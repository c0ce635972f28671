"""What needs an accelerator, and nothing from the network."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from bench.commands.options import DEFAULT_SEED, HELD_FOR_TUNING, AsJson, Output, Seed
from forerun.workload import PROMPT_SETS, tasks

if TYPE_CHECKING:
    from bench.figures import Figure
    from worker.settings import Dtype


def gpu(
    device: Annotated[str, typer.Option(help="A torch device.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="A model that a laptop runs: to see that it works.")] = False,
    exactness: Annotated[
        bool, typer.Option(help="Start fleets on the device and hold their answers to account.")
    ] = True,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure the engine on an accelerator: verification against the bandwidth of its memory, and tokens a second.

    The target has the form of an 8B model and random weights, in bfloat16; about 24 GiB of the device's memory are
    needed. Its drafter is its own first layers. Then [cyan]forerun bench exactness[/cyan], on the device, in float32
    against transformers, and in bfloat16 against plain decoding.

    [cyan]forerun bench gpu --json[/cyan]
    """
    from bench.gpu.measure import measure_engine
    from bench.gpu.models import EIGHT_BILLION, TINY
    from bench.runs.report import Report

    load_before = os.getloadavg()[0]
    figures = measure_engine(TINY if tiny else EIGHT_BILLION, device=device, dtype="bfloat16", seed=seed)
    if exactness:
        figures += _exactness(device, "float32", tiny=tiny, seed=seed)
        figures += _exactness(device, "bfloat16", tiny=tiny, seed=seed)
    Report(figures=figures, seed=seed, load_before=load_before).show(as_json=as_json, output=output)


def _exactness(device: str, dtype: "Dtype", *, tiny: bool, seed: int) -> "tuple[Figure, ...]":
    """The figures of `forerun bench exactness`; rounding in bfloat16 may differ from forward to forward: no goal."""
    import asyncio
    from dataclasses import replace

    from bench.exactness import by_plain_decoding, by_transformers, measure_exactness
    from bench.fleet import bench_fleet
    from forerun.local_fleet import ALL_DRAFTERS

    work = tasks(PROMPT_SETS, 1 if tiny else 3, skip=HELD_FOR_TUNING)
    exact = dtype == "float32"

    async def measured() -> "tuple[Figure, ...]":
        async with bench_fleet("plain", ALL_DRAFTERS, device=device, dtype=dtype) as bench:
            return await measure_exactness(
                bench,
                work,
                max_new_tokens=16 if tiny else 48,
                seed=seed,
                judge=by_transformers if exact else by_plain_decoding,
            )

    return tuple(
        replace(
            entry, name=entry.name.replace("exactness.", f"gpu.exactness.{dtype}."), goal=entry.goal if exact else None
        )
        for entry in asyncio.run(measured())
    )
