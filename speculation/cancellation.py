"""Cancellation of asyncio tasks that survives the libraries in between."""

import asyncio


def heed_cancellation() -> None:
    """Raise the cancellation of this task that somebody swallowed.

    Up to Python 3.11 `asyncio.wait_for` returns its result when that comes together with the cancellation, and redis-py
    sends with it: a loop around Redis that did not ask would go on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
