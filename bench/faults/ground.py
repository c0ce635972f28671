"""A fleet to break: two targets, two drafters, a controller and a Redis, each a process; a proxy before each server."""

import asyncio
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import rmtree
from urllib.request import urlopen

import yaml
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.exceptions import RedisError

from bench.faults.lines import Proxy, RedisProxy, WorkerProxy
from bench.forked import Process, free_address
from bench.preload import Surroundings, preloaded
from controller.embedded_redis import server_binary
from forerun.client import AsyncClient, RouterClient, WorkerHealth
from speculation.errors import ForerunError
from zoo.catalog import model_folder

CONTROLLER, REDIS = "controller", "redis"
TARGETS: Mapping[str, str] = {"target": "target", "target-2": "target"}
DRAFTERS: Mapping[str, str] = {"code": "code", "docs": "docs"}

TIMEOUTS = {"health_interval_s": 0.5, "health_timeout_s": 1.0, "draft_timeout_s": 0.5, "verify_wait_s": 20.0}
"""Shorter than the defaults, so that two hundred faults are gone through in a quarter of an hour."""

MOST_WAITING = 40
"""Records that wait for Redis: few, so that some are dropped."""

SLOTS = 2
"""Fewer than sessions: workers forget some all the time."""

WHOLE_WITHIN_S = 60.0
FREE_WITHIN_S = 45.0
"""A worker frees what belongs to a connection that says nothing any more within half a minute."""

LOOK_EVERY_S = 0.05

HELD = {
    "forerun_engine_sessions",
    "forerun_engine_calls_waiting",
    "forerun_cache_session_tokens",
    "forerun_requests_in_flight",
}
"""What nobody holds when nothing is asked."""


class NotWholeError(ForerunError):
    """The fleet did not recover."""

    reason = "NOT_WHOLE"


