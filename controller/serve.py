"""The controller, put together: fleet, policies, log, services; and their end in the right order."""

import asyncio
import gc
import importlib.metadata
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from redis.asyncio import Redis

from controller import model_service, router_service, service
from controller.access import Access
from controller.acts import Acts
from controller.call_counts import CallCounts
from controller.call_identity import CallIdentity
from controller.chronicle import Chronicle, NoLog
from controller.concurrency import ConcurrencyLimit
from controller.configuration import Configuration
from controller.embedded_redis import SCHEME, embedded_redis
from controller.event_log import EventLog, redis_client
from controller.fleet import WorkerFleet
from controller.learner_process import LearnerProcess, Lessons
from controller.meter import Meter
from controller.metrics import METRICS, ControllerFacts
from controller.model_service import ModelService, StoreOf
from controller.model_store import ModelStore
from controller.quotas import Quotas
from controller.reception import Reception
from controller.records import Author, uuid7
from controller.registry import Registry
from controller.roster import FleetTimeouts, TokenizerIdentity
from controller.router_service import RouterService
from controller.scorer import Scorer
from controller.service import GenerationService, Limits
from controller.settings import Settings
from controller.shared_learning import (
    INTERVAL_S,
    LEASE_S,
    LearnsForAll,
    SharedLearning,
    learner_named,
    policy_to_share,
)
from controller.snapshot import Keys
from controller.steering import Steering
from controller.tasks import Spawn, owned_tasks
from controller.text import Tokenizer, load_tokenizer
from controller.tokens import Role as CallerRole
from controller.tokens import Tokens
from controller.worker_client import Role, WorkerTls
from router_models.catalogue import all_policies
from router_models.policy import LearningPolicy, Policy
from speculation.exposure import is_loopback, require_protection
from speculation.metrics_http import serving_metrics
from speculation.readable import Readable
from speculation.tls import Certificates, PemFile, add_port
from speculation.trace_export import TracingOrders, tracing_by
from speculation.tracing import Tracing

logger = logging.getLogger(__name__)

SERVER_OPTIONS = (
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_send_message_length", 16 << 20),
    # A client that vanished without a word is noticed within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Without it gRPC waits a minute for the answer to a ping, whatever the line above says.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # Two controllers on one port would each get some of the other's calls.
    ("grpc.so_reuseport", 0),
)

HealthState = Any
"""health.aio.HealthServicer, which the type stubs do not list."""

ListWorkers = Callable[[Sequence[tuple[str, Role]]], None]
"""Takes the workers that the configuration lists, at the start and whenever they change."""

NEEDED_ROLES: Mapping[str, CallerRole | None] = {
    # Load balancers and orchestrators have no tokens, and learn no more than that there is a target.
    health.SERVICE_NAME: None,
    reflection.SERVICE_NAME: CallerRole.CALL,
    service.SERVICE_NAME: CallerRole.CALL,
    router_service.SERVICE_NAME: CallerRole.OPERATE,
    model_service.SERVICE_NAME: CallerRole.OPERATE,
}
"""Of the callers of each service, where there are tokens."""

OBJECTS_A_COLLECTION = 20_000
"""Made and not yet gone before garbage is looked for; a round leaves hardly any that goes in circles."""

