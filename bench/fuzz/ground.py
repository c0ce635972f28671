"""What is attacked: a fleet with tokens, a gateway in a hurry, and a tenant with a secret."""

import json
import secrets
import shutil
import socket
import string
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from bench.fleet import WITHOUT_SCORING
from bench.fuzz import requests
from bench.fuzz.calls import NOBODY, Caller, Door
from bench.fuzz.campaign import Attack
from bench.fuzz.judging import CrashError, Secret
from bench.fuzz.openapi import Document
from controller.settings import MetricsSettings, QuotaSettings
from controller.tokens import Role, new_token
from forerun.client import Client, Retry, RouterClient
from forerun.commands.profile import target_of
from forerun.fleet_screen import shown_fleet
from forerun.local_fleet import CONTROLLER, FREE_PORT, GATEWAY, ONE_THREAD, SUFFIX_OF_TARGET, FleetSettings, LocalFleet
from forerun.supervisor import LISTEN, ProcessSpec
from speculation.errors import ForerunError

VICTIM, MALLORY, POOR, OPERATOR = "acme", "mallory", "poor", "operator"
ANYBODY = Caller(metadata=(), calls=True, operates=True)
WORKERS = ("target", "code", "suffix")
CONTROLLERS_SHARE, WORKERS_SHARE, GATEWAYS_SHARE, DOCUMENTS_SHARE, METRICS_SHARE = 0.4, 0.2, 0.25, 0.13, 0.02
"""Of all requests."""

DRAINED_WITHIN_S = 10.0
PATIENT = Retry(attempts=20, first_pause_s=0.5, factor=1.0)
"""A controller that has just started has not met its workers yet."""

POLICY = "planner"

PROMPT, TOKENS, SEED = "def area(radius):", 24, 7
"""The request that is answered with the same text after every batch."""


def new_secret() -> Secret:
    """Letters that nobody has ever said."""
    return Secret("".join(secrets.choice(string.ascii_lowercase) for _ in range(24)))


