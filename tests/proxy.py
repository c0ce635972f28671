"""A TCP proxy that is far away: what goes through it arrives later, in order, at the pace at which it came."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

PIECE = 65_536


@asynccontextmanager
async def delayed(address: str, *, one_way_s: float) -> AsyncIterator[str]:
    """The address of a proxy before that one; each way takes so long."""
    host, _, port = address.rpartition(":")
    pumps: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(host, int(port))
        for source, sink in ((reader, back), (there, writer)):
            pump = asyncio.create_task(_pump(source, sink, one_way_s))
            pumps.add(pump)
            pump.add_done_callback(pumps.discard)

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for pump in tuple(pumps):
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, delay_s: float) -> None:
    """Pass on what comes, each piece when its time has come."""
    loop = asyncio.get_running_loop()
    on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def arrive() -> None:
        while True:
            due, piece = await on_the_way.get()
            await asyncio.sleep(max(due - loop.time(), 0))
            if not piece:
                return
            sink.write(piece)
            await sink.drain()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(arrive())
            while True:
                piece = await source.read(PIECE)
                on_the_way.put_nowait((loop.time() + delay_s, piece))
                if not piece:
                    break
    except* OSError:
        pass  # one end is gone: the other will notice
    finally:
        sink.close()


@dataclass
class _Started:
    address: str = ""


@contextmanager
def delaying_proxy(address: str, *, one_way_s: float) -> Iterator[str]:
    """The same in a thread of its own, for tests without an event loop."""
    started, up, loop = _Started(), threading.Event(), asyncio.new_event_loop()
    end = asyncio.Event()

    async def serve() -> None:
        async with delayed(address, one_way_s=one_way_s) as started.address:
            up.set()
            await end.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert up.wait(10)
    try:
        yield started.address
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()
