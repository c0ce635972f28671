"""Does the planner ever serve slower than plain decoding, however many ask at once? On a real fleet, live.

Each round of the bench sends the same prompts under both policies at every number of streams, in turn; a stream sends
its next request when the last one is answered. The planner learns all along, as in service.
"""

import asyncio
import time
from collections.abc import Sequence

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.spread import median
from forerun.progress import steps
from forerun.workload import Task

STREAMS = (1, 4, 16, 32)
POLICIES = ("none", "planner")


async def measure_load(
    bench: Bench,
    tasks: Sequence[Task],
    *,
    max_new_tokens: int,
    seed: int,
    repeats: int,
    streams: Sequence[int] = STREAMS,
) -> tuple[Figure, ...]:
    """Tokens a second of the planner over those of plain decoding, by streams, and the worst.

    Args:
        bench: The fleet.
        tasks: Asked in turn; each burst asks at least as many as there are streams.
        max_new_tokens: Of an answer.
        seed: Of sampled answers; every second request is sampled.
        repeats: Bursts of each policy at each number of streams.
        streams: How many at once.
    """
    await _burst(bench, tasks, "planner", max(streams), max_new_tokens, seed)
    ratios: dict[int, list[float]] = {count: [] for count in streams}
    with steps("streams", repeats * len(streams)) as step:
        for repeat in range(repeats):
            for count in streams:
                order = POLICIES if repeat % 2 else POLICIES[::-1]
                goodput = {
                    name: await _burst(bench, tasks, name, count, max_new_tokens, seed + repeat) for name in order
                }
                ratios[count].append(goodput["planner"] / goodput["none"])
                step()
    spreads = {count: median(values, seed=seed) for count, values in ratios.items()}
    worst = min(spreads.values(), key=lambda spread: spread.value)
    return (
        figure("router.load_of_none", worst, "x", goal=0.97),
        *(figure(f"router.load_of_none.{count}", spread, "x") for count, spread in spreads.items()),
    )


async def _burst(
    bench: Bench, tasks: Sequence[Task], policy: str, streams: int, max_new_tokens: int, seed: int
) -> float:
    """Tokens a second of all streams together."""
    waiting = iter(range(max(len(tasks), 2 * streams)))
    tokens = 0

    async def stream() -> None:
        nonlocal tokens
        for number in waiting:
            answer = await bench.client.generate(
                tasks[number % len(tasks)].prompt,
                max_new_tokens=max_new_tokens,
                policy=policy,
                temperature=float(number % 2),
                seed=seed + number,
            )
            tokens += answer.usage.completion_tokens

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(stream())
    return tokens / (time.perf_counter() - began)
