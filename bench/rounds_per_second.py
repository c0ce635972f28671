"""How many rounds a second does one controller sustain on one core?

A controller as it is shipped (planner in charge, an embedded Redis with log and shared learning) serves many streams by
simulated workers. It has a processor for itself, with all its threads; workers, Redis, callers and its learner, a
process of its own, have the others. Rounds are counted by the answers' pieces as they arrive, and held against the
processor time that the controller took for them, which does not depend on whether the others kept it busy.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, fields
from itertools import chain, count
from pathlib import Path

import psutil
import yaml

from bench.figures import Figure, figure
from bench.processes import learners_of
from bench.spread import Spread, median
from controller.settings import RedisSettings, RouterSettings, Settings, WorkerEntry
from controller.tasks import owned_tasks
from controller.text import load_tokenizer
from forerun.client import AsyncClient
from forerun.local_fleet import FREE_PORT, ONE_THREAD, ZOO_DRAFTERS
from forerun.models import model_folder
from forerun.progress import steps
from forerun.supervisor import ProcessSpec, Supervisor
from forerun.workload import Task

POLICIES = ("planner", "static")
STREAMS = 32
ANSWER_TOKENS = 128
WARM_UP_S = 4.0
GOAL = 1500.0

WITHOUT_RUNS = RouterSettings(policy="planner", scoring_share=0.0, max_run=0)
"""Rounds are what is counted: a run would bring tokens without them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What happened while a stopwatch ran.

    Attributes:
        rounds: Of all streams together.
        tokens: Emitted in them.
        processor_s: What the controller took.
        learner_s: What its learner took beside it.
        wall_s: How long it ran.
    """

    rounds: int
    tokens: int
    processor_s: float
    learner_s: float
    wall_s: float

    def since(self, earlier: "Window") -> "Window":
        """What happened after an earlier reading of the same stopwatch."""
        return Window(**{unit.name: getattr(self, unit.name) - getattr(earlier, unit.name) for unit in fields(self)})


async def measure_rounds_per_second(
    tasks: Sequence[Task], *, windows: int, window_s: float, seed: int
) -> tuple[Figure, ...]:
    """Rounds a second of processor time under each policy in turn, and what of a processor that was.

    Args:
        tasks: Whose prompts are sent, in turn.
        windows: Measured under each policy.
        window_s: How long each is.
        seed: Of the resampling.
    """
    measured: dict[str, list[Window]] = {policy: [] for policy in POLICIES}
    async with _controller() as (address, pid):
        with steps("windows", windows * len(POLICIES)) as step:
            for policy in POLICIES:
                await _window(address, pid, tasks, policy, WARM_UP_S)
            for number in range(windows):
                for policy in POLICIES if number % 2 else POLICIES[::-1]:
                    measured[policy].append(await _window(address, pid, tasks, policy, window_s))
                    step()
    return figures_of(measured, seed=seed)


def figures_of(measured: Mapping[str, Sequence[Window]], *, seed: int) -> tuple[Figure, ...]:
    """What the windows of each policy say."""

    def spread(of: Callable[[Window], float], windows: Sequence[Window]) -> Spread:
        return median([of(window) for window in windows], seed=seed)

    name, planner, all_windows = "overhead.rounds_per_second", measured["planner"], [*chain(*measured.values())]
    rates = {policy: spread(lambda w: w.rounds / w.processor_s, windows) for policy, windows in measured.items()}
    return (
        figure(name, rates["planner"], "rounds/s", goal=GOAL, digits=0),
        figure(f"{name}.static", rates["static"], "rounds/s", digits=0),
        figure(f"{name}.wall", spread(lambda w: w.rounds / w.wall_s, planner), "rounds/s", digits=0),
        figure(f"{name}.busy", spread(lambda w: w.processor_s / w.wall_s, all_windows), "of a processor", digits=2),
        figure(f"{name}.learner", spread(lambda w: w.learner_s / w.wall_s, planner), "of a processor", digits=2),
        figure(f"{name}.tokens", spread(lambda w: w.tokens / w.rounds, planner), "tokens a round", digits=2),
    )


async def _window(address: str, pid: int, tasks: Sequence[Task], policy: str, length_s: float) -> Window:
    """All streams for a while, once they are under way. What has begun before or ends later is counted in part."""
    process = psutil.Process(pid)
    learners = learners_of(process)
    rounds = tokens = 0
    under_way = asyncio.Event()

    async def stream(client: AsyncClient, number: int) -> None:
        nonlocal rounds, tokens
        for turn in count(number, STREAMS):
            prompt = tasks[turn % len(tasks)].prompt
            async with client.stream(prompt, max_new_tokens=ANSWER_TOKENS, policy=policy, ignore_eos=True) as answer:
                async for delta in answer:
                    rounds += 1
                    tokens += len(delta.token_ids)
                    if rounds == STREAMS:
                        under_way.set()

    def now() -> Window:
        return Window(
            rounds=rounds,
            tokens=tokens,
            processor_s=_processor_s(process),
            learner_s=sum(map(_processor_s, learners)),
            wall_s=time.perf_counter(),
        )

    async with AsyncClient(address) as client, owned_tasks() as spawn:
        streams = [spawn(stream(client, number)) for number in range(STREAMS)]
        await asyncio.wait([*streams, spawn(under_way.wait())], return_when=asyncio.FIRST_COMPLETED)
        began = now()
        failed, _ = await asyncio.wait(streams, timeout=length_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in failed:
            task.result()
        return now().since(began)


def _processor_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@asynccontextmanager
async def _controller() -> AsyncIterator[tuple[str, int]]:
    """Address and process of a controller of simulated workers, on a processor of its own."""
    folder = Path(tempfile.mkdtemp(prefix="forerun-bench-"))
    tokenizer = model_folder("zoo:target")
    with _simulated_workers(tokenizer, tuple(ZOO_DRAFTERS)) as workers:
        settings = Settings(
            listen=FREE_PORT,
            tokenizer=tokenizer,
            workers=workers,
            redis=RedisSettings(url=f"embedded://{folder / 'redis'}"),
            router=WITHOUT_RUNS,
        )
        file = folder / "controller.yaml"
        file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        command = (sys.executable, "-P", "-m", "controller", "--config", str(file))
        async with Supervisor(folder / "logs", drain_s=5.0) as supervisor:
            spec = ProcessSpec(name="controller", command=command, environment=ONE_THREAD)
            (process,) = await supervisor.start([spec])
            assert process.pid is not None
            _give_a_processor(process.pid)
            yield process.address, process.pid
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _simulated_workers(tokenizer: str, drafters: Sequence[str]) -> Iterator[tuple[WorkerEntry, ...]]:
    """The target first."""
    known = load_tokenizer(tokenizer)
    arguments = (known.fingerprint, str(known.vocab_size), *drafters)
    command = (sys.executable, "-P", "-m", "bench.simulated_workers", *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **ONE_THREAD})
    assert process.stdout is not None
    try:
        target, *others = json.loads(process.stdout.readline())
        drafting = (WorkerEntry(role="draft", address=address) for address in others)
        yield (WorkerEntry(role="verify", address=target), *drafting)
    finally:
        process.terminate()
        process.wait()


def _give_a_processor(pid: int) -> None:
    """The first one to this process, the others to everybody else who takes part; nothing where it cannot be said."""
    if not hasattr(os, "sched_setaffinity") or len(processors := sorted(os.sched_getaffinity(0))) < 2:
        return
    ours = psutil.Process()
    for process in (ours, *ours.children(recursive=True)):
        _pin(process, processors[:1] if process.pid == pid else processors[1:])


def _pin(process: psutil.Process, processors: Iterable[int]) -> None:
    for thread in process.threads():
        os.sched_setaffinity(thread.id, processors)
