"""What do the controller and the wire add to the workers' own time?

A round is timed by the controller, from planning to the verdict; drafter and target report what they needed
themselves. What is left is ours: planning, merging, (de)serialising, two round trips and the event loop. Beside it
stands the floor: what two bare gRPC streams take for rounds of the same length, measured in turn with ours.
A round whose draft was foreseen needs one exchange only, and may take less than that floor.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.echo import measure_echo
from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.speed import STATIC_SHAPE, WARM_UP_TOKENS
from bench.spread import Spread, mean_over_groups, median
from forerun.client import Generation, RoundReport
from forerun.progress import steps
from forerun.workload import Task
from router_models.policy import RoundTimings

NS_PER_MS = 1e6
ECHO_ROUNDS = 12


async def measure_overhead(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int
) -> tuple[Figure, ...]:
    """Rounds of `static` with the right drafter, one request at a time."""
    await _answer(bench, tasks[0], WARM_UP_TOKENS, explain=True)
    rounds: list[RoundReport] = []
    between: list[float] = []
    floor: list[float] = []
    with steps("rounds", len(tasks)) as step:
        for task in tasks:
            explained = await _answer(bench, task, max_new_tokens, explain=True)
            # The first round of a request includes reading the prompt, by workers that answer only when it is done.
            rounds += explained.rounds[1:]
            between.append(_between_rounds_ms(await _answer(bench, task, max_new_tokens, explain=False)))
            floor += (await asyncio.to_thread(measure_echo, _worker_ns(explained), ECHO_ROUNDS))[1:]
            step()
    return (
        *_figures([report.timings for report in rounds], seed),
        figure("overhead.foreseen", _share([bool(report.foreseen_drafters) for report in rounds], seed), "of rounds"),
        figure("overhead.between_rounds_ms", median(between, seed=seed), "ms"),
        figure("overhead.bare_grpc_ms", median(floor, seed=seed), "ms"),
    )


async def _answer(bench: Bench, task: Task, max_new_tokens: int, *, explain: bool) -> Generation:
    return await bench.client.generate(
        task.prompt,
        max_new_tokens=max_new_tokens,
        policy="static",
        drafters=[task.drafter],
        shape=STATIC_SHAPE,
        explain=explain,
    )


def _worker_ns(answer: Generation) -> tuple[int, int]:
    """How long drafter and target kept a processor busy in the middling round of an answer that waited for both."""
    waiting = [report for report in answer.rounds if not report.foreseen_drafters]
    rounds = [report.timings for report in waiting]  # the first round always is among them
    return (
        int(np.median([timings.draft_worker_ns for timings in rounds])),
        int(np.median([timings.verify_worker_ns for timings in rounds])),
    )


def _between_rounds_ms(answer: Generation) -> float:
    """Per round, what the request took outside its rounds: opening streams, detokenising, sending, logging."""
    outside_ns = answer.timings.total_ns - answer.timings.rounds.round_ns
    return outside_ns / NS_PER_MS / max(1, len(answer.acceptance.per_step_accepted))


def _share(held: Sequence[bool], seed: int) -> Spread:
    """How often something held."""
    return mean_over_groups([[float(one) for one in held]], np.mean, seed=seed)


def _figures(rounds: Sequence[RoundTimings], seed: int) -> tuple[Figure, ...]:
    parts: dict[str, Callable[[RoundTimings], int]] = {
        "overhead.draft_wire_ms": lambda timings: timings.draft_ns - timings.draft_worker_ns,
        "overhead.verify_wire_ms": lambda timings: timings.verify_ns - timings.verify_worker_ns,
        "overhead.controller_ms": lambda timings: timings.round_ns - timings.draft_ns - timings.verify_ns,
        "overhead.draft_worker_ms": lambda timings: timings.draft_worker_ns,
        "overhead.verify_worker_ms": lambda timings: timings.verify_worker_ns,
        "overhead.round_whole_ms": lambda timings: timings.round_ns,
    }
    whole = median([added_ns(timings) / NS_PER_MS for timings in rounds], seed=seed)
    share = mean_over_groups([[added_ns(timings) / timings.round_ns for timings in rounds]], _p90, seed=seed)
    return (
        figure("overhead.round_ms_median", whole, "ms", goal=1.0, at_most=True),
        figure("overhead.round_share_p90", share, "of the round", goal=0.1, at_most=True),
        *(
            figure(name, median([part(timings) / NS_PER_MS for timings in rounds], seed=seed), "ms")
            for name, part in parts.items()
        ),
    )


def _p90(samples: NDArray[np.float64], /, *, axis: int) -> Any:
    return np.quantile(samples, 0.9, axis=axis)


def added_ns(timings: RoundTimings) -> int:
    """What a round took beyond the workers' own time."""
    return timings.round_ns - timings.draft_worker_ns - timings.verify_worker_ns
