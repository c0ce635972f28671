"""How much faster than its peers is Forerun, on the same weights and prompts, in one run?

Each peer stands for the best of its settings on each prompt set, chosen after the fact by the same measurements: that
favours it. Ours is the planner as shipped, which is told neither the set nor the drafter.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np

from bench.figures import Figure, count, figure
from bench.fleet import Bench
from bench.llama_peer import LlamaPeer, llama_models, llama_peer
from bench.llama_server import find_llama_server
from bench.spread import Spread, mean_over_groups, median
from bench.timed import Timed, decode_rate
from bench.transformers_peer import LOOKUPS, SCHEDULES, TransformersPeer, fastest_threads
from forerun.commands.profile import Profile
from forerun.console import PEOPLE
from forerun.local_fleet import ZOO_DRAFTERS
from forerun.models import model_folder
from forerun.progress import steps
from forerun.workload import Task

OURS, PLAIN = "planner", "generate"
ASSISTED, LOOKUP = "assisted", "prompt lookup"
LLAMACPP = "llamacpp"
GENERALIST = "mixed"
GOALS = {PLAIN: 2.0, ASSISTED: 1.3}
LLAMACPP_GOALS: Mapping[Profile, float] = {"deep": 1.0, "wide": 1.5}
LEAST_TOKENS = 16
"""Answers that are shorter say nothing of decoding; their prompts are left out."""

Rates = Mapping[str, Mapping[Task, float]]
"""Tokens a second of decoding, by variant and prompt."""


@dataclass(frozen=True, slots=True)
class _Peers:
    transformers: TransformersPeer
    transformers_threads: int
    llamacpp: LlamaPeer | None

    def variants(self, task: Task, max_new_tokens: int) -> Mapping[str, Callable[[], Timed]]:
        """What each setting of each peer makes of a prompt."""
        found: dict[str, Callable[[], Timed]] = {
            PLAIN: partial(self.transformers.generate, task.prompt, max_new_tokens)
        }
        for drafter in dict.fromkeys((task.drafter, GENERALIST)):
            for name, schedule in SCHEDULES.items():
                whose = GENERALIST if drafter == GENERALIST else "the right drafter"
                found[f"{ASSISTED}, {whose}, {name}"] = partial(
                    self.transformers.assisted, task.prompt, max_new_tokens, drafter, schedule
                )
        for tokens in LOOKUPS:
            found[f"{LOOKUP}, {tokens}"] = partial(self.transformers.looked_up, task.prompt, max_new_tokens, tokens)
        if self.llamacpp is not None:
            prompt = self.transformers.encode(task.prompt)
            for name, server in self.llamacpp.settings(task.drafter).items():
                found[f"{LLAMACPP}, {name}"] = partial(server.answer, prompt, max_new_tokens)
        return found


async def measure_peers(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, warm_up: Sequence[Task], cores: int
) -> tuple[Figure, ...]:
    """Greedy decoding of one request at a time.

    In bfloat16 the texts of two engines may part at a near tie: speeds are compared all the same, and such prompts
    counted.

    Args:
        bench: The fleet.
        tasks: Prompts that count; every variant answers them in turn.
        max_new_tokens: Of an answer.
        seed: Of the resampling.
        warm_up: Prompts by which the planner learns first.
        cores: Of this machine: a peer may use them all if that is faster.
    """
    with ExitStack() as running:
        opening = _peers(bench, tasks[0].prompt, cores=cores, max_new_tokens=max_new_tokens)
        peers = await asyncio.to_thread(running.enter_context, opening)
        with steps("the planner learns", len(warm_up)) as step:
            for task in warm_up:
                await _ours(bench, task, max_new_tokens)
                step()
        rates, differing, differing_llamacpp = await _measured(bench, peers, tasks, max_new_tokens)
    exact = 0 if bench.dtype == "float32" else None
    found = (
        *_figures(rates, seed, bench.profile),
        count("peers.differing_prompts", len(differing), "prompts", goal=exact, at_most=True),
        count("peers.transformers_threads", peers.transformers_threads, "threads"),
    )
    if peers.llamacpp is None:
        return found
    return (
        *found,
        count("peers.llamacpp_differing_prompts", len(differing_llamacpp), "prompts"),
        count("peers.llamacpp_threads", peers.llamacpp.threads, "threads"),
    )


async def _measured(
    bench: Bench, peers: _Peers, tasks: Sequence[Task], max_new_tokens: int
) -> tuple[Rates, Set[Task], Set[Task]]:
    """Speeds; and prompts to which ours or transformers, or llama.cpp, said something else than `generate`."""
    rates: dict[str, dict[Task, float]] = {}
    differing: set[Task] = set()
    differing_llamacpp: set[Task] = set()
    with steps("peers", len(tasks)) as step:
        for turn, task in enumerate(tasks):
            answers = await _answers(bench, peers, task, max_new_tokens, turn)
            step()
            if not _comparable(answers):
                continue
            for name, answer in answers.items():
                rates.setdefault(name, {})[task] = answer.decode_rate
                if answer.token_ids != answers[PLAIN].token_ids:
                    (differing_llamacpp if name.startswith(LLAMACPP) else differing).add(task)
    return rates, differing, differing_llamacpp


@contextmanager
def _peers(bench: Bench, prompt: str, *, cores: int, max_new_tokens: int) -> Iterator[_Peers]:
    """Each with the number of threads that is fastest on a prompt, while the body runs."""
    folders = {name: model_folder(model) for name, model in ZOO_DRAFTERS.items()}
    transformers = TransformersPeer(bench.target_folder, folders, dtype=bench.dtype)
    threads = fastest_threads(transformers, prompt, sorted({1, cores}), max_new_tokens=max_new_tokens)
    program = find_llama_server()
    if program is None:
        PEOPLE.print(
            "[yellow]llama-server was not found: figures named llamacpp are left out. `make llama-server` builds it; "
            "one that is elsewhere can be named by LLAMA_SERVER.[/yellow]"
        )
        yield _Peers(transformers, threads, None)
        return
    with (
        llama_models(program, bench.target_folder, folders, dtype=bench.dtype) as models,
        llama_peer(models, transformers.encode(prompt), cores=cores, max_new_tokens=max_new_tokens) as llamacpp,
    ):
        yield _Peers(transformers, threads, llamacpp)


async def _answers(bench: Bench, peers: _Peers, task: Task, max_new_tokens: int, turn: int) -> Mapping[str, Timed]:
    """One prompt by every variant; which is first changes from turn to turn."""
    theirs = peers.variants(task, max_new_tokens)
    order = [OURS, *theirs]
    order = order[turn % len(order) :] + order[: turn % len(order)]
    return {
        name: await _ours(bench, task, max_new_tokens) if name == OURS else await asyncio.to_thread(theirs[name])
        for name in order
    }


def _comparable(answers: Mapping[str, Timed]) -> bool:
    """Whether every variant said enough to be timed."""
    return all(len(answer.token_ids) >= LEAST_TOKENS and isfinite(answer.decode_rate) for answer in answers.values())


async def _ours(bench: Bench, task: Task, max_new_tokens: int) -> Timed:
    arrivals = []
    async with bench.client.stream(task.prompt, policy=OURS, max_new_tokens=max_new_tokens) as deltas:
        async for delta in deltas:
            arrivals.append((time.perf_counter(), len(delta.token_ids)))
    return Timed(token_ids=deltas.generation.token_ids, decode_rate=decode_rate(arrivals))


def _figures(rates: Rates, seed: int, profile: Profile) -> tuple[Figure, ...]:
    found: list[Figure] = []
    goals = {**GOALS, LLAMACPP: LLAMACPP_GOALS.get(profile)}
    for kind in dict.fromkeys(name.split(", ")[0] for name in rates if name != OURS):
        ratios = {prompt_set: _over_best(rates, kind, prompt_set) for prompt_set in _sets(rates)}
        name = f"peers.over_{kind.replace(' ', '_')}"
        if kind == LLAMACPP and profile != "wide":
            name += f"_{profile}"
        overall = mean_over_groups([gain for gain, _ in ratios.values()], np.median, seed=seed)
        found.append(figure(name, overall, "x", goal=goals.get(kind)))
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
