"""The floor under `overhead`: rounds of two bare gRPC streams, with no code of Forerun's in them.

A client asks one server process and then another, as a controller asks drafter and target; each keeps a processor busy
on a thread of its own for as long as a worker would, and answers with the time it took. What is left of a round is the
price of gRPC and of waking sleeping processes on this machine.
"""

import asyncio
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

import grpc
import numpy as np
import uvloop

_NS = struct.Struct("q")
_METHOD = "/bench.Echo/Echo"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""As workers have: a server that kept every processor awake would make waking look cheap."""
_PADDING = bytes(64)
"""A round's messages are about this long."""


def measure_echo(busy_ns: Sequence[int], rounds: int) -> list[float]:
    """What each of so many rounds took beyond its servers' own time, in milliseconds; by a process of its own.

    Args:
        busy_ns: How long each server, in turn, keeps a processor busy.
        rounds: How many.
    """
    command = [sys.executable, "-m", "bench.echo", str(rounds), *map(str, busy_ns)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, **_ONE_THREAD})
    added: list[float] = json.loads(finished.stdout)
    return added


async def _rounds(ports: Sequence[int], busy_ns: Sequence[int], rounds: int) -> list[float]:
    async with AsyncExitStack() as stack:
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        calls: list[Any] = []
        for channel in channels:
            opened: Any = await stack.enter_async_context(channel)
            calls.append(opened.stream_stream(_METHOD)())
        return [await _round(calls, busy_ns) for _ in range(rounds)]


async def _round(calls: Sequence[Any], busy_ns: Sequence[int]) -> float:
    started_ns, theirs_ns = time.perf_counter_ns(), 0
    for call, busy in zip(calls, busy_ns, strict=True):
        await call.write(_NS.pack(busy) + _PADDING)
        theirs_ns += _NS.unpack_from(await call.read())[0]
    return (time.perf_counter_ns() - started_ns - theirs_ns) / 1e6


async def _serve() -> None:
    orders: SimpleQueue[tuple[int, asyncio.Future[None]]] = SimpleQueue()
    threading.Thread(target=_work, args=(orders,), daemon=True).start()

    async def echo(requests: AsyncIterable[bytes], context: Any) -> None:
        async for request in requests:
            read_ns = time.perf_counter_ns()
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            orders.put((_NS.unpack_from(request)[0], done))
            await done
            await context.write(_NS.pack(time.perf_counter_ns() - read_ns) + _PADDING)

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Echo", {"Echo": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


def _work(orders: "SimpleQueue[tuple[int, asyncio.Future[None]]]") -> None:
    """Compute for as long as ordered, over more memory than the caches hold, as a model does."""
    weights = np.ones((1024, 2048), np.float32)
    column = np.ones(2048, np.float32)
    while True:
        busy_ns, done = orders.get()
        ends_ns = time.perf_counter_ns() + busy_ns
        while time.perf_counter_ns() < ends_ns:
            weights @ column
        done.get_loop().call_soon_threadsafe(done.set_result, None)


@contextmanager
def _server() -> Iterator[int]:
    """The port of an echo server that runs while the body does."""
    process = subprocess.Popen([sys.executable, "-m", "bench.echo"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Without arguments a server; with them the client."""
    if len(sys.argv) == 1:
        uvloop.run(_serve())
        return
    rounds, *busy_ns = map(int, sys.argv[1:])
    with ExitStack() as stack:
        ports = [stack.enter_context(_server()) for _ in busy_ns]
        print(json.dumps(uvloop.run(_rounds(ports, busy_ns, rounds))))


if __name__ == "__main__":
    main()