class RedisServer:
    """A Redis on a unix socket that keeps its data; it may be killed and started again."""

    def __init__(self, folder: Path, surroundings: Surroundings) -> None:
        self.socket = folder / "redis.sock"
        self._folder, self._surroundings = folder, surroundings
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ("--port", "0", "--unixsocket", str(self.socket), "--dir", str(self._folder), "--save", "")
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                (server_binary(), *options, "--appendonly", "yes"),
                stdout=log,
                stderr=log,
                env={**os.environ, **preloaded(), **self._surroundings.environment},
                # Python ignores SIGXFSZ, and now Redis does, too: a limit on files is to be an error, not the end.
                restore_signals=False,
            )
        ends = time.monotonic() + WHOLE_WITHIN_S
        while not self.answers():
            if time.monotonic() > ends or self._process.poll() is not None:
                raise NotWholeError(f"redis did not start; its log is {self._folder / 'redis.log'}")
            time.sleep(LOOK_EVERY_S)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, frozen or not."""
        return self._process.poll() is None

    def answers(self) -> bool:
        """Whether it does."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def client(self) -> "Redis":
        """The short way to it."""
        return Redis(unix_socket_path=str(self.socket), socket_timeout=5.0)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def begin_to_mend(self) -> None:
        """Thaw it if it is frozen, start it again if it has ended."""
        if self.alive:
            self.signal(signal.SIGCONT)
        else:
            self.start()

    def kill(self) -> None:
        """End it without a chance to do anything more."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True)
class Sample:
    """One number that a process tells Prometheus."""

    name: str
    labels: Mapping[str, str]
    value: float


class Ground:
    """The fleet.

    Attributes:
        redis: Its Redis.
        proxies: By server.
        workers: By name.
        controller: Its controller.
        surroundings: By process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.surroundings = {
            name: Surroundings(folder / f"{name}.told") for name in (*TARGETS, *DRAFTERS, CONTROLLER, REDIS)
        }
        self.proxies: dict[str, Proxy] = {}
        self.workers: dict[str, Process] = {}
        self.redis: RedisServer
        self.controller: Process

    async def start(self, stack: AsyncExitStack) -> None:
        """Start everything, Redis first."""
        self.redis = await asyncio.to_thread(RedisServer, self.folder, self.surroundings[REDIS])
        stack.callback(self.redis.kill)
        redis = await self._proxied(RedisProxy(REDIS, str(self.redis.socket)), stack)
        for role, models in (("verify", TARGETS), ("draft", DRAFTERS)):
            for name, model in models.items():
                listen = free_address()
                advertised = await self._proxied(WorkerProxy(name, listen, role), stack)
                self.workers[name] = self._begin(
                    name,
                    *("worker", "--role", role, "--model", str(model_folder(model)), "--name", model),
                    *("--listen", listen, "--advertise", advertised, "--redis", f"redis://{redis}"),
                    *("--slots", str(SLOTS), "--least-idle", "0", "--max-length", "512"),
                    *("--metrics-listen", "127.0.0.1:0", "--prepack", "off"),
                )
                stack.callback(self.workers[name].end)
        await asyncio.gather(*(asyncio.to_thread(worker.await_ready) for worker in self.workers.values()))
        self.controller = self._begin(CONTROLLER, "controller", "--config", str(self._configuration(redis)))
        stack.callback(self.controller.end)
        await asyncio.to_thread(self.controller.await_ready)

    async def _proxied(self, proxy: Proxy, stack: AsyncExitStack) -> str:
        await proxy.start()
        stack.push_async_callback(proxy.close)
        self.proxies[proxy.name] = proxy
        return proxy.address

    def _begin(self, name: str, *command: str) -> Process:
        return Process(name, command, environment=self.surroundings[name].environment, log=self.folder / f"{name}.log")

    def _configuration(self, redis: str) -> Path:
        file = self.folder / "controller.yaml"
        settings = {
            "listen": free_address(),
            "tokenizer": str(model_folder("target")),
            "redis": {"url": f"redis://{redis}", "most_records_waiting": MOST_WAITING},
            "router": {"policy": "planner", "scoring_share": 0.0},
            "timeouts": TIMEOUTS,
            "metrics": {"listen": "127.0.0.1:0"},
        }
        file.write_text(yaml.safe_dump(settings))
        return file

    @property
    def processes(self) -> Mapping[str, Process]:
        """All but Redis, by name."""
        return {**self.workers, CONTROLLER: self.controller}

    def pid(self, name: str) -> int:
        """Of any of them."""
        return self.redis.pid if name == REDIS else self.processes[name].pid

    def signal(self, name: str, number: int) -> None:
        """Send any of them a signal."""
        os.kill(self.pid(name), number)

    def limit_files(self, name: str, most: int) -> None:
        """Let no file of one of them grow beyond that, from now on."""
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(self.pid(name), resource.RLIMIT_FSIZE)
            soft = hard if most == resource.RLIM_INFINITY else most
            resource.prlimit(self.pid(name), resource.RLIMIT_FSIZE, (soft, hard))

    async def heal(self) -> None:
        """Undo what was done; processes that died are started again, as their supervisor would."""
        for proxy in self.proxies.values():
            proxy.delay_s = 0.0
        for surroundings in self.surroundings.values():
            surroundings.set_clock_ahead(0.0)
            surroundings.limit_memory(0)
        await asyncio.to_thread(self.redis.begin_to_mend)
        for name in (*self.processes, REDIS):
            self.limit_files(name, resource.RLIM_INFINITY)
        await asyncio.gather(*(asyncio.to_thread(_mend, process) for process in self.processes.values()))

    async def end_connections(self) -> None:
        """Break off those, too, that nobody knew to be lost."""
        await asyncio.gather(*(proxy.end_all() for proxy in self.proxies.values()))

    async def until(self, holds: Callable[[], bool], problem: Callable[[], str], *, within_s: float) -> float:
        """Seconds until something is so.

        Raises:
            NotWholeError: It does not come about.
        """
        began = time.monotonic()
        while not await asyncio.to_thread(holds):
            if time.monotonic() - began > within_s:
                raise NotWholeError(await asyncio.to_thread(problem))
            await asyncio.sleep(LOOK_EVERY_S)
        return time.monotonic() - began

    async def until_whole(self, *, log: bool = True) -> float:
        """Seconds until every worker serves, and the log is written."""
        lacks = partial(self.lacks, log=log)
        return await self.until(lambda: not lacks(), lambda: "; ".join(lacks()), within_s=WHOLE_WITHIN_S)

    def lacks(self, *, log: bool = True) -> list[str]:
        """What is not as it should be; before the first request there is no log."""
        try:
            with RouterClient(self.controller.address) as router:
                view = router.show()
        except ForerunError as error:
            return [f"the controller does not answer: {error}"]
        known = {worker.address: worker for worker in view.workers}
        lacking = ["the log is out of reach"] if log and not view.log.connected else []
        for name in self.workers:
            worker = known.get(self.proxies[name].address)
            if worker is None or worker.health is not WorkerHealth.SERVING:
                lacking.append(f"{name}: {'unknown' if worker is None else worker.problem}")
        return lacking

    def held(self) -> dict[str, float]:
        """What processes hold for somebody, by process and metric; of one that does not say it is not known."""
        held: dict[str, float] = {}
        for name, process in self.processes.items():
            try:
                told = [sample for sample in samples(process.metrics_address) if sample.name in HELD and sample.value]
            except OSError:
                held[f"{name} does not answer"] = 1.0
            else:
                held |= {f"{name} {sample.name}": sample.value for sample in told}
        return held

    async def until_free(self) -> Mapping[str, float]:
        """What is still held for nobody after all that time; nothing, it should be."""
        try:
            await self.until(lambda: not self.held(), lambda: "", within_s=FREE_WITHIN_S)
        except NotWholeError:
            return await asyncio.to_thread(self.held)
        return {}

    def alive(self) -> list[bool]:
        """Of each process whether it is."""
        return [self.redis.alive, *(process.alive for process in self.processes.values())]

    def failed_forwards(self) -> int:
        """Of all workers since they started."""
        told = (sample for worker in self.workers.values() for sample in samples(worker.metrics_address))
        return int(sum(sample.value for sample in told if sample.name == "forerun_engine_failed_forwards_total"))

    def controller_metric(self, name: str) -> float:
        """The sum of all samples of that name."""
        return sum(sample.value for sample in samples(self.controller.metrics_address) if sample.name == name)


def _mend(process: Process) -> None:
    if process.begin_to_mend():
        process.await_ready()


def samples(address: str) -> Iterator[Sample]:
    """What a process tells Prometheus."""
    with urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield Sample(sample.name, sample.labels, sample.value)


@asynccontextmanager
async def broken_ground() -> AsyncIterator[tuple[Ground, AsyncClient]]:
    """The fleet while the body runs, and a caller of it; logs stay behind if the body fails."""
    folder = Path(tempfile.mkdtemp(prefix="forerun-faults-"))
    async with AsyncExitStack() as stack:
        ground = Ground(folder)
        await ground.start(stack)
        await ground.until_whole(log=False)
        client = await stack.enter_async_context(AsyncClient(ground.controller.address, timeout_s=120.0))
        yield ground, client
    rmtree(folder, ignore_errors=True)
