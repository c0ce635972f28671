"""Tasks that belong to somebody, and a signal to wait for."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

CANCEL_AGAIN_S = 30.0
"""A cancellation that meets a library's own time-out can be swallowed, and nobody must wait for ever for a task that
never heard of it. Longer than any task needs to put its things in order."""


class Spawn(Protocol):
    """Starts a task that ends with its owner."""

    def __call__(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]": ...


@asynccontextmanager
async def owned_tasks() -> AsyncIterator[Spawn]:
    """Tasks that are cancelled and awaited when the body ends.

    Unlike a TaskGroup it lets the body's own error pass unwrapped, and leaves a task's error to whoever awaits it.
    """
    tasks: set[asyncio.Task[Any]] = set()

    def spawn(work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return task

    try:
        yield spawn
    finally:
        ending = tuple(tasks)
        while pending := [task for task in ending if not task.done()]:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        await asyncio.gather(*ending, return_exceptions=True)  # so that nobody complains of errors never looked at


class Signal:
    """Something changed: wakes everybody who waits at that moment."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def fire(self) -> None:
        """Wake all who wait."""
        self._next.set()
        self._next = asyncio.Event()

    async def wait(self) -> None:
        """Wait until the next `fire`."""
        await self._next.wait()
