"""Measurements of what breaks, and of what goes on for long."""

import asyncio
import os
from typing import Annotated

import typer

from bench.commands.options import DEFAULT_SEED, HELD_FOR_TUNING, AsJson, Output, Seed, Tokens
from bench.commands.reporting import report_fleet
from forerun.console import FAILURE
from forerun.workload import PROMPT_SETS, tasks


def faults(
    seeds: Annotated[int, typer.Option(min=1, help="Faults, each with a seed of its own.")] = 192,
    kind: Annotated[
        list[str] | None, typer.Option(help="Only faults of this kind; may be repeated.", show_default=False)
    ] = None,
    tokens: Tokens = None,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Break a fleet in twelve ways at every step of a round, and hold its answers against plain decoding.

    Real processes, real models: kill, freeze, slow, cut, half-open, corrupt reply, stale cache, full disk, redis down,
    redis slow, clock jump, out of memory. The exit status is 1 if an answer differs or fails, a session is left behind,
    a record of the log is lost and not counted, or the fleet does not recover.

    [cyan]forerun bench faults --json[/cyan]
    [cyan]forerun bench faults --kind freeze --kind "stale cache" --seeds 16[/cyan]
    """
    from bench.faults.run import measure_faults, possible_kinds, trials
    from bench.runs.report import Report

    load_before = os.getloadavg()[0]
    kinds = [one for one in possible_kinds() if not kind or one.value in kind]
    if not kinds:
        raise typer.BadParameter(f"no such kind; there are {', '.join(one.value for one in possible_kinds())}")
    figures = asyncio.run(
        measure_faults(
            tasks(PROMPT_SETS, 2, skip=HELD_FOR_TUNING),
            trials(seeds, seed=seed, kinds=kinds),
            max_new_tokens=tokens or 24,
            seed=seed,
        )
    )
    Report(figures=figures, seed=seed, load_before=load_before).show(as_json=as_json, output=output)
    if any(figure.reached is False for figure in figures):
        raise typer.Exit(FAILURE)


def soak(
    minutes: Annotated[float, typer.Option(min=1.0, help="How long.")] = 30.0,
    tokens: Tokens = None,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Watch memory, descriptors and threads of every process under mixed requests, while workers are started again.

    Prompts of all kinds, answers of all lengths, greedy and sampled, one caller in ten leaves; now and then a worker is
    killed, or told to end. The exit status is 1 if a process grows by more than 5% after its warm-up, an answer fails,
    or one of those that are compared with plain decoding differs.

    [cyan]forerun bench soak --minutes 30 --json[/cyan]
    """
    from functools import partial

    from bench.load.memory import LOGGED_BRIEFLY, SERVING
    from bench.soak import SMALL_CACHE, measure_soak
    from forerun.local_fleet import ZOO_DRAFTERS

    figures = report_fleet(
        partial(measure_soak, minutes=minutes),
        work=tasks(PROMPT_SETS, 20, skip=HELD_FOR_TUNING),
        tokens=tokens or 48,
        profile="plain",
        drafters=ZOO_DRAFTERS,
        seed=seed,
        as_json=as_json,
        output=output,
        fleet={"router": SERVING, "redis": LOGGED_BRIEFLY, "verify_workers": 2, **SMALL_CACHE},
    )
    if any(figure.reached is False for figure in figures):
        raise typer.Exit(FAILURE)
