"""Who reads gRPC's sockets: the thread that waits for messages, itself, and no pool of threads behind it.

Left to itself gRPC (1.85) reads by its event engine: a message wakes a thread of a pool, that one the thread that
waits, and that one the event loop. Older releases let the waiting thread poll, and this one still can. With fewer
threads to be woken for every message a bare exchange takes two thirds of the time, and a controller makes a tenth more
rounds a second (docs/log.md).
"""

import os

EXPERIMENTS = "GRPC_EXPERIMENTS"
"""The variable by which gRPC is told what to do otherwise than it would; it looks once, when it is imported."""

WITHOUT_POOL = "-event_engine_client,-event_engine_listener"


def poll_where_messages_are_awaited() -> None:
    """For the whole process, if gRPC was not imported before. What the operator has told gRPC holds."""
    os.environ.setdefault(EXPERIMENTS, WITHOUT_POOL)
