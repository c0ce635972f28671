"""The worker process, put together: model, engine, service, health, registration, and their end in the right order."""

import asyncio
import importlib.metadata
import json
import logging
import signal
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from speculation.fingerprint import tokenizer_fingerprint
from speculation.metrics_http import serving_metrics
from speculation.profile import NO_FORWARDS, ForwardProfile
from speculation.readable import Readable
from speculation.tls import Certificates, PemFile, add_port
from speculation.trace_export import TracingOrders, tracing_by
from speculation.wire import profile_to_proto
from worker.drafter import LanguageModelDrafter
from worker.engine import Engine
from worker.host import TREE_ROOM, Host
from worker.memory import DEFAULT_SLOTS, GIBIBYTE, affordable_slots, free_bytes
from worker.metrics import METRICS, WorkerFacts
from worker.models import LoadedModel, load_model, load_vocabulary
from worker.parallel_engine import LeadingEngine
from worker.parallel_engine import follow as obey
from worker.profiling import profile_of
from worker.ranks import Ranks
from worker.registration import Registration
from worker.service import ROLES, SERVICE_NAMES, Description, DraftService, SessionService, VerifyService, describe
from worker.settings import MEBIBYTE, SUFFIX, WorkerSettings, split_address
from worker.slots import NoModel, Slots
from worker.suffix_drafter import REVISION, REVISION_WITH_MEMORY, SuffixDrafter
from worker.tenant_memory import TenantMemory

MESSAGE_LIMIT = 16 * MEBIBYTE

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    # A controller that vanished without a word is noticed within half a minute, and its slots are freed.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without it gRPC waits a minute for the answer to a ping, whatever the line above says.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two workers on one port would each get some of the other's sessions.
    ("grpc.so_reuseport", 0),
)

STOP_S = 0.5
"""What the calls that are no sessions (health watches, mostly) get to end in."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A worker that can be called.

    Attributes:
        address: host:port it listens on.
        name: As told in the settings.
        role: As told in the settings.
        host: Its sessions.
        metrics_address: host:port of its metrics; empty if they are not served.
    """

    address: str
    name: str
    role: str
    host: Host
    metrics_address: str = ""


def announce(ready: Ready) -> None:
    """One line of JSON on stdout, for whoever started the process."""
    event = {"event": "ready", "address": ready.address, "name": ready.name, "role": ready.role}
    if ready.metrics_address:
        event["metrics"] = ready.metrics_address
    print(json.dumps(event), flush=True)


async def serve(
    settings: WorkerSettings, *, stop: asyncio.Event | None = None, on_ready: Callable[[Ready], None] = announce
) -> None:
    """Be a worker until `stop` is set, or SIGTERM or SIGINT comes; then end in order.

    Args:
        settings: What to be.
        stop: Ends the worker; None for the signals alone.
        on_ready: Told once the worker can be called.

    Raises:
        ForerunError: The worker cannot start; the message says why.
    """
    async with running(settings) as ready:
        on_ready(ready)
        await (stop or _stop_on_signal()).wait()


@asynccontextmanager
async def running(settings: WorkerSettings) -> AsyncIterator[Ready]:
    """A worker that can be called while the body runs, and drains after it."""
    certificates = _certificates(settings)
    async with AsyncExitStack() as stack:
        ranks = _ranks(settings, stack)
        host, service = _without_model(settings) if settings.without_model else _with_model(settings, ranks)
        stack.callback(host.close)
        orders = TracingOrders(endpoint=settings.otlp_endpoint)
        service.tracing = await stack.enter_async_context(tracing_by(orders, service="forerun-worker"))
        metrics_address = ""
        if settings.metrics_listen is not None:
            facts = WorkerFacts(host=host, spans=service.tracing.counts, info=_info(service.description))
            serving = serving_metrics(settings.metrics_listen, METRICS, facts.now, field="metrics_listen")
            metrics_address = await stack.enter_async_context(serving)
        address = await stack.enter_async_context(_listening(settings, certificates, host, service))
        if settings.redis_url is not None:
            registration = Registration(
                settings.redis_url,
                namespace=settings.namespace,
                address=settings.advertise or address,
                worker=service.description,
                ttl_s=settings.heartbeat_ttl_s,
            )
            await stack.enter_async_context(registration.kept())
        yield Ready(address=address, name=settings.name, role=settings.role, host=host, metrics_address=metrics_address)


def _info(what: Description) -> tuple[str, ...]:
    """As `forerun_engine_info` tells it."""
    role = "verify" if what.role == ROLES["verify"] else "draft"
    return what.name, role, what.model_revision, what.dtype, what.device, what.version


