"""Proxies between a controller, its workers and Redis: they see each step of a round go by, and can be broken."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from bench.faults.frames import DATA, PREFACE, Frame, Messages, frames_of, read_frame
from bench.faults.steps import Step, reply_of, request_of, step_of
from bench.faults.tampering import corrupted, mistold

PIECE = 65_536
RECORDS = b"XADD"
"""What the controller says to Redis when it writes its log."""

_GONE = (asyncio.IncompleteReadError, OSError)


@dataclass(eq=False, slots=True)
class Connection:
    """One connection through a proxy.

    Attributes:
        writers: To its two ends.
        swallows: Nothing goes through it any more, and neither end is told.
        corrupts: Replies yet to be corrupted.
        repeats: Verdicts yet to be replaced by the one before.
        mistells: Requests yet to be told otherwise.
        sessions: HTTP/2 streams that are sessions.
        said: Of each of them the last verdict.
    """

    writers: tuple[asyncio.StreamWriter, ...]
    swallows: bool = False
    corrupts: int = 0
    repeats: int = 0
    mistells: int = 0
    sessions: set[int] = field(default_factory=set)
    said: dict[int, bytes] = field(default_factory=dict)

    def cut(self) -> None:
        """Break it off: both ends are told at once."""
        for writer in self.writers:
            writer.transport.abort()


Meet = Callable[[Step, "Proxy", Connection], Awaitable[None]]
"""Is told of every step before it goes on its way."""


async def meet_nothing(_: Step, __: "Proxy", ___: Connection) -> None:
    """What usually happens."""


class Proxy(ABC):
    """Stands before one server.

    Args:
        name: Of the server.
        to: host:port of the server, or the path of its unix socket.

    Attributes:
        address: host:port where the proxy listens.
        meet: Is told of every step.
        delay_s: Before every piece that goes through.
        rng: Says what is made of messages that are to be changed.
    """

    def __init__(self, name: str, to: str) -> None:
        self.name = name
        self.address = ""
        self.meet: Meet = meet_nothing
        self.delay_s = 0.0
        self.rng = Random(0)
        self.connections: set[Connection] = set()
        self._to = to
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Listen no more, and break everything off."""
        if self._server is not None:
            self._server.close()
        await self.end_all()

    async def end_all(self) -> None:
        """Break off every connection, those included through which nothing goes."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break off every connection."""
        for connection in tuple(self.connections):
            connection.cut()

    def swallow(self) -> None:
        """Leave every connection open for ever, and let nothing through it; new ones are as always."""
        for connection in self.connections:
            connection.swallows = True

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        # Cancelled by `end_all` only, and then it has nothing more to do than what follows.
        with suppress(asyncio.CancelledError, OSError):
            there, back = await self._reach()
            connection = Connection((writer, back))
            self.connections.add(connection)
            try:
                await self._carry(connection, reader, back, there, writer)
            finally:
                self.connections.discard(connection)
                back.transport.abort()
        writer.transport.abort()
        self._tasks.discard(task)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._to.startswith("/"):
            return await asyncio.open_unix_connection(self._to)
        host, _, port = self._to.rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def _carry(
        self,
        connection: Connection,
        reader: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._until_gone(self._there(reader, back, connection), connection))
                group.create_task(self._until_gone(self._back(there, writer, connection), connection))
        except* _GONE:
            pass  # one end is gone: now the other will hear of it

    @staticmethod
    async def _until_gone(way: Awaitable[None], connection: Connection) -> None:
        try:
            await way
        except _GONE:
            if not connection.swallows:
                raise
            await asyncio.Event().wait()  # the other end is not told

    @abstractmethod
    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        """Carry what the controller says, until it is gone; then raises one of _GONE."""

    @abstractmethod
    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        """Carry what the server says."""

    async def _write(self, data: bytes, writer: asyncio.StreamWriter, connection: Connection) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if not connection.swallows:
            writer.write(data)
            await writer.drain()


class WorkerProxy(Proxy):
    """Stands before a worker of a role, draft or verify."""

    def __init__(self, name: str, to: str, role: str) -> None:
        super().__init__(name, to)
        self.role = role

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        messages = Messages()
        await self._write(await reader.readexactly(len(PREFACE)), writer, connection)
        while True:
            frame = await read_frame(reader)
            if frame.ends_stream and frame.stream in connection.sessions and self.role == "verify":
                await self.meet(Step.FINISH, self, connection)
            if frame.kind != DATA:
                await self._write(frame.bytes, writer, connection)
                continue
            told = [await self._told(one, frame, connection) for one in messages.completed_by(frame)]
            await self._pass_on(told, frame, writer, connection)

    async def _told(self, data: bytes, frame: Frame, connection: Connection) -> bytes:
        """What the worker is told in place of a message."""
        request = request_of(self.role, data)
        if request is not None and request.WhichOneof("message") == "open":
            connection.sessions.add(frame.stream)
        if frame.stream not in connection.sessions:
            return data
        if (step := step_of(request)) is not None:
            await self.meet(step, self, connection)
        if connection.mistells and (otherwise := mistold(self.role, data, self.rng)) is not None:
            connection.mistells -= 1
            return otherwise
        return data

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        messages = Messages()
        while True:
            frame = await read_frame(reader)
            if frame.kind != DATA:
                await self._write(frame.bytes, writer, connection)
                continue
            for data in messages.completed_by(frame):
                steps = await self._meet_reply(data, frame, connection)
                await self._pass_on([self._answered(data, frame, connection)], frame, writer, connection)
                if Step.VERIFY_ANSWERED in steps:
                    await self.meet(Step.COMMIT, self, connection)

    async def _meet_reply(self, data: bytes, frame: Frame, connection: Connection) -> set[Step]:
        if frame.stream not in connection.sessions or (step := step_of(reply_of(self.role, data))) is None:
            return set()
        await self.meet(step, self, connection)
        return {step}

    def _answered(self, data: bytes, frame: Frame, connection: Connection) -> bytes:
        """What the controller is answered in place of a message."""
        if connection.corrupts and data:
            connection.corrupts -= 1
            return corrupted(data, self.rng)
        if frame.stream in connection.sessions and step_of(reply_of(self.role, data)) is Step.VERIFY_ANSWERED:
            before = connection.said.get(frame.stream)
            connection.said[frame.stream] = data
            if connection.repeats and before is not None:
                connection.repeats -= 1
                return before
        return data

    async def _pass_on(
        self, messages: list[bytes], frame: Frame, writer: asyncio.StreamWriter, connection: Connection
    ) -> None:
        for part in frames_of(messages, frame):
            await self._write(part.bytes, writer, connection)


class RedisProxy(Proxy):
    """Stands before a Redis."""

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        while piece := await reader.read(PIECE):
            if RECORDS in piece:
                await self.meet(Step.LOG, self, connection)
            await self._write(piece, writer, connection)
        raise ConnectionResetError

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: Connection) -> None:
        while piece := await reader.read(PIECE):
            if connection.corrupts:
                connection.corrupts -= 1
                piece = corrupted(piece, self.rng)
            await self._write(piece, writer, connection)
        raise ConnectionResetError
