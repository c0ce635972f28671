"""Measurements of many requests, and of what grows."""

from collections.abc import Sequence
from typing import Annotated

import typer

from bench.commands.options import DEFAULT_SEED, HELD_FOR_TUNING, AsJson, Cost, Output, Prompts, Quick, Seed, Tokens
from bench.commands.reporting import Measure, report_fleet
from forerun.console import FAILURE
from forerun.workload import PROMPT_SETS, tasks


def load(
    prompts: Prompts = None,
    tokens: Tokens = None,
    streams: Annotated[
        list[int] | None, typer.Option(min=2, max=512, help="At once, beside one alone; may be repeated.")
    ] = None,
    bursts: Annotated[int, typer.Option(min=1, help="Of each number of streams, under each policy.")] = 3,
    requests: Annotated[
        int | None, typer.Option(min=100, help="Watch the fleet's memory over so many requests instead.")
    ] = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure many streams at once: tokens a second, time to first token, and whether every request gets its answer.

    First each of 1 to 64 streams asks again when it has been answered, under the planner and plain decoding in turn;
    then requests come by themselves, at 0.5 and 0.8 of the rate that was served. Eight streams are compared with
    llama.cpp's, where [cyan]make llama-server[/cyan] has built it. The exit status is 1 if an answer was lost. With
    [cyan]--requests[/cyan] memory is watched instead, over so many short answers.

    [cyan]forerun bench load --json[/cyan]
    [cyan]forerun bench load --streams 8 --streams 16 --bursts 5[/cyan]
    [cyan]forerun bench load --requests 10000 --tokens 3 --profile plain --json[/cyan]
    """
    from bench.load.memory import LOGGED_BRIEFLY, SERVING
    from forerun.local_fleet import ALL_DRAFTERS

    figures = report_fleet(
        _streams(streams, bursts, quick=quick) if requests is None else _memory(requests),
        work=tasks(PROMPT_SETS, prompts or (1 if quick else 20), skip=HELD_FOR_TUNING),
        tokens=tokens or (3 if requests else 12 if quick else 32),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
        output=output,
        fleet={"router": SERVING, "redis": LOGGED_BRIEFLY} if requests else {},
    )
    if any(figure.value for figure in figures if figure.name == "load.dropped"):
        raise typer.Exit(FAILURE)


def _streams(streams: Sequence[int] | None, bursts: int, *, quick: bool) -> Measure:
    from dataclasses import replace
    from functools import partial

    from bench.load.run import FULL, QUICK, measure_load

    extent = QUICK if quick else replace(FULL, bursts=bursts)
    if streams:
        extent = replace(extent, streams=(1, *sorted(set(streams))))
    return partial(measure_load, extent=replace(extent, peer=True))


def _memory(requests: int) -> Measure:
    from functools import partial

    from bench.load.memory import measure_memory

    return partial(measure_memory, requests=requests)


def overload(
    prompts: Prompts = None,
    tokens: Tokens = None,
    turns: Annotated[int, typer.Option(min=1, help="Visits of each multiple of the load.")] = 3,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure what becomes of more requests than can be served: goodput, the highest class, refusals.

    First streams that wait for their answers find the load that the fleet sustains. Then requests of three classes and
    four tenants come by themselves, once, twice and four times as many. The exit status is 1 if an answer was lost.

    [cyan]forerun bench overload --json[/cyan]
    """
    from dataclasses import replace
    from functools import partial

    from bench.load.overload import ADMISSION, FULL, QUICK, measure_overload

    figures = report_fleet(
        partial(measure_overload, extent=QUICK if quick else replace(FULL, turns=turns)),
        work=tasks(PROMPT_SETS, prompts or (1 if quick else 20), skip=HELD_FOR_TUNING),
        tokens=tokens or (8 if quick else 24),
        profile=profile,
        drafters={"mixed": "zoo:mixed"},
        seed=seed,
        as_json=as_json,
        output=output,
        fleet={"admission": ADMISSION},
    )
    if any(figure.value for figure in figures if figure.name == "overload.dropped"):
        raise typer.Exit(FAILURE)


def scale(
    turns: Annotated[int | None, typer.Option(min=1, help="Visits of each point.", show_default=False)] = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure how rounds grow with the length of the prompt, nodes of the tree, sessions at once, and drafters.

    Pinned plans through the whole service; the points of each scale in turn.

    [cyan]forerun bench scale --json[/cyan]
    """
    from functools import partial

    from bench.scale import FLEET, choosing_among, measure_scale

    report_fleet(
        partial(measure_scale, turns=turns or (1 if quick else 6)),
        work=tasks(("code",), 30, skip=HELD_FOR_TUNING),
        tokens=tokens or (12 if quick else 48),
        profile=profile,
        drafters=FLEET,
        seed=seed,
        as_json=as_json,
        output=output,
        fleet={"router": choosing_among()},
    )
