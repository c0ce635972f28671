"""A real fleet of real processes, each of which a test may kill, freeze or thaw."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import redis
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.embedded_redis import server_binary
from speculation.v1 import router_pb2, router_pb2_grpc
from zoo.catalog import model_folder

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
START_S = 240.0


@dataclass
class Process:
    """A process of ours and where it listens."""

    name: str
    command: tuple[str, ...]
    address: str = ""
    popen: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start it."""
        self.popen = subprocess.Popen(
            (sys.executable, "-m", *self.command),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **ONE_THREAD},
        )

    def await_ready(self) -> None:
        """Read the line that a process prints once it can be called."""
        assert self.popen.stdout is not None
        timer = threading.Timer(START_S, self.popen.kill)
        timer.start()
        line = self.popen.stdout.readline()
        timer.cancel()
        assert line, f"{self.name} did not start"
        self.address = json.loads(line)["address"]

    def mend(self) -> None:
        """Thaw it if it is frozen, start it again if it has ended."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
        else:
            self.end()
            self.start()
            self.await_ready()

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def end(self) -> None:
        """End it for good, frozen or not."""
        with suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait(10)
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def free_address() -> str:
    """An address nobody listens on, so that a process started again is found where it was."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def worker(role: str, model: str, *, slots: int = 8) -> Process:
    """A worker process around a zoo model; not yet waited for."""
    return worker_of(role, model_folder(model), name=model, slots=slots)


def worker_of(role: str, folder: Path, *, name: str, slots: int = 8) -> Process:
    """A worker process around any model."""
    return Process(
        name,
        (
            *("worker", "--role", role, "--model", str(folder), "--name", name),
            *("--listen", free_address(), "--slots", str(slots), "--max-length", "512"),
        ),
    )


@dataclass
class Fleet:
    """Workers and a controller over them."""

    workers: Mapping[str, Process]
    controller: Process

    def mend(self) -> None:
        """Undo what a test did to its processes."""
        for process in (*self.workers.values(), self.controller):
            process.mend()
        eventually(lambda: serving(self, list(self.workers)), within_s=60)

    @property
    def address(self) -> str:
        """Where the controller listens."""
        return self.controller.address

    def show(self) -> router_pb2.ShowResponse:
        """What the controller sees."""
        with grpc.insecure_channel(self.address) as channel:
            response: router_pb2.ShowResponse = router_pb2_grpc.RouterServiceStub(channel).Show(
                router_pb2.ShowRequest(), timeout=5
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
    folder: Path, *, workers: Mapping[str, Process], expected: Sequence[str] = (), **settings: Any
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
        running = Fleet(workers, controller)
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