STOP_S = 1.0
"""What calls that are no requests (health watches, mostly) get to end in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """A controller that can be called.

    Attributes:
        address: host:port it listens on.
        fleet: Its workers.
        steering: Its policies.
        generation: Its main service.
        configuration: What it obeys.
        access: Whom it serves.
        metrics_address: host:port of its metrics; empty if they are not served.
    """

    address: str
    fleet: WorkerFleet
    steering: Steering
    generation: GenerationService
    configuration: Configuration
    access: Access
    metrics_address: str = ""


def announce(controller: Controller) -> None:
    """One line of JSON on stdout, for whoever started the process."""
    event = {"event": "ready", "address": controller.address}
    if controller.metrics_address:
        event["metrics"] = controller.metrics_address
    print(json.dumps(event), flush=True)


async def serve(
    settings: Settings,
    *,
    file: Path | None = None,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[Controller], None] = announce,
) -> None:
    """Be a controller until `stop` is set, or SIGTERM or SIGINT comes; then drain and end. SIGHUP reads the file anew.

    Args:
        settings: What to be.
        file: Where the settings come from; they follow it.
        stop: Ends the controller; None for the signals alone.
        on_ready: Told once the controller can be called.

    Raises:
        ForerunError: The controller cannot start; the message says why.
    """
    async with owned_tasks() as spawn, running(settings, file=file) as controller:
        _collect_less_garbage()
        on_ready(controller)
        await (stop or _stop_on_signal(spawn, controller.configuration)).wait()


def _collect_less_garbage() -> None:
    """What is there by now stays: to look through it all took 0.2 s, in which nobody was served."""
    gc.freeze()
    gc.set_threshold(OBJECTS_A_COLLECTION, 20, 20)


def _stop_on_signal(spawn: Spawn, configuration: Configuration) -> asyncio.Event:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: spawn(configuration.look()))
    return stop


@asynccontextmanager
async def running(
    settings: Settings, *, file: Path | None = None, tokenizer: Tokenizer | None = None
) -> AsyncIterator[Controller]:
    """A controller that can be called while the body runs, and drains after it."""
    require_protection(
        settings.listen,
        protected=settings.tls is not None,
        insecure=settings.insecure,
        remedy="set tls, or insecure: true where the whole network is trusted",
    )
    certificates = _certificates(settings)
    async with AsyncExitStack() as stack:
        parts = await _assembled(settings, tokenizer, stack)
        parts.obey(settings)
        configuration, acts, calls = Configuration(settings, file, apply=parts.obey), Acts(), CallCounts()
        facts = parts.facts(configuration, calls)
        models = ModelService(_store_of(settings, parts.redis_url, parts.steering, stack), acts)
        router = RouterService(facts, chronicle=parts.chronicle, tokenizer=parts.tokenizer, acts=acts)
        metrics_address = await _metrics_address(settings, facts, stack)
        guards = parts.access.interceptors(NEEDED_ROLES)
        naming = CallIdentity(parts.tracing, model=lambda: parts.fleet.model.name if parts.fleet.model else "")
        server = grpc.aio.server(options=SERVER_OPTIONS, interceptors=(Readable(), naming, calls, *guards))
        address = f"{settings.listen.rpartition(':')[0]}:{add_port(server, settings.listen, certificates)}"
        await stack.enter_async_context(
            _listening(server, configuration, parts.generation, (router, models), parts.fleet)
        )
        configuration.address = address
        parts.spawn(configuration.run())
        yield Controller(
            address=address,
            fleet=parts.fleet,
            steering=parts.steering,
            generation=parts.generation,
            configuration=configuration,
            access=parts.access,
            metrics_address=metrics_address,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What a controller is made of, all under way.

    Attributes:
        spawn: Keeps tasks until the controller ends.
        redis_url: Where its Redis is; empty: nowhere.
    """

    tokenizer: Tokenizer
    access: Access
    tracing: Tracing
    spawn: Spawn
    redis_url: str
    fleet: WorkerFleet
    list_workers: ListWorkers
    log: EventLog | None
    steering: Steering
    learning: SharedLearning | None
    chronicle: Chronicle
    scorer: Scorer
    quotas: Quotas
    generation: GenerationService

    def obey(self, now: Settings) -> None:
        """Take up settings, the first or others."""
        self.steering.apply(now.router.orders(now.content_hash))
        self.generation.obey(_limits(now))
        admission = now.admission
        self.generation.reception.obey(
            admission.precedence, most=now.limits.concurrent_requests, adaptive=admission.adaptive
        )
        self.quotas.obey(tuple(entry.quota for entry in now.quotas))
        self.chronicle.tokens_of = now.privacy.log_tokens_of
        self.fleet.timeouts = _fleet_timeouts(now)
        self.fleet.outcomes_ahead = now.router.outcomes_ahead
        self.list_workers(_workers(now))

    def facts(self, configuration: Configuration, calls: CallCounts) -> ControllerFacts:
        """Where everything is that can be told."""
        return ControllerFacts(
            meter=self.generation.meter,
            reception=self.generation.reception,
            calls=calls,
            access=self.access,
            fleet=self.fleet,
            steering=self.steering,
            configuration=configuration,
            scorer=self.scorer,
            log=self.log,
            learning=self.learning,
            spans=self.tracing.counts,
            code_version=self.chronicle.author.code_version,
        )


