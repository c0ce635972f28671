"""Tasks that belong to somebody, and a signal to wait for."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


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
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
