"""A real fleet of real processes, each of which a test may kill, freeze or thaw."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import redis
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.forked import FORKS, STDERR, Process, begin, free_address
from controller.embedded_redis import server_binary
from speculation.v1 import router_pb2, router_pb2_grpc
from zoo.catalog import model_folder

FORKS.set_forkserver_preload(["pytest", "controller.serve", "worker.serve"])
"""That `python -m worker` and `python -m controller` work without it is for other tests to show."""


def failed_start(*command: str) -> str:
    """What a program says on stderr that cannot start; its exit status must be 1."""
    process, said = begin(command, STDERR)
    with open(said.fileno(), closefd=False) as stderr:
        lines = stderr.read()
    process.join(10)
    said.close()
    assert process.exitcode == 1
    return lines


def worker(role: str, model: str, *, slots: int = 8, least_idle_s: float = 0.0) -> Process:
    """A worker process around a zoo model; not yet waited for."""
    return worker_of(role, model_folder(model), name=model, slots=slots, least_idle_s=least_idle_s)


def worker_of(role: str, folder: Path, *, name: str, slots: int = 8, least_idle_s: float = 0.0) -> Process:
    """A worker process around any model. Where sessions outnumber slots, each takes another's, by default at once."""
    return Process(
        name,
        (
            *("worker", "--role", role, "--model", str(folder), "--name", name),
            *("--listen", free_address(), "--slots", str(slots), "--max-length", "512"),
            *("--least-idle", str(least_idle_s)),
        ),
    )


@dataclass
class Fleet:
    """Workers and a controller over them, which is asked with a token if it wants one."""

    workers: Mapping[str, Process]
    controller: Process
    token: str = ""

    def mend(self) -> None:
        """Undo what a test did to its processes."""
        begun = [process for process in (*self.workers.values(), self.controller) if process.begin_to_mend()]
        for process in begun:
            process.await_ready()
        eventually(lambda: serving(self, list(self.workers)), within_s=60)

    @property
    def address(self) -> str:
        """Where the controller listens."""
        return self.controller.address

    def show(self) -> router_pb2.ShowResponse:
        """What the controller sees."""
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        with grpc.insecure_channel(self.address) as channel:
            response: router_pb2.ShowResponse = router_pb2_grpc.RouterServiceStub(channel).Show(
                router_pb2.ShowRequest(), timeout=5, metadata=metadata
            )
        return response

    def health(self) -> int:
        """The controller's serving status for generation."""
        with grpc.insecure_channel(self.address) as channel:
            request = health_pb2.HealthCheckRequest(service="speculation.v1.GenerationService")
            status: int = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5).status
        return status


@contextmanager
def fleet(
    folder: Path, *, workers: Mapping[str, Process], expected: Sequence[str] = (), token: str = "", **settings: Any
) -> Iterator[Fleet]:
    """A controller over these workers, once the expected ones (or else all) serve; ends all of them."""
    started: list[Process] = list(workers.values())
    try:
        for process in workers.values():
            process.await_ready()
        config = folder / "controller.yaml"
        config.write_text(yaml.safe_dump(_configuration(workers) | settings))
        controller = Process("controller", ("controller", "--config", str(config)))
        started.append(controller)
        controller.await_ready()
        running = Fleet(workers, controller, token)
        eventually(lambda: serving(running, expected or list(workers)), within_s=60)
        yield running
    finally:
        for process in reversed(started):
            process.end()


def _configuration(workers: Mapping[str, Process]) -> dict[str, Any]:
    roles = {name: process.command[process.command.index("--role") + 1] for name, process in workers.items()}
    return {
        "listen": free_address(),
        "tokenizer": str(model_folder("target")),
        "workers": [{"role": roles[name], "address": process.address} for name, process in workers.items()],
    }


def serving(running: Fleet, names: Sequence[str]) -> bool:
    """Whether the controller counts all these workers as serving."""
    addresses = {running.workers[name].address for name in names}
    healthy = {state.address for state in running.show().workers if state.health == router_pb2.WORKER_HEALTH_SERVING}
    return addresses <= healthy


def eventually(holds: Callable[[], bool], *, within_s: float) -> None:
    """Wait for something to become true; fail if it does not within the time."""
    ends = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < ends, "did not become true in time"
        time.sleep(0.02)


@dataclass
class RedisServer:
    """A Redis on a unix socket, which a test may kill and start again; it keeps its data."""

    folder: Path
    popen: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """How to reach it."""
        return f"unix://{self.folder / 'r.sock'}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = ("--port", "0", "--unixsocket", str(self.folder / "r.sock"), "--dir", str(self.folder))
        self.popen = subprocess.Popen(
            (server_binary(), *options, "--appendonly", "yes", "--save", ""),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        eventually(self._answers, within_s=20)

    def kill(self) -> None:
        """End it without a chance to write anything more."""
        self.popen.kill()
        self.popen.wait(10)

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A real Redis of the test's own."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()