async def _assembled(settings: Settings, tokenizer: Tokenizer | None, stack: AsyncExitStack) -> _Parts:
    """The parts of a controller, which end with the stack."""
    access, workers_tls = _access(settings), _workers_tls(settings)
    tokenizer = tokenizer or load_tokenizer(settings.tokenizer)
    identity = TokenizerIdentity(fingerprint=tokenizer.fingerprint, vocab_size=tokenizer.vocab_size)
    fleet = WorkerFleet(identity, _fleet_timeouts(settings), workers_tls)
    url = await _redis_url(settings, stack)
    tracing = await stack.enter_async_context(tracing_by(_tracing_orders(settings), service="forerun-controller"))
    spawn = await stack.enter_async_context(owned_tasks())
    log, list_workers = await _started_log(settings, url, fleet, stack)
    steering, chronicle = Steering(_policies(settings), settings.router.policy), Chronicle(_author(), log or NoLog())
    learning = _shared_learning(settings, url, steering)
    if learning is not None:
        steering.model_version, chronicle.curve.learnt = learning.model_version, learning.learnt
        spawn(learning.run())
    scorer, quotas = Scorer(fleet, steering, chronicle.author, log, Random()), Quotas()
    reception = Reception(ConcurrencyLimit(settings.limits.concurrent_requests, slots=lambda: fleet.verify_slots))
    for work in (fleet.run(), scorer.run(), reception.follow(fleet.changed)):
        spawn(work)
    generation = GenerationService(
        tokenizer=tokenizer,
        fleet=fleet,
        steering=steering,
        chronicle=chronicle,
        limits=_limits(settings),
        reception=reception,
        scorer=scorer,
        access=access,
        quotas=quotas,
        meter=Meter(most_tasks=settings.metrics.most_tasks, tenants=settings.metrics.tenants),
    )
    return _Parts(
        tokenizer=tokenizer,
        access=access,
        tracing=tracing,
        spawn=spawn,
        redis_url=url,
        fleet=fleet,
        list_workers=list_workers,
        log=log,
        steering=steering,
        learning=learning,
        chronicle=chronicle,
        scorer=scorer,
        quotas=quotas,
        generation=generation,
    )


def _access(settings: Settings) -> Access:
    if settings.tokens is None and not is_loopback(settings.listen):
        logger.warning("whoever reaches this controller may call and operate it", extra={"listen": settings.listen})
    if settings.tokens is not None and settings.tls is None and not is_loopback(settings.listen):
        logger.warning("tokens travel in plain text", extra={"listen": settings.listen})
    return Access(Tokens(settings.tokens) if settings.tokens is not None else None)


def _certificates(settings: Settings) -> Certificates | None:
    """What callers are shown; None: plain text."""
    if settings.tls is None:
        return None
    tls = settings.tls
    return Certificates(
        certificate=PemFile("tls.certificate", tls.certificate),
        key=PemFile("tls.key", tls.key),
        ca=PemFile("tls.client_ca", tls.client_ca) if tls.client_ca is not None else None,
    )


def _workers_tls(settings: Settings) -> WorkerTls | None:
    if settings.workers_tls is None:
        return None
    tls = settings.workers_tls
    certificates = Certificates(
        certificate=PemFile("workers_tls.certificate", tls.certificate),
        key=PemFile("workers_tls.key", tls.key),
        ca=PemFile("workers_tls.ca", tls.ca),
    )
    return WorkerTls(certificates=certificates, server_name=tls.server_name)


async def _metrics_address(settings: Settings, facts: ControllerFacts, stack: AsyncExitStack) -> str:
    """Where metrics are served until the stack ends, draining included; empty if nobody asked for them."""
    if settings.metrics.listen is None:
        return ""
    return await stack.enter_async_context(
        serving_metrics(settings.metrics.listen, METRICS, facts.now, field="metrics.listen")
    )


def _tracing_orders(settings: Settings) -> TracingOrders:
    tracing = settings.tracing
    return TracingOrders(
        endpoint=tracing.endpoint, sample_ratio=tracing.sample_ratio, parent_based=tracing.parent_based
    )


def _fleet_timeouts(settings: Settings) -> FleetTimeouts:
    timeouts = settings.timeouts
    return FleetTimeouts(
        draft_timeout_s=timeouts.draft_timeout_s,
        verify_wait_s=timeouts.verify_wait_s,
        slow_factor=timeouts.slow_factor,
        health_interval_s=timeouts.health_interval_s,
        health_timeout_s=timeouts.health_timeout_s,
    )


def _workers(settings: Settings) -> list[tuple[str, Role]]:
    return [(worker.address, Role(worker.role)) for worker in settings.workers]


def _limits(settings: Settings) -> Limits:
    return Limits(
        default_max_new_tokens=settings.limits.default_max_new_tokens,
        longest_request_s=settings.timeouts.longest_request_s,
        slow_reader_s=settings.timeouts.slow_reader_s,
    )


def _author() -> Author:
    return Author(controller_id=uuid7(), code_version=importlib.metadata.version("forerun"))


def _policies(settings: Settings) -> Mapping[str, Policy]:
    return all_policies(shape=settings.router.shape.shape, drafter=settings.router.drafter)


