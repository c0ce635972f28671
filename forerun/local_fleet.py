"""A whole fleet on this machine: target, drafters, Redis and a controller, each a process of its own."""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator

from controller.embedded_redis import SCHEME
from controller.settings import Address, Count, Label, RedisSettings, Section, Settings, WorkerEntry
from forerun.client import RouterClient, WorkerHealth, WorkerView
from forerun.models import model_folder
from forerun.supervisor import LISTEN, Listener, ProcessSpec, ProcessStatus, Supervisor
from speculation.errors import ConfigurationError
from speculation.exposure import require_protection
from worker.settings import SUFFIX, Dtype, Prepack, require_exact_offered, require_packable

FREE_PORT = "127.0.0.1:0"
DRAIN_MARGIN_S = 10.0
INTRODUCED_WITHIN_S = 5.0
LOOK_AGAIN_S = 0.05
EMBEDDED_REDIS = RedisSettings(url="embedded://redis")
"""A server of our own; the path is relative to the fleet's folder."""

ZOO_DRAFTERS: Mapping[str, str] = MappingProxyType(
    {name: f"zoo:{name}" for name in ("code", "docs", "math", "json", "mixed")}
)

Role = Literal["draft", "verify"]
Name = Annotated[str, Field(min_length=1)]
TARGET, CONTROLLER, GATEWAY, PAGE = "target", "controller", "gateway", "page"
CONTROLLER_FILE = "controller.yaml"
"""The controller's configuration, in the fleet's folder: it follows changes of the file."""

ONE_THREAD: Mapping[str, str] = MappingProxyType(
    {
        # Processes that spin on more threads than there are cores lose tenfold.
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        "TOKENIZERS_PARALLELISM": "false",
    }
)


SUFFIX_OF_TARGET = "suffix"
"""As a drafter's model: none, but what the text has said before, in the target's tokens."""

ALL_DRAFTERS: Mapping[str, str] = MappingProxyType({**ZOO_DRAFTERS, SUFFIX_OF_TARGET: SUFFIX_OF_TARGET})
"""Those of the zoo and the one without a model."""


class HttpTlsSettings(Section):
    """How the gateway knows a controller with TLS, and the controller it. The files are PEM, and are read once."""

    ca: Path
    """Of those who have signed the controller's certificate."""
    cert: Path | None = None
    """The gateway's own certificate and its unencrypted key, where `tls.client_ca` asks callers for one."""
    server_name: str | None = None
    """The name in the controller's certificate. Absent: the host of `listen`."""

    @property
    def options(self) -> Mapping[str, str]:
        """Of the gateway's command line."""
        given = {"ca": self.ca, "cert": self.cert, "server-name": self.server_name}
        return {name: str(value) for name, value in given.items() if value is not None}


