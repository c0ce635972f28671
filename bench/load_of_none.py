"""Does the planner ever serve slower than plain decoding, however many ask at once? On a real fleet, live.

Each round of the bench sends the same prompts under both policies at every number of streams, in turn; a stream sends
its next request when the last one is answered. The planner learns all along, as in service.
"""

from collections.abc import Sequence

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.load.asking import asking
from bench.load.streams import burst
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
    await _goodput(bench, tasks, "planner", max(streams), max_new_tokens, seed)
    ratios: dict[int, list[float]] = {count: [] for count in streams}
    with steps("streams", repeats * len(streams)) as step:
        for repeat in range(repeats):
            for count in streams:
                order = POLICIES if repeat % 2 else POLICIES[::-1]
                goodput = {
                    name: await _goodput(bench, tasks, name, count, max_new_tokens, seed + repeat) for name in order
                }
                ratios[count].append(goodput["planner"] / goodput["none"])
                step()
    spreads = {count: median(values, seed=seed) for count, values in ratios.items()}
    worst = min(spreads.values(), key=lambda spread: spread.value)
    return (
        figure("router.load_of_none", worst, "x", goal=0.97),
        *(figure(f"router.load_of_none.{count}", spread, "x") for count, spread in spreads.items()),
    )


async def _goodput(
    bench: Bench, tasks: Sequence[Task], policy: str, streams: int, max_new_tokens: int, seed: int
) -> float:
    """Tokens a second of all streams together."""
    ask = asking(bench.client, tasks, max_new_tokens=max_new_tokens, seed=seed, policy=policy)
    return (await burst(ask, streams=streams, requests=max(len(tasks), 2 * streams))).tokens_per_s