def follow(settings: WorkerSettings) -> None:
    """Be a rank other than the first, until that one ends.

    Raises:
        ForerunError: It cannot start, or is alone all of a sudden; the message says why.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # they are for rank 0, which tells when it has drained
    with ExitStack() as stack:
        ranks = _ranks(settings, stack)
        assert ranks is not None
        _, engine, _ = _loaded_engine(settings, ranks)
        obey(engine, ranks)


def _ranks(settings: WorkerSettings, stack: ExitStack | AsyncExitStack) -> Ranks | None:
    if settings.tensor_parallel == 1:
        return None
    ranks = Ranks(settings.tensor_parallel, device_type=settings.device)
    stack.callback(ranks.leave)
    return ranks


def _with_model(settings: WorkerSettings, ranks: Ranks | None) -> tuple[Host, SessionService]:
    loaded, engine, max_length = _loaded_engine(settings, ranks)
    host = _host(settings, engine, max_length)
    about = partial(_description, settings, host, loaded.tokenizer, loaded.revision, profile_of(engine))
    if settings.role == "verify":
        return host, VerifyService(host, about(), engine)
    drafter = LanguageModelDrafter(engine)
    return host, DraftService(host, about(most_outcomes=drafter.most_outcomes), drafter)


def _loaded_engine(settings: WorkerSettings, ranks: Ranks | None) -> tuple[LoadedModel, Engine, int]:
    """The model, its engine, and how many tokens a session may have."""
    loaded = load_model(
        settings.model,
        dtype=settings.dtype,
        device=settings.device,
        threads=settings.threads,
        revision=settings.revision,
        ranks=settings.tensor_parallel,
    )
    max_length = min(settings.max_length, loaded.context_length or settings.max_length)
    return loaded, _engine(settings, loaded.model, max_length + TREE_ROOM, ranks), max_length


def _engine(settings: WorkerSettings, model: PreTrainedModel, rows: int, ranks: Ranks | None) -> Engine:
    if ranks is not None:
        ranks.least(rows)  # some read their part sooner than others, who must not be waited for inside of a forward
    row_bytes = Engine(model, slots=1, max_length=1, check=False).cache_bytes
    slots = affordable_slots(
        settings.slots, settings.cache_gib, slot_bytes=rows * row_bytes, free=free_bytes(model.device)
    )
    if ranks is not None:
        slots = ranks.least(slots)
        if ranks.leads:
            return LeadingEngine(model, ranks, slots=slots, max_length=rows)
        return Engine(model, slots=slots, max_length=rows)
    return Engine(
        model,
        slots=slots,
        max_length=rows,
        exact=settings.exact,
        prepack=settings.prepack,
        forward_threads=settings.sharing_threads,
    )


def _without_model(settings: WorkerSettings) -> tuple[Host, SessionService]:
    tokenizer, vocab_size = load_vocabulary(settings.model.removeprefix(SUFFIX), revision=settings.revision)
    memory = TenantMemory(tokens=settings.remember, tenants=settings.remember_tenants)
    slots = NoModel(slots=settings.slots or DEFAULT_SLOTS, vocab_size=vocab_size)
    host = _host(settings, slots, settings.max_length, memory)
    drafter = SuffixDrafter(vocab_size, memory)
    revision = REVISION_WITH_MEMORY if settings.remember else REVISION
    about = _description(settings, host, tokenizer, revision, NO_FORWARDS, most_outcomes=drafter.most_outcomes)
    return host, DraftService(host, about, drafter)


def _host(settings: WorkerSettings, engine: Slots, max_length: int, memory: TenantMemory | None = None) -> Host:
    return Host(
        engine,
        max_length=max_length,
        max_streams=settings.max_sessions,
        max_calls=settings.max_calls,
        least_idle_s=settings.keeps_slot_s,
        memory=memory,
    )


@asynccontextmanager
async def _listening(
    settings: WorkerSettings, certificates: Certificates | None, host: Host, service: SessionService
) -> AsyncIterator[str]:
    """The address of a server that takes calls while the body runs; afterwards it drains and stops."""
    server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=(Readable(),))
    service.join(server)
    state = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    service_name = SERVICE_NAMES[settings.role]
    reflection.enable_server_reflection([service_name, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    address = f"{split_address(settings.listen)[0]}:{add_port(server, settings.listen, certificates)}"
    await state.set(service_name, HealthCheckResponse.SERVING)
    await server.start()
    slots, cache_gib = host.engine.slots, host.engine.cache_bytes / GIBIBYTE
    _log.info("%d slots of %d tokens, %.3g GiB of keys and values", slots, host.max_length, cache_gib)
    try:
        yield address
    finally:
        await state.enter_graceful_shutdown()
        await host.drain(settings.grace_s)
        await server.stop(STOP_S)
        _log.info("of the cache at the end: %s", host.cache_use)


def _certificates(settings: WorkerSettings) -> Certificates | None:
    """What controllers are shown; None: plain text."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    ca = settings.tls_client_ca
    return Certificates(
        certificate=PemFile("tls_cert", settings.tls_cert),
        key=PemFile("tls_key", settings.tls_key),
        ca=PemFile("tls_client_ca", ca) if ca is not None else None,
    )


def _description(
    settings: WorkerSettings,
    host: Host,
    tokenizer: PreTrainedTokenizerBase,
    revision: str,
    profile: ForwardProfile,
    *,
    most_outcomes: int = 0,
) -> Description:
    return describe(
        role=settings.role,
        name=settings.name,
        model=settings.model,
        model_revision=revision,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer.get_vocab()),
        vocab_size=host.engine.vocab_size,
        max_length=host.max_length,
        slots=host.engine.slots,
        dtype=settings.dtype,
        device=settings.device if settings.tensor_parallel == 1 else f"{settings.tensor_parallel} x {settings.device}",
        version=_version(),
        instance_id=uuid.uuid4().hex,
        most_outcomes=most_outcomes,
        forward_profile=profile_to_proto(profile),
    )


def _version() -> str:
    try:
        return importlib.metadata.version("forerun")
    except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
        return "unknown"


def _stop_on_signal() -> asyncio.Event:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
