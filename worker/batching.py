"""The engine's thread: whatever is waiting when a forward ends is the next batch.

A job is a generator. It yields the chunk it wants forwarded and is sent the logits, until it returns its result; it
runs on the engine's thread, so it may use the engine and the sessions freely between its yields. Jobs join and leave
between forwards; nothing waits for a batch to fill.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

import torch
from torch import Tensor

from speculation.errors import CapacityError, DrainingError
from speculation.verdict import WorkerTimings
from worker.engine import Chunk, Engine

SHUT_DOWN = "the worker has shut down"

Result = TypeVar("Result")

Steps = Generator[Chunk | None, Tensor, Result]
"""A job. Yielding None means: I cannot go on yet, resume me after the next forward."""

MAX_BATCH_TOKENS = 512
"""Tokens beyond which no further job joins a forward: two slices of a prompt, and any number of short ones."""


_Outcome = tuple[Any, WorkerTimings]


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """A generator under way, and what it has cost."""

    steps: Steps[Any]
    future: asyncio.Future[_Outcome]
    submitted_ns: int
    background: bool
    chunk: Chunk | None = None
    first_forward_ns: int | None = None
    compute_ns: int = 0
    batch_size: int = 1
    forwards: int = 0

    def count(self, *, started_ns: int, batch_size: int) -> None:
        """Note one forward that served this job."""
        if self.first_forward_ns is None:
            self.first_forward_ns = started_ns
        self.compute_ns += time.perf_counter_ns() - started_ns
        self.batch_size = max(self.batch_size, batch_size)
        self.forwards += 1

    def timings(self) -> WorkerTimings:
        """All but the total, which whoever reads the message knows."""
        began_ns = self.first_forward_ns or time.perf_counter_ns()
        return WorkerTimings(
            queue_ns=began_ns - self.submitted_ns,
            compute_ns=self.compute_ns,
            batch_size=self.batch_size,
            forwards=self.forwards,
        )


class EngineThread:
    """Runs jobs over one engine, which no other thread may touch meanwhile.

    Args:
        engine: The engine.
        max_jobs: Jobs waiting or running at once; more are refused.
    """

    def __init__(self, engine: Engine, *, max_jobs: int = 256) -> None:
        self._engine = engine
        self._max_jobs, self._num_jobs = max_jobs, 0
        self._orders: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._jobs: list[_Job] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    async def run(self, steps: Steps[Result], *, background: bool = False) -> tuple[Result, WorkerTimings]:
        """The job's result and what it cost. Cancelling closes the generator before its next step.

        Args:
            steps: The job.
            background: It has a forward only when no other job wants one.

        Raises:
            CapacityError: Too many jobs wait already.
            DrainingError: The thread was closed.
            Exception: Whatever the job raised.
        """
        if self._stopping:
            raise DrainingError(SHUT_DOWN)
        if self._num_jobs >= self._max_jobs:
            raise CapacityError(f"{self._max_jobs} calls are waiting for the model")
        future: asyncio.Future[tuple[Result, WorkerTimings]] = asyncio.get_running_loop().create_future()
        job = _Job(steps=steps, future=future, submitted_ns=time.perf_counter_ns(), background=background)
        self._num_jobs += 1
        self._orders.put(partial(self._admit, job))
        try:
            return await future
        except asyncio.CancelledError:
            self._orders.put(partial(self._drop, job))
            raise
        finally:
            self._num_jobs -= 1

    def post(self, act: Callable[[], None]) -> None:
        """Do this on the engine's thread, after everything ordered so far and before the next forward."""
        self._orders.put(act)

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
                else:  # no job can go on, so only an order can change anything
                    self._orders.get()()
                self._obey()
        finally:
            self._stop()
            self._obey()
            for job in list(self._jobs):
                self._end(job, DrainingError(SHUT_DOWN))

    def _obey(self) -> None:
        """Carry out all orders given so far."""
        while not self._orders.empty():
            self._orders.get()()

    def _admit(self, job: _Job) -> None:
        self._jobs.append(job)

    def _begin(self) -> None:
        """Start new jobs, and resume those that could not go on."""
        for job in [job for job in self._jobs if job.chunk is None]:
            self._advance(job, partial(next, job.steps))

    def _next_batch(self) -> list[_Job]:
        """Jobs for the next forward, those served longest ago first; the first is always among them.

        What is done in the background never shares a forward with what somebody waits for: it would make it longer.
        """
        ready = [job for job in self._jobs if job.chunk is not None]
        batch: list[_Job] = []
        room = MAX_BATCH_TOKENS
        for job in [job for job in ready if not job.background] or ready:
            size = len(job.chunk.token_ids) if job.chunk is not None else 0
            if not batch or size <= room:
                batch.append(job)
                room -= size
        return batch

    def _forward(self, batch: Sequence[_Job]) -> None:
        self._jobs = [job for job in self._jobs if job not in batch] + list(batch)
        for job, logits in zip(batch, self._logits(batch), strict=True):
            if isinstance(logits, Exception):
                self._advance(job, partial(job.steps.throw, logits))
            else:
                self._advance(job, partial(job.steps.send, logits))

    def _logits(self, batch: Sequence[_Job]) -> Sequence[Tensor | Exception]:
        """For each job its logits, or why there are none: a forward that fails is repeated job by job, to find whose
        fault it is and spare the others."""
        started_ns = time.perf_counter_ns()
        try:
            logits = self._engine.forward([job.chunk for job in batch if job.chunk is not None])
            if self._engine.device.type == "cuda":
                torch.cuda.synchronize(self._engine.device)
        except Exception as error:  # whatever it is, it belongs to the job and not to this thread
            return [error] if len(batch) == 1 else [self._logits([job])[0] for job in batch]
        for job in batch:
            job.count(started_ns=started_ns, batch_size=len(batch))
        return logits

    def _advance(self, job: _Job, resume: Callable[[], Chunk | None]) -> None:
        """Take a job to its next chunk, or to its end."""
        try:
            job.chunk = resume()
        except StopIteration as stop:
            self._end(job, (stop.value, job.timings()))
        except Exception as error:  # a job's failure is its caller's to handle
            self._end(job, error)

    def _drop(self, job: _Job) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            job.steps.close()

    def _end(self, job: _Job, outcome: _Outcome | Exception) -> None:
        self._jobs.remove(job)
        job.steps.close()
        job.future.get_loop().call_soon_threadsafe(_settle, job.future, outcome)


def _settle(future: asyncio.Future[_Outcome], outcome: _Outcome | Exception) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
