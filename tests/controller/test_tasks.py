"""Tasks end with their owner, whatever they do."""

import asyncio
from contextlib import suppress

import pytest

from controller import tasks
from speculation.cancellation import heed_cancellation


def test_tasks_are_cancelled_and_may_put_their_things_in_order() -> None:
    order: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            order.append("in order")

    async def scenario() -> None:
        async with tasks.owned_tasks() as spawn:
            spawn(work())
            await asyncio.sleep(0)
        order.append("left")

    asyncio.run(asyncio.wait_for(scenario(), 5))

    assert order == ["in order", "left"]


def test_a_task_that_swallows_its_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CANCEL_AGAIN_S", 0.05)

    async def deaf_once() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()

    async def scenario() -> None:
        async with tasks.owned_tasks() as spawn:
            spawn(deaf_once())
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 5))


def test_the_bodys_own_error_passes() -> None:
    async def scenario() -> None:
        async with tasks.owned_tasks() as spawn:
            spawn(asyncio.sleep(60))
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(asyncio.wait_for(scenario(), 5))


def test_a_swallowed_cancellation_is_heeded_at_the_next_turn() -> None:
    """As `asyncio.wait_for` of Python 3.11 swallows it when its result comes at the same moment."""
    turns = 0

    async def deaf_once() -> None:
        nonlocal turns
        while True:
            turns += 1
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            heed_cancellation()

    async def scenario() -> None:
        async with tasks.owned_tasks() as spawn:
            spawn(deaf_once())
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), timeout=20))

    assert turns == 1
