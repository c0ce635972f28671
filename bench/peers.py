"""How much faster than its peers is Forerun, on the same weights and prompts, in one run?

Each peer stands for the best of its settings on each prompt set, chosen after the fact by the same measurements: that
favours it. Ours is the planner as shipped, which is told neither the set nor the drafter.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from bench.figures import Figure, count, figure
from bench.fleet import Bench
from bench.spread import Spread, mean_over_groups, median
from bench.transformers_peer import LOOKUPS, SCHEDULES, Timed, TransformersPeer, decode_rate, fastest_threads
from forerun.local_fleet import ZOO_DRAFTERS
from forerun.models import model_folder
from forerun.progress import steps
from forerun.workload import Task

OURS, PLAIN = "planner", "generate"
ASSISTED, LOOKUP = "assisted", "prompt lookup"
GENERALIST = "mixed"
GOALS = {PLAIN: 2.0, ASSISTED: 1.3}
LEAST_TOKENS = 16
"""Answers that are shorter say nothing of decoding; their prompts are left out."""

Rates = Mapping[str, Mapping[Task, float]]
"""Tokens a second of decoding, by variant and prompt."""


async def measure_peers(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, warm_up: Sequence[Task], cores: int
) -> tuple[Figure, ...]:
    """Greedy decoding of one request at a time.

    Args:
        bench: The fleet.
        tasks: Prompts that count; every variant answers them in turn.
        max_new_tokens: Of an answer.
        seed: Of the resampling.
        warm_up: Prompts by which the planner learns first.
        cores: Of this machine: transformers may use them all if that is faster.
    """
    folders = {name: model_folder(model) for name, model in ZOO_DRAFTERS.items()}
    peer = await asyncio.to_thread(TransformersPeer, bench.target_folder, folders)
    threads = await asyncio.to_thread(
        fastest_threads, peer, tasks[0].prompt, sorted({1, cores}), max_new_tokens=max_new_tokens
    )
    with steps("the planner learns", len(warm_up)) as step:
        for task in warm_up:
            await _ours(bench, task, max_new_tokens)
            step()
    rates: dict[str, dict[Task, float]] = {}
    differing = set()
    with steps("peers", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            answers = await _answers(bench, peer, task, max_new_tokens, turn)
            if len(answers[PLAIN].token_ids) >= LEAST_TOKENS:
                differing |= {task for answer in answers.values() if answer.token_ids != answers[PLAIN].token_ids}
                for name, answer in answers.items():
                    rates.setdefault(name, {})[task] = answer.decode_rate
            step()
    return (
        *_figures(rates, seed),
        count("peers.differing_prompts", len(differing), "prompts", goal=0, at_most=True),
        count("peers.transformers_threads", threads, "threads"),
    )


async def _answers(
    bench: Bench, peer: TransformersPeer, task: Task, max_new_tokens: int, turn: int
) -> Mapping[str, Timed]:
    """One prompt by every variant; which is first changes from turn to turn."""
    theirs: dict[str, Callable[[], Timed]] = {PLAIN: partial(peer.generate, task.prompt, max_new_tokens)}
    for drafter in dict.fromkeys((task.drafter, GENERALIST)):
        for name, schedule in SCHEDULES.items():
            whose = GENERALIST if drafter == GENERALIST else "the right drafter"
            theirs[f"{ASSISTED}, {whose}, {name}"] = partial(
                peer.assisted, task.prompt, max_new_tokens, drafter, schedule
            )
    for tokens in LOOKUPS:
        theirs[f"{LOOKUP}, {tokens}"] = partial(peer.looked_up, task.prompt, max_new_tokens, tokens)
    order = [OURS, *theirs]
    order = order[turn % len(order) :] + order[: turn % len(order)]
    return {
        name: await _ours(bench, task, max_new_tokens) if name == OURS else await asyncio.to_thread(theirs[name])
        for name in order
    }


async def _ours(bench: Bench, task: Task, max_new_tokens: int) -> Timed:
    arrivals = []
    async with bench.client.stream(task.prompt, policy=OURS, max_new_tokens=max_new_tokens) as deltas:
        async for delta in deltas:
            arrivals.append((time.perf_counter(), len(delta.token_ids)))
    return Timed(token_ids=deltas.generation.token_ids, decode_rate=decode_rate(arrivals))


def _figures(rates: Rates, seed: int) -> tuple[Figure, ...]:
    found: list[Figure] = []
    for kind in (PLAIN, ASSISTED, LOOKUP):
        ratios = {prompt_set: _over_best(rates, kind, prompt_set) for prompt_set in _sets(rates)}
        name = f"peers.over_{kind.replace(' ', '_')}"
        overall = mean_over_groups([gain for gain, _ in ratios.values()], np.median, seed=seed)
        found.append(figure(name, overall, "x", goal=GOALS.get(kind)))
        found += [figure(f"{name}.{key}", median(gain, seed=seed), f"x {best}") for key, (gain, best) in ratios.items()]
    found += [
        figure(f"peers.tokens_per_s.{name.replace(', ', '.').replace(' ', '_')}", _typical(of_tasks, seed), "tokens/s")
        for name, of_tasks in rates.items()
    ]
    return tuple(found)


def _over_best(rates: Rates, kind: str, prompt_set: str) -> tuple[Sequence[float], str]:
    """Ours over the variant of a peer that is fastest on a set, prompt by prompt, and that variant's name."""
    variants = {
        name: {task: rate for task, rate in of_tasks.items() if task.prompt_set == prompt_set}
        for name, of_tasks in rates.items()
        if name.startswith(kind)
    }
    best = max(variants, key=lambda name: float(np.median(list(variants[name].values()) or [0.0])))
    return [rates[OURS][task] / rate for task, rate in variants[best].items()], best


def _sets(rates: Rates) -> Sequence[str]:
    return list(dict.fromkeys(task.prompt_set for task in rates[OURS]))


def _typical(of_tasks: Mapping[Task, float], seed: int) -> Spread:
    """The mean over prompt sets of the median."""
    sets = dict.fromkeys(task.prompt_set for task in of_tasks)
    return mean_over_groups(
        [[rate for task, rate in of_tasks.items() if task.prompt_set == name] for name in sets], np.median, seed=seed
    )