def callers(file: Path) -> Mapping[str, Caller]:
    """Everybody who may knock, with and without tokens; what the controller may know of them goes into the file."""
    now = datetime.now(UTC)

    def bearer(token: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {token}"),)

    def made(role: Role, tenant: str, days: int = 1) -> tuple[tuple[str, str], ...]:
        return bearer(new_token(file, role=role, tenant=tenant, expires=now + timedelta(days=days)))

    return {
        "nobody": NOBODY,
        "stranger": Caller(metadata=bearer("forerun_" + "x" * 43), calls=False),
        "expired": Caller(metadata=made(Role.OPERATE, VICTIM, days=-1), calls=False),
        "confused": Caller(metadata=(("authorization", "Basic YTpi"),), calls=False),
        MALLORY: Caller(metadata=made(Role.CALL, MALLORY), calls=True),
        POOR: Caller(metadata=made(Role.CALL, POOR), calls=True),
        OPERATOR: Caller(metadata=made(Role.OPERATE, "operators"), calls=True, operates=True),
        VICTIM: Caller(metadata=made(Role.CALL, VICTIM), calls=True),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a fleet can be attacked, each host:port.

    Attributes:
        controller: The controller.
        workers: Its workers, by name; nobody asks who calls them.
        gateway: Its gateway.
        metrics: The controller's metrics.
    """

    controller: str
    workers: Mapping[str, str]
    gateway: str
    metrics: str


@contextmanager
def opened(places: Places, known: Mapping[str, Caller]) -> Iterator[Mapping[str, Door]]:
    """The doors of gRPC, by name, with those who knock at each."""
    knocking = [caller for name, caller in known.items() if name != VICTIM]
    # Requests of those who are let in reach farther.
    at_controller = [*knocking, *[known[MALLORY]] * 6, known[OPERATOR]]
    with ExitStack() as stack:
        doors = {CONTROLLER: Door(places.controller, callers=at_controller, operator=known[OPERATOR])}
        for name, address in places.workers.items():
            doors[name] = Door(address, callers=[ANYBODY], operator=ANYBODY)
        for door in doors.values():
            stack.enter_context(closing(door))
        yield doors


def attacks_on(
    places: Places, doors: Mapping[str, Door], known: Mapping[str, Caller], secret: Secret
) -> list[Attack[Any]]:
    """All ways into a fleet."""
    knocking = [caller for name, caller in known.items() if name != VICTIM]
    document = Document(places.gateway, known[MALLORY])
    attacks: list[Attack[Any]] = [
        Attack(
            name=name,
            share=CONTROLLERS_SHARE if name == CONTROLLER else WORKERS_SHARE / len(places.workers),
            requests=door.calls(),
            ask=door.ask,
            judge=partial(door.judge, secret),
        )
        for name, door in doors.items()
    ]
    attacks += [
        Attack(
            name=GATEWAY,
            share=GATEWAYS_SHARE,
            requests=requests.requests([*knocking, *[known[MALLORY]] * 8]),
            ask=partial(requests.ask, places.gateway),
            judge=partial(requests.judge, secret),
        ),
        Attack(
            name="openapi",
            share=DOCUMENTS_SHARE,
            requests=document.cases(),
            ask=document.ask,
            judge=partial(document.judge, secret),
        ),
        Attack(
            name="metrics",
            share=METRICS_SHARE,
            requests=requests.requests(knocking),
            ask=partial(requests.ask, places.metrics),
            judge=partial(requests.judge_plain, secret),
        ),
    ]
    return attacks


class Watch:
    """Looks whether a fleet is what it was before: the same processes, the same text, nothing left open.

    It also lets the victim say its secret again, over every way that texts go.
    """

    def __init__(
        self, fleet: LocalFleet, places: Places, doors: Mapping[str, Door], known: Mapping[str, Caller], secret: Secret
    ) -> None:
        self._fleet, self._gateway, self._known, self._secret = fleet, places.gateway, known, secret
        self._workers = {name: doors[name] for name in places.workers}
        self._processes = self._alive()
        self._text = self._answer(known[MALLORY])

    def look(self) -> None:
        """Raise CrashError if something is not as before."""
        if (now := self._alive()) != self._processes:
            raise CrashError(f"processes: {self._processes} became {now}")
        try:
            self._put_in_order()
            self._tell_secret()
            self._require_drained()
            texts = (self._answer(self._known[MALLORY]), self._answer_over_http())
        except (ForerunError, OSError) as error:
            raise CrashError(f"a normal request failed: {error}") from error
        if any(text != self._text for text in texts):
            raise CrashError(f"{self._text!r} became {texts}")

    def _alive(self) -> Mapping[str, tuple[int | None, int]]:
        return {process.name: (process.pid, process.restarts) for process in self._fleet.processes}

    def _put_in_order(self) -> None:
        """Operators who attack may stop all speculation; hostile requests should meet it."""
        with RouterClient(self._fleet.address, token=_token(self._known[OPERATOR])) as router:
            router.set_kill_switch(engaged=False)
            router.set_policy(POLICY)

    def _answer(self, caller: Caller) -> str:
        with Client(self._fleet.address, token=_token(caller), retry=PATIENT) as client:
            return client.generate(PROMPT, max_new_tokens=TOKENS, seed=SEED, temperature=0.8, ignore_eos=True).text

    def _answer_over_http(self) -> str:
        body = {
            **{"model": "target", "prompt": PROMPT, "max_tokens": TOKENS, "seed": SEED},
            **{"temperature": 0.8, "ignore_eos": True},
        }
        answer = requests.ask(self._gateway, requests.good(body, self._known[MALLORY]))
        if answer.status != 200:
            raise CrashError(f"a normal request over HTTP got {answer.status}: {answer.body[:300]!r}")
        return str(json.loads(answer.body)["choices"][0]["text"])

    def _tell_secret(self) -> None:
        said = f"The secret word of acme is {self._secret.text}. The secret word of acme is "
        body = {"model": "target", "prompt": said, "max_tokens": 8}
        requests.ask(self._gateway, requests.good(body, self._known[VICTIM]))
        with Client(self._fleet.address, token=_token(self._known[VICTIM])) as client:
            client.generate(said, max_new_tokens=8, drafters=["suffix"], stop=[self._secret.text])
            client.generate(messages=[{"role": "user", "content": said}], max_new_tokens=8, task=self._secret.text)

    def _require_drained(self) -> None:
        ends = time.monotonic() + DRAINED_WITHIN_S
        while left := {name: held for name, door in self._workers.items() if (held := door.held_tokens())}:
            if time.monotonic() > ends:
                raise CrashError(f"sessions that nobody has any more hold tokens: {left}")
            time.sleep(0.1)


def _token(caller: Caller) -> str:
    return str(caller.metadata[0][1]).removeprefix("Bearer ")


@asynccontextmanager
async def ground() -> AsyncIterator[tuple[list[Attack[Any]], Callable[[], None]]]:
    """A fleet to be attacked while the body runs: all ways in, and what looks after it.

    Its logs stay behind only if it fails.
    """
    folder = Path(tempfile.mkdtemp(prefix="forerun-fuzz-"))
    known = callers(folder / "tokens.yaml")
    secret = new_secret()
    metrics = _free_address()
    settings = FleetSettings(
        target=target_of("plain"),
        drafters={"code": "zoo:code", "suffix": SUFFIX_OF_TARGET},
        remember=10_000,
        listen=FREE_PORT,
        max_length=256,
        router=WITHOUT_SCORING,
        tokens=folder / "tokens.yaml",
        metrics=MetricsSettings(listen=metrics),
        quotas=(QuotaSettings(tenant=POOR, requests_at_once=1, requests_per_minute=30, tokens_per_minute=600),),
    )
    async with shown_fleet(settings, folder) as fleet:
        (gateway,) = await fleet.supervisor.start([_hurried_gateway(fleet.address)])
        workers = {process.name: process.address for process in fleet.processes if process.name in WORKERS}
        places = Places(controller=fleet.address, workers=workers, gateway=gateway.address, metrics=metrics)
        with opened(places, known) as doors:
            yield attacks_on(places, doors, known, secret), Watch(fleet, places, doors, known, secret).look
    shutil.rmtree(folder, ignore_errors=True)


def _hurried_gateway(controller: str) -> ProcessSpec:
    """One whose limits on time are so short that thousands can run into them."""
    flags = {
        "controller": controller,
        "listen": LISTEN,
        "headers-within-s": "0.5",
        "body-within-s": "0.5",
        "idle-s": "1",
    }
    options = (part for name, value in flags.items() for part in (f"--{name}", value))
    return ProcessSpec(name=GATEWAY, command=(sys.executable, "-P", "-m", "gateway", *options), environment=ONE_THREAD)


def _free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"
