"""Threads that share a forward of our kernels: one leads, others help where they can (worker/kernels/sharing.py)."""

import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

END_S = 1.0
"""How long to wait for a helper that has been told to end, and may have no processor to do so."""


class Crew:
    """Threads that sleep between forwards; the caller's leads.

    A helper runs when nobody else wants its processor, where the system knows such threads. It never holds Python's
    lock, which whoever holds the processor might then wait for.

    Args:
        threads: How many, with the leader.
        like: An array of the model's kind.
        read: What helpers read besides what `room` gave out; it stays for as long as they do.
    """

    def __init__(self, threads: int, like: NDArray[Any], read: Sequence[NDArray[Any]] = ()) -> None:
        from worker import kernels

        self._kernels, self._like = kernels, like
        self.threads = threads
        self.control = np.zeros(kernels.CONTROL_SIZE, np.int64)
        self._rooms: dict[str, NDArray[Any]] = {}
        self._given: list[NDArray[Any]] = [*read]
        self._pipes: list[tuple[int, int]] = []

    @contextmanager
    def helping(self) -> Iterator[None]:
        """Helpers are awake while the body runs."""
        if self.threads > 1 and not self._pipes:
            self._begin()
        self.control[self._kernels.STATE] = self._kernels.ON
        for _, end in self._pipes:
            _wake(end)
        try:
            yield
        finally:
            self.control[self._kernels.STATE] = self._kernels.ASLEEP

    def room(self, name: str, size: int, kind: Any) -> NDArray[Any]:
        """At least so many numbers of a kind, 0 at first, then what was left there. They are never freed while a helper
        lives: one may read them long after everybody else has done with them."""
        held = self._rooms.get(name)
        if held is None or len(held) < size:
            held = self._rooms[name] = np.zeros(size + (0 if held is None else len(held)), kind)
            self._given.append(held)
        return held

    def _begin(self) -> None:
        self._pipes = [os.pipe() for _ in range(self.threads - 1)]
        for _, end in self._pipes:
            os.set_blocking(end, False)
        helpers = [
            threading.Thread(
                target=_help,
                args=(self._kernels, self._like, self.control, number, pipe, self._given),
                name=f"forward-{number}",
                daemon=True,
            )
            for number, (pipe, _) in enumerate(self._pipes, 1)
        ]
        for helper in helpers:
            helper.start()
        weakref.finalize(self, _end, self._kernels, self.control, helpers, self._pipes)


def _help(kernels: Any, like: NDArray[Any], control: NDArray[np.int64], number: int, pipe: int, read: object) -> None:
    """What a helper does; it keeps alive what it may read."""
    with suppress(AttributeError, OSError):  # not every system has threads that stand back, or lets them
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    kernels.assist(like, control, number, pipe)


def _wake(pipe: int) -> None:
    """Have the helper at the other end look around; it will anyway if the pipe is full."""
    with suppress(BlockingIOError):
        os.write(pipe, b"\0")


def _end(
    kernels: Any, control: NDArray[np.int64], helpers: Sequence[threading.Thread], pipes: Sequence[tuple[int, int]]
) -> None:
    """Have helpers end; pipes of those that have not are left to the system."""
    control[kernels.STATE] = kernels.ENDED
    for _, end in pipes:
        _wake(end)
    for helper, pipe in zip(helpers, pipes, strict=True):
        helper.join(END_S)
        if not helper.is_alive():
            for end in pipe:
                os.close(end)
