"""Replays on all processors: each is deterministic, so it does not matter where it runs."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from bench.router.scenarios import Stage

MOST_PROCESSES = 8
"""Each holds a copy of the recording."""

_stages: list[Stage] = []
"""Of this process: the one it was begun with."""


@contextmanager
def processes_with(stage: Stage) -> Iterator[ProcessPoolExecutor]:
    """Processes that have a stage each. They are begun afresh: gRPC's threads do not survive a fork."""
    with ProcessPoolExecutor(
        max_workers=min(os.cpu_count() or 1, MOST_PROCESSES),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(stage,),
    ) as pool:
        yield pool


def _begin(stage: Stage) -> None:
    _stages.append(stage)


def stage_here() -> Stage:
    """The stage of this process."""
    return _stages[0]