class FleetSettings(Settings):
    """Which processes make the fleet, and how its controller is set: a file of these is a controller's file and more.

    Attributes:
        target: Model of the verify workers: a folder, a hub id, or zoo:target@deep and the like.
        drafters: Model of each draft worker, by the name that requests use; `suffix` drafts without one.
        verify_workers: Processes that serve the target.
        tensor_parallel: Processes (ranks) of each of those, each with a part of every layer, and with a GPU of its own
            where the device is cuda: for a target too large for one.
        target_threads: Torch threads of each of them; None: an equal part of the processors that the others leave.
        dtype: Number format of all models.
        device: Torch device of all models.
        exact: Whether a target in bfloat16 on a CPU decides every token as in plain decoding, to the last bit; at no
            price where our own kernels compute it.
        prepack: Whether weights on a CPU are packed for its kernels when the models are loaded: on, off, or auto if a
            trial finds that faster; for an exact target, wherever our own kernels read them.
        remember: Most tokens of ended texts that a drafter without a model remembers for each tenant; 0: none.
        slots: Sessions each worker holds at once.
        max_length: Most tokens of a session.
        http: Where a gateway for OpenAI's clients listens; None: there is none.
        page: Where the operator's page listens, likewise.
        http_tls: How both know a controller with TLS.
        tokenizer: Not to be set: it is the target's.
    """

    target: Name = "zoo:target@deep"
    drafters: Mapping[Label, Name] = Field(default_factory=lambda: dict(ZOO_DRAFTERS))
    verify_workers: Count = 1
    tensor_parallel: Count = 1
    target_threads: Count | None = None
    dtype: Dtype = "float32"
    device: str = "cpu"
    exact: bool = False
    prepack: Prepack = "auto"
    remember: Annotated[int, Field(ge=0)] = 0
    slots: Count = 16
    max_length: Count = 1024
    http: Address | None = None
    page: Address | None = None
    http_tls: HttpTlsSettings | None = None
    tokenizer: Literal["the target's"] = "the target's"
    redis: RedisSettings | None = EMBEDDED_REDIS

    @field_validator("drafters")
    @classmethod
    def _not_taken(cls, drafters: Mapping[str, str]) -> Mapping[str, str]:
        if taken := {TARGET, CONTROLLER, GATEWAY, PAGE} & drafters.keys():
            raise ValueError(f"{taken.pop()!r} is the name of another process")
        return drafters

    @field_validator("exact", "prepack")
    @classmethod
    def _offered(cls, wanted: bool | Prepack, told: ValidationInfo) -> bool | Prepack:
        require = require_exact_offered if told.field_name == "exact" else require_packable
        if wanted in (True, "on") and {"dtype", "device"} <= told.data.keys():
            try:
                require(dtype=told.data["dtype"], device=told.data["device"])
            except ConfigurationError as error:
                raise ValueError(str(error).removeprefix(f"{told.field_name}: ")) from error
        return wanted

    @field_validator("remember")
    @classmethod
    def _by_somebody(cls, tokens: int, told: ValidationInfo) -> int:
        models = told.data.get("drafters", {SUFFIX_OF_TARGET: SUFFIX_OF_TARGET}).values()
        if tokens and not any(model == SUFFIX_OF_TARGET or model.startswith(SUFFIX) for model in models):
            raise ValueError(f"is for drafters without a model, and no drafter is {SUFFIX_OF_TARGET!r}")
        return tokens

    def threads(self, role: Role, *, processors: int) -> int:
        """Torch threads of a worker; drafters have one, as their forwards are short and many."""
        if role == "draft":
            return 1
        others = len(self.drafters) + 1  # the controller
        ranks = self.verify_workers * self.tensor_parallel
        return self.target_threads or max(1, (processors - others) // ranks)

    def for_controller(self, *, tokenizer: str, workers: Sequence[WorkerEntry], folder: Path) -> Settings:
        """The controller's part, once the workers have their addresses."""
        shared = {name: getattr(self, name) for name in Settings.model_fields}
        redis = self.redis
        if redis is not None and redis.url.startswith(SCHEME):
            redis = redis.model_copy(update={"url": f"{SCHEME}{folder / redis.url.removeprefix(SCHEME)}"})
        return Settings(**shared | {"tokenizer": tokenizer, "workers": (*self.workers, *workers), "redis": redis})


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFleet:
    """A fleet that runs.

    Attributes:
        address: Where the controller can be called.
        http_address: Where the gateway can be called; None: there is none.
        page_address: Where the operator's page can, likewise.
        target_folder: What the verify workers loaded.
        problems: Workers that run and that the controller does not ask, each with the reason.
        supervisor: Keeps its processes.
    """

    address: str
    http_address: str | None
    page_address: str | None
    target_folder: str
    problems: tuple[str, ...]
    supervisor: Supervisor

    @property
    def processes(self) -> tuple[ProcessStatus, ...]:
        """Every process, the controller last, or after it the gateway and the page."""
        return self.supervisor.processes


@asynccontextmanager
async def local_fleet(
    settings: FleetSettings, folder: Path, *, listener: Listener = lambda status: None
) -> AsyncIterator[LocalFleet]:
    """Run a fleet while the body runs; afterwards the controller drains, then the workers.

    Args:
        settings: Which processes.
        folder: For logs, the controller's configuration and the embedded Redis; an absolute path, made if missing.
        listener: Told about every change of a process's state.

    Raises:
        ConfigurationError: The address to listen on is taken.
        ProcessStartError: One of them could not start; the message says why and where its log is.
    """
    require_protection(
        settings.listen,
        protected=settings.tls is not None,
        insecure=settings.insecure,
        remedy="set tls in the file of --config, or say --insecure where the whole network is trusted",
    )
    require_free("listen", settings.listen)
    for field, listen in (("http", settings.http), ("page", settings.page)):
        if listen is not None:
            _require_front(field, listen, settings)
    if settings.metrics.listen is not None:
        require_free("metrics.listen", settings.metrics.listen)
    # Writing a cost-padded model takes a second or two of computing, once.
    target = await asyncio.to_thread(model_folder, settings.target)
    verifiers = [_worker("verify", name, target, settings) for name in _numbered(TARGET, settings.verify_workers)]
    drafters = [
        _worker("draft", name, SUFFIX + target if model == SUFFIX_OF_TARGET else model_folder(model), settings)
        for name, model in settings.drafters.items()
    ]
    # The controller itself cuts requests off after its grace; ours only ends what is stuck.
    drain_s = settings.timeouts.drain_grace_s + DRAIN_MARGIN_S
    async with Supervisor(folder / "logs", drain_s=drain_s, listener=listener) as supervisor:
        started = await supervisor.start([*verifiers, *drafters])
        workers = [
            WorkerEntry(role="verify" if place < len(verifiers) else "draft", address=process.address)
            for place, process in enumerate(started)
        ]
        for_controller = settings.for_controller(tokenizer=target, workers=workers, folder=folder)
        file = _write(folder / CONTROLLER_FILE, for_controller)
        (controller,) = await supervisor.start([_controller(file)])
        # Should it die, it comes back where its callers look for it.
        _write(file, for_controller.model_copy(update={"listen": controller.address}))
        open_to_us = settings.tls is None and settings.tokens is None
        names = {process.address: process.name for process in started}
        problems = await introduced(controller.address, names) if open_to_us else ()
        fronts = {GATEWAY: settings.http, PAGE: settings.page}
        started = await supervisor.start(
            [
                _front(name, controller.address, listen, settings.http_tls)
                for name, listen in fronts.items()
                if listen is not None
            ]
        )
        addresses = {process.name: process.address for process in started}
        yield LocalFleet(
            address=controller.address,
            http_address=addresses.get(GATEWAY),
            page_address=addresses.get(PAGE),
            target_folder=target,
            problems=problems,
            supervisor=supervisor,
        )


async def introduced(address: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """Wait until the controller has met its workers: whom it does not know yet, nobody can ask for by name. One with
    TLS or tokens is not asked: we have neither its authority nor a token.

    What it has against workers is returned, under their names by address: it keeps none of those that it refuses.
    """
    settled = (WorkerHealth.SERVING, WorkerHealth.REFUSED)
    with RouterClient(address) as router:
        with suppress(TimeoutError):
            async with asyncio.timeout(INTRODUCED_WITHIN_S):
                while any(worker.health not in settled for worker in await _workers_known(router)):  # noqa: ASYNC110
                    await asyncio.sleep(LOOK_AGAIN_S)
        return tuple(
            f"{names.get(worker.address, worker.address)} is {worker.health.value}: {worker.problem}"
            for worker in await _workers_known(router)
            if worker.health is not WorkerHealth.SERVING
        )


async def _workers_known(router: RouterClient) -> Sequence[WorkerView]:
    return (await asyncio.to_thread(router.show)).workers


def _require_front(field: str, listen: str, settings: FleetSettings) -> None:
    """What speaks HTTP can call this controller, and listen."""
    if (settings.tls is None) is not (settings.http_tls is None):
        remedy = "name the ca of the controller's certificate" if settings.tls is not None else "leave it out"
        raise ConfigurationError("http_tls", f"is how {field} knows a controller with tls: {remedy}")
    require_free(field, listen)


def require_free(field: str, listen: str) -> None:
    """Look now whether the controller will be able to listen: it starts late, half a minute after the workers.

    Raises:
        ConfigurationError: It will not.
    """
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As gRPC does it: a port that merely rests after its last user is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # getaddrinfo has cut a port above 65535 down to 16 bits; bind refuses it.
            probe.bind((address[0], int(port)))
    except (OSError, OverflowError) as error:
        problem = "is in use; name another address, or port 0 for a free one" if _in_use(error) else str(error)
        raise ConfigurationError(field, f"{listen}: {problem}") from error


def _in_use(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


def _numbered(name: str, how_many: int) -> list[str]:
    return [name if place == 0 else f"{name}-{place + 1}" for place in range(how_many)]


def _worker(role: Role, name: str, model: str, settings: FleetSettings) -> ProcessSpec:
    options = {
        "role": role,
        "model": model,
        "name": name,
        "listen": LISTEN,
        "dtype": settings.dtype,
        "device": settings.device,
        "threads": str(settings.threads(role, processors=os.cpu_count() or 1)),
        "slots": str(settings.slots),
        "max-length": str(settings.max_length),
    }
    if settings.tracing.endpoint is not None:
        options["otlp-endpoint"] = settings.tracing.endpoint
    command = _python("worker", options)
    if settings.tensor_parallel > 1 and role == "verify":
        command += ("--tensor-parallel", str(settings.tensor_parallel))
    if settings.exact and role == "verify":
        command += ("--exact",)
    elif model.startswith(SUFFIX):
        command += ("--remember", str(settings.remember))
    else:
        command += ("--prepack", settings.prepack)
    return ProcessSpec(name=name, command=command, environment=ONE_THREAD)


def _controller(file: Path) -> ProcessSpec:
    return ProcessSpec(name=CONTROLLER, command=_python("controller", {"config": str(file)}), environment=ONE_THREAD)


def _front(module: str, controller: str, listen: str, tls: HttpTlsSettings | None) -> ProcessSpec:
    """What speaks HTTP before the controller: the gateway, or the page."""
    options = {"controller": controller, "listen": LISTEN, **(tls.options if tls is not None else {})}
    return ProcessSpec(name=module, command=_python(module, options), listen=listen, environment=ONE_THREAD)


def _python(module: str, options: Mapping[str, str]) -> tuple[str, ...]:
    flags = (part for name, value in options.items() for part in (f"--{name}", value))
    # -P: a folder called worker where the user happens to stand is not ours.
    return (sys.executable, "-P", "-m", module, *flags)


def _write(file: Path, settings: Settings) -> Path:
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    return file