async def _redis_url(settings: Settings, stack: AsyncExitStack) -> str:
    """Where Redis is, started if it is ours to start; empty if there is none."""
    url = settings.redis.url if settings.redis is not None else ""
    if url.startswith(SCHEME):
        # Before the first channel: gRPC complains of every fork once it has threads.
        return await stack.enter_async_context(embedded_redis(url))
    return url


async def _started_log(
    settings: Settings, url: str, fleet: WorkerFleet, stack: AsyncExitStack
) -> tuple[EventLog | None, ListWorkers]:
    """The decision log, if there is a Redis; more workers than those that the configuration lists come from there."""
    if settings.redis is None:
        return None, fleet.list_workers
    namespace = settings.redis.namespace
    spawn = await stack.enter_async_context(owned_tasks())
    log = EventLog(
        url,
        namespace=namespace,
        most_entries=settings.redis.kept_entries,
        most_waiting=settings.redis.most_records_waiting,
        may_make_room=settings.redis.embedded,
    )
    registry = Registry(url, namespace=namespace, fleet=fleet, configured=())
    spawn(log.run())
    spawn(registry.run())
    return log, registry.configure


def _shared_learning(settings: Settings, url: str, steering: Steering) -> SharedLearning | None:
    """This controller's part in learning with others, if there is a log and a policy that learns."""

    def to_share() -> LearningPolicy | None:
        return policy_to_share(steering.policies, steering.policy)

    if settings.redis is None or not settings.redis.shared_learning or to_share() is None:
        return None
    return SharedLearning(
        url,
        namespace=settings.redis.namespace,
        to_share=to_share,
        learner_of=_learner_of(settings, url, settings.redis.namespace),
    )


def _learner_of(settings: Settings, url: str, namespace: str) -> Callable[[Redis, Keys], LearnsForAll]:
    """Makes the learner of a policy: a process beside this one."""
    return lambda _, keys: LearnerProcess(
        Lessons(
            url=url,
            namespace=namespace,
            policy=keys.policy,
            shape=settings.router.shape.shape,
            drafter=settings.router.drafter,
            interval_s=INTERVAL_S,
            lease_s=LEASE_S,
        )
    )


def _store_of(settings: Settings, url: str, steering: Steering, stack: AsyncExitStack) -> StoreOf | None:
    """Finds the versions of a policy; None where nothing keeps them."""
    if settings.redis is None:
        return None
    namespace, redis = settings.redis.namespace, redis_client(url)
    stack.push_async_callback(redis.aclose)

    @cache
    def store(policy: str) -> ModelStore:
        return ModelStore(redis, namespace=namespace, make_policy=lambda: learner_named(policy, _policies(settings)))

    def store_of(name: str) -> ModelStore:
        shared = policy_to_share(steering.policies, steering.policy)
        return store(name or (shared.name if shared is not None else ""))

    return store_of


@asynccontextmanager
async def _listening(
    server: grpc.aio.Server,
    configuration: Configuration,
    generation: GenerationService,
    for_operators: tuple[RouterService, ModelService],
    fleet: WorkerFleet,
) -> AsyncIterator[None]:
    """The server takes calls while the body runs; afterwards it drains and stops."""
    generation.add_to(server)
    for offered in for_operators:
        offered.add_to(server)
    state = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    operating = (router_service.SERVICE_NAME, model_service.SERVICE_NAME)
    names = (service.SERVICE_NAME, *operating, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    for name in operating:
        await state.set(name, HealthCheckResponse.SERVING)
    await _show_health(state, serves=fleet.serves)
    await server.start()
    async with owned_tasks() as spawn:
        telling = spawn(_tell_health(state, fleet))
        try:
            yield
        finally:
            telling.cancel()
            await _drain(server, state, generation, configuration.settings.timeouts.drain_grace_s)


async def _tell_health(state: HealthState, fleet: WorkerFleet) -> None:
    """Serving means that there is a target: without one, no request can be answered."""
    while True:
        shown = fleet.serves
        await _show_health(state, serves=shown)
        while fleet.serves is shown:
            await fleet.changed.wait()


async def _show_health(state: HealthState, *, serves: bool) -> None:
    status = HealthCheckResponse.SERVING if serves else HealthCheckResponse.NOT_SERVING
    for name in ("", service.SERVICE_NAME):
        await state.set(name, status)


async def _drain(server: grpc.aio.Server, state: HealthState, generation: GenerationService, grace_s: float) -> None:
    """Say so, take nothing new, let running requests finish, stop."""
    await state.enter_graceful_shutdown()
    generation.reception.close()
    try:
        async with asyncio.timeout(grace_s):
            await generation.reception.drained()
    except TimeoutError:
        logger.warning("requests cut off", extra={"requests": generation.reception.inside})
    await server.stop(STOP_S)
