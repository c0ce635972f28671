"""Eight streams of a peer beside eight of ours: llama-server with as many slots, on the same weights and prompts."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.llama_peer import CHAINS, crowd_rate, llama_models
from bench.llama_server import LlamaServer, find_llama_server
from bench.load.asking import Ask
from bench.load.streams import burst
from bench.spread import median
from forerun.console import PEOPLE
from forerun.local_fleet import ZOO_DRAFTERS
from forerun.models import model_folder
from forerun.progress import steps
from forerun.workload import Task

STREAMS = 8
REQUESTS = 2 * STREAMS
THREADS = 2
GENERALIST = "mixed"
"""One llama-server has one drafter: on mixed traffic it is the one that has read everything."""


async def measure_against_llamacpp(
    bench: Bench, ask: Ask, tasks: Sequence[Task], *, bursts: int, max_new_tokens: int, seed: int
) -> tuple[Figure, ...]:
    """Tokens a second of all streams together, ours over the better of its two ways; nothing where it is not built."""
    program = find_llama_server()
    if program is None:
        PEOPLE.print("[yellow]llama-server was not found: load.over_llamacpp is left out; `make llama-server`[/yellow]")
        return ()
    tokenizer: Any = await asyncio.to_thread(AutoTokenizer.from_pretrained, bench.target_folder)
    prompts = [tokenizer(tasks[number % len(tasks)].prompt)["input_ids"] for number in range(REQUESTS)]
    rates: dict[str, list[float]] = {}
    with ExitStack() as running, steps("beside llama.cpp", 1 + bursts) as step:
        servers = await asyncio.to_thread(running.enter_context, _servers(bench, program))
        for turn in range(-1, bursts):  # the first turn is for learning and not measured
            for name in [None, *servers][:: 1 if turn % 2 else -1]:
                rate = await _rate(ask, servers.get(name) if name else None, prompts, max_new_tokens)
                if turn >= 0:
                    rates.setdefault(name or "ours", []).append(rate)
            step()
    return _figures(rates, seed)


@contextmanager
def _servers(bench: Bench, program: Path) -> Iterator[Mapping[str, LlamaServer]]:
    """One that decodes plainly, and one that drafts."""
    folder = model_folder(ZOO_DRAFTERS[GENERALIST])
    with (
        llama_models(program, bench.target_folder, {GENERALIST: folder}, dtype=bench.dtype) as models,
        models.server(threads=THREADS, slots=STREAMS) as plain,
        models.server(threads=THREADS, slots=STREAMS, drafter=GENERALIST, setting=CHAINS["4"]) as drafting,
    ):
        yield {"plain": plain, GENERALIST: drafting}


async def _rate(ask: Ask, server: LlamaServer | None, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> float:
    """Ours where no server is named: of all tokens from the first request to the last answer, as for the peer."""
    if server is not None:
        measure = partial(crowd_rate, server, prompts, streams=STREAMS, max_new_tokens=max_new_tokens)
        return await asyncio.to_thread(measure)
    ours = await burst(ask, streams=STREAMS, requests=len(prompts))
    ended_s = max(asked.ended_s for asked in ours.requests)
    return sum(asked.tokens for asked in ours.requests) / (ended_s - ours.began_s)


def _figures(rates: Mapping[str, Sequence[float]], seed: int) -> tuple[Figure, ...]:
    theirs = {name: row for name, row in rates.items() if name != "ours"}
    best = [max(row) for row in zip(*theirs.values(), strict=True)]
    ratios = [ours / other for ours, other in zip(rates["ours"], best, strict=True)]
    return (
        figure("load.over_llamacpp", median(ratios, seed=seed), "x"),
        *(
            figure(f"load.llamacpp_tokens_per_s.{name}", median(row, seed=seed), "tokens/s", digits=1)
            for name, row in rates.items()
        ),
    )
