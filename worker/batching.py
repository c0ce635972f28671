"""The engine's thread: whatever is waiting when a forward ends is the next batch.

A job is a generator. It yields the chunk it wants forwarded and is sent the logits, until it returns its result; it
runs on the engine's thread, so it may use the engine and the sessions freely between its yields. Jobs join and leave
between forwards; nothing waits for a batch to fill. Work for idle time ends as soon as there is any other.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from speculation import tracing
from speculation.errors import CapacityError, DrainingError
from speculation.verdict import WorkerTimings
from worker.forward_spans import ForwardNotes, note
from worker.meter import EngineMeter
from worker.scratch import Chunk
from worker.slots import Slots

SHUT_DOWN = "the worker has shut down"

Result = TypeVar("Result")

Steps = Generator[Chunk | None, Tensor, Result]
"""A job. Yielding None means: I cannot go on yet, resume me after the next forward, or a little later."""

WAIT_S = 0.1
"""How much later, where nothing runs."""

LEAST_SHARE = 0.85
"""Of a processor. A forward of work for idle time that got less competes with somebody, most likely with the target."""

LONGEST_REST = 32
"""Pieces of such work to leave out before it is tried again whether there is a processor for it. One in nine costs four
hundredths where there is none, as threads share the target's forward; a longer rest wastes the processor that is free a
moment later."""

MAX_BATCH_TOKENS = 512
"""Tokens beyond which no further job joins a forward, any number of short ones apart."""

LONG = 64
"""A chain of more tokens is a slice of a prompt."""


class GaveWayError(Exception):
    """Expected: work for idle time was ended, because there was other work. What it forwarded stays in its slot."""


_Outcome = tuple[Any, WorkerTimings]


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """A generator under way, and what it has cost."""

    steps: Steps[Any]
    future: asyncio.Future[_Outcome]
    submitted_ns: int
    background: bool = False
    gives_way: bool = False
    notes: ForwardNotes | None = None
    chunk: Chunk | None = None
    first_forward_ns: int | None = None
    compute_ns: int = 0
    processor_ns: int = 0
    batch_size: int = 1
    batch_positions: int = 0
    nodes_beside: int = 0
    trees_beside: int = 0
    forwards: int = 0

    @property
    def num_tokens(self) -> int:
        """Tokens that it wants forwarded."""
        return 0 if self.chunk is None else len(self.chunk.token_ids)

    @property
    def reads(self) -> bool:
        """Whether they are a slice of a prompt."""
        return self.chunk is not None and self.chunk.parents is None and self.num_tokens > LONG

    def count(self, batch: "_Batch", *, started_ns: int, processor_ns: int) -> None:
        """Note one forward that served this job."""
        self.processor_ns += processor_ns
        if self.first_forward_ns is None:
            self.first_forward_ns = started_ns
        self.compute_ns += time.perf_counter_ns() - started_ns
        self.forwards += 1
        own = 0 if self.chunk is None else self.chunk.num_nodes
        self.nodes_beside += batch.nodes - own
        self.trees_beside += batch.trees - bool(own)
        if self.chunk is None or not self.chunk.in_run:
            self.batch_size = max(self.batch_size, batch.size)
            self.batch_positions = max(self.batch_positions, batch.positions)

    def timings(self) -> WorkerTimings:
        """All but the total, which whoever reads the message knows."""
        began_ns = self.first_forward_ns or time.perf_counter_ns()
        return WorkerTimings(
            queue_ns=began_ns - self.submitted_ns,
            compute_ns=self.compute_ns,
            batch_size=self.batch_size,
            batch_positions=self.batch_positions,
            forwards=self.forwards,
            nodes_beside=self.nodes_beside,
            trees_beside=self.trees_beside,
        )


class _Batch(NamedTuple):
    """Who shares a forward: sessions, positions at which it tells the next token, trees, and their nodes."""

    size: int
    positions: int
    trees: int
    nodes: int

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "_Batch":
        nodes = [chunk.num_nodes for chunk in chunks]
        positions = sum(chunk.num_wanted for chunk in chunks)
        return cls(size=len(chunks), positions=positions, trees=sum(map(bool, nodes)), nodes=sum(nodes))


class SpareProcessor:
    """Whether this machine has a processor for work that nobody waits for, for as long as the work takes.

    Without one, such work slows whoever is waited for. It should be asked for now and then, less and less often while
    it is so.

    Attributes:
        rest: Pieces of work that had better not be asked for.
    """

    def __init__(self) -> None:
        self.rest = 0

    def learn(self, share: float) -> None:
        """What a piece of work had of a processor, 0 to 1."""
        # Slower back than away: a machine that is full every other moment is full.
        self.rest = self.rest // 2 if share >= LEAST_SHARE else min(4 * self.rest + 1, LONGEST_REST)


class EngineThread:
    """Runs jobs over one engine, which no other thread may touch meanwhile.

    Args:
        engine: The engine.
        max_jobs: Jobs waiting or running at once, without work for idle time; more are refused.

    Attributes:
        meter: What the engine has done.
    """

    def __init__(self, engine: Slots, *, max_jobs: int = 256) -> None:
        self.meter = EngineMeter()
        self._engine = engine
        self._max_jobs, self._num_jobs = max_jobs, 0
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._jobs: list[_Job] = []
        self._spare = SpareProcessor()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def num_jobs(self) -> int:
        """Jobs waiting or running, without work for idle time."""
        return self._num_jobs

    async def run(
        self, steps: Steps[Result], *, background: bool = False, gives_way: bool = False
    ) -> tuple[Result, WorkerTimings]:
        """The job's result and what it cost. Cancelling closes the generator before its next step.

        Args:
            steps: The job.
            background: It has a forward only when no other job wants one.
            gives_way: It is work for idle time. It is begun in any case; then other jobs wait for no more than the
                forward under way.

        Raises:
            CapacityError: Too many jobs wait already.
            DrainingError: The thread was closed.
            GaveWayError: It was ended in favour of others.
            Exception: Whatever the job raised.
        """
        if self._stopping:
            raise DrainingError(SHUT_DOWN)
        if self._num_jobs >= self._max_jobs and not gives_way:
            raise CapacityError(f"{self._max_jobs} calls are waiting for the model")
        future: asyncio.Future[tuple[Result, WorkerTimings]] = asyncio.get_running_loop().create_future()
        job = _Job(
            steps=steps,
            future=future,
            submitted_ns=time.perf_counter_ns(),
            background=background,
            gives_way=gives_way,
            notes=None if (here := tracing.place()) is None else ForwardNotes(here),
        )
        self._num_jobs += not gives_way
        self._orders.put(partial(self._admit, job))
        try:
            return await future
        except asyncio.CancelledError:
            self._orders.put(partial(self._drop, job))
            raise
        finally:
            self._num_jobs -= not gives_way
            if job.notes is not None:
                job.notes.tell()

    def post(self, act: Callable[[], None]) -> None:
        """Do this on the engine's thread, after everything ordered so far and before the next forward."""
        self._orders.put(act)

    @property
    def rest(self) -> int:
        """Pieces of work for idle time that had better not be asked for: there is no processor to spare."""
        return self._spare.rest

    def end_idle_work(self) -> None:
        """End all jobs that give way, after the forward under way."""
        self._orders.put(self._make_way)

    def close(self) -> None:
        """End the thread after the forward under way; jobs not finished fail with DrainingError."""
        self._orders.put(self._stop)
        self._thread.join()

    def _stop(self) -> None:
        self._stopping = True

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            while not self._stopping:
                self._begin()
                if batch := self._next_batch():
                    self._forward(batch)
                else:
                    self._await_order()
                self._obey()
        finally:
            self._stop()
            self._obey()
            for job in list(self._jobs):
                self._end(job, DrainingError(SHUT_DOWN))

    def _await_order(self) -> None:
        """No job can go on: sleep until there is an order, or a job that waits may ask the clock again."""
        with suppress(Empty):
            self._orders.get(timeout=WAIT_S if self._jobs else None)()

    def _obey(self) -> None:
        """Carry out all orders given so far."""
        while not self._orders.empty():
            self._orders.get()()

    def _admit(self, job: _Job) -> None:
        self._jobs.append(job)

    def _begin(self) -> None:
        """Start new jobs, and resume those that could not go on; afterwards nobody gives way to anybody."""
        for job in [job for job in self._jobs if job.chunk is None]:
            if not job.gives_way:
                self._make_way()  # for jobs of the same session, too: one must have ended before the next begins
            self._advance(job, partial(next, job.steps))
        if self._busy:
            self._make_way()

    @property
    def _busy(self) -> bool:
        """Whether there is more than work for idle time."""
        return not all(job.gives_way for job in self._jobs)

    def _make_way(self) -> None:
        """End the work for idle time that was begun."""
        for job in [job for job in self._jobs if job.gives_way and job.chunk is not None]:
            self._end_early(job)

    def _end_early(self, job: _Job) -> None:
        if job in self._jobs:
            self._advance(job, partial(job.steps.throw, GaveWayError()))

    def _next_batch(self) -> list[_Job]:
        """Jobs for the next forward, those served longest ago first; the first is always among them.

        What is done in the background never shares a forward with what somebody waits for: it would make it longer.
        For the same reason no more than one slice of a prompt shares a forward with rounds.
        """
        ready = [job for job in self._jobs if job.chunk is not None]
        ready = [job for job in ready if not job.background] or ready
        reading = [job for job in ready if job.reads]
        if len(reading) < len(ready):
            ready = [job for job in ready if job not in reading[1:]]
        batch: list[_Job] = []
        room = MAX_BATCH_TOKENS
        for job in ready:
            if not batch or job.num_tokens <= room:
                batch.append(job)
                room -= job.num_tokens
        return batch

    def _forward(self, batch: Sequence[_Job]) -> None:
        self._jobs = [job for job in self._jobs if job not in batch] + list(batch)
        results = self._logits(batch)
        if batch[0].gives_way:
            self._obey()
            if self._busy:  # what they would make of their logits must not be waited for, either
                return
        for job, logits in zip(batch, results, strict=True):
            if job not in self._jobs:  # dropped just now
                continue
            if isinstance(logits, Exception):
                self._advance(job, partial(job.steps.throw, logits))
            else:
                self._advance(job, partial(job.steps.send, logits))

    def _logits(self, batch: Sequence[_Job]) -> Sequence[Tensor | Exception]:
        """For each job its logits, or why there are none: a forward that fails is repeated job by job, to find whose
        fault it is and spare the others."""
        idle_work = batch[0].gives_way  # of other work nobody asks what it had of a processor
        started_ns, processor_ns = time.perf_counter_ns(), time.thread_time_ns() if idle_work else 0
        chunks = [job.chunk for job in batch if job.chunk is not None]
        try:
            logits = self._engine.forward(chunks)
            if self._engine.device.type == "cuda":
                torch.cuda.synchronize(self._engine.device)
        except Exception as error:  # whatever it is, it belongs to the job and not to this thread
            self.meter.failed_forwards += 1
            return [error] if len(batch) == 1 else [self._logits([job])[0] for job in batch]
        processor_ns = time.thread_time_ns() - processor_ns if idle_work else 0
        shared = _Batch.of(chunks)
        self.meter.count(
            took_ns=time.perf_counter_ns() - started_ns,
            batch_size=shared.size,
            tokens=sum(job.num_tokens for job in batch),
            waited_ns=[started_ns - job.submitted_ns for job in batch if job.first_forward_ns is None],
        )
        note([job.notes for job in batch], began_ns=started_ns, batch_positions=shared.positions)
        for job in batch:
            job.count(shared, started_ns=started_ns, processor_ns=processor_ns)
        return logits

    def _advance(self, job: _Job, resume: Callable[[], Chunk | None]) -> None:
        """Take a job to its next chunk, or to its end."""
        try:
            job.chunk = resume()
        except StopIteration as stop:
            self._end(job, (stop.value, job.timings()))
        except Exception as error:  # a job's failure is its caller's to handle
            self._end(job, error)

    def _share(self, job: _Job) -> float:
        """What the job had of a processor; on a GPU this thread's time says nothing about it."""
        return job.processor_ns / job.compute_ns if self._engine.device.type == "cpu" else 1.0

    def _drop(self, job: _Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            job.steps.close()

    def _end(self, job: _Job, outcome: _Outcome | Exception) -> None:
        self._jobs.remove(job)
        job.steps.close()
        if job.gives_way and job.forwards:
            self._spare.learn(self._share(job))
        job.future.get_loop().call_soon_threadsafe(_settle, job.future, outcome)


def _settle(future: asyncio.Future[_Outcome], outcome: _Outcome | Exception) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
