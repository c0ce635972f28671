"""A whole controller over fake workers, in one event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import yaml

from controller.fleet import WorkerFleet
from controller.roster import FleetTimeouts, TokenizerIdentity
from controller.serve import Controller, running
from controller.settings import (
    AdmissionSettings,
    LimitSettings,
    MetricsSettings,
    RedisSettings,
    RouterSettings,
    Settings,
    TimeoutSettings,
    WorkerEntry,
)
from controller.worker_client import Role
from speculation.errors import InvalidRequestError
from speculation.tls import Certificates
from speculation.v1 import common_pb2, generation_pb2, generation_pb2_grpc, router_pb2_grpc
from tests import fakes
from tests.fakes import FINGERPRINT, VOCAB_SIZE, Language, RunningWorker

Result = TypeVar("Result")

QUICK = TimeoutSettings(
    draft_timeout_s=0.3, verify_wait_s=2.0, health_interval_s=0.1, health_timeout_s=0.4, drain_grace_s=5.0
)
QUICK_FLEET = FleetTimeouts(draft_timeout_s=0.3, verify_wait_s=2.0, health_interval_s=0.1, health_timeout_s=0.4)
IDENTITY = TokenizerIdentity(fingerprint=FINGERPRINT, vocab_size=VOCAB_SIZE)
ONE_PLACE = LimitSettings(concurrent_requests=1)
NOBODY_WAITS = {"admission": AdmissionSettings(most_waiting=0)}
PROMPT = tuple(range(5, 17))
END_TOKEN = 96


def run(work: Coroutine[Any, Any, Result], *, within_s: float = 30.0) -> Result:
    """Run a test's coroutine; nothing here takes half a minute unless it hangs."""

    async def bounded() -> Result:
        async with asyncio.timeout(within_s):
            return await work

    return asyncio.run(bounded())


class LetterTokenizer:
    """One printable character for each token."""

    vocab_size = VOCAB_SIZE
    longest_token = 2
    fingerprint = FINGERPRINT
    end_token_ids = frozenset((END_TOKEN,))

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(32 + token) for token in token_ids)

    def spell(self, token_id: int) -> str:
        return self.decode([token_id])

    async def encode(self, text: str) -> tuple[int, ...]:
        return tuple(ord(character) - 32 for character in text)

    async def encode_chat(self, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
        if messages[0][0] == "judge":
            raise InvalidRequestError("chat", "the model's chat template refuses it: no judges")
        return await self.encode("".join(f"{role}:{content};" for role, content in messages))


@dataclass(slots=True)
class House:
    """A controller, its fake workers, and stubs to call it with."""

    controller: Controller
    workers: list[RunningWorker]
    channel: grpc.aio.Channel
    generation: Any
    router: Any

    async def answer(self, **fields: Any) -> "Answer":
        """One answer, read to its end."""
        return await read(self.generation.Generate(request(**fields), timeout=20))

    def sessions(self) -> int:
        """Sessions open on all workers, as the workers count them."""
        return sum(len(worker.worker.sessions) for worker in self.workers)

    async def settled(self) -> None:
        """Wait until every worker has been examined."""
        while any("has not answered" in worker.problem for worker in self.controller.fleet.workers):
            await self.controller.fleet.changed.wait()


@dataclass(slots=True)
class Answer:
    """What a caller got."""

    text: str
    token_ids: list[int]
    deltas: list[generation_pb2.Delta]
    rounds: list[generation_pb2.RoundReport]
    summary: generation_pb2.Summary


def request(**fields: Any) -> generation_pb2.GenerateRequest:
    """A request for 40 tokens after the prompt, unless told otherwise."""
    if not fields.keys() & {"text", "chat", "tokens"}:
        fields["tokens"] = generation_pb2.TokenIds(ids=PROMPT)
    return generation_pb2.GenerateRequest(
        **{"max_new_tokens": 40, "ignore_eos": True, "sampling": {"seed": 7}} | fields
    )


async def read(call: Any) -> Answer:
    """Everything that a call answers."""
    deltas, rounds, summary = [], [], None
    async for response in call:
        assert summary is None, "the summary comes last"
        if response.HasField("delta"):
            deltas.append(response.delta)
        elif response.HasField("round"):
            rounds.append(response.round)
        else:
            summary = response.summary
    assert summary is not None
    tokens = [token for delta in deltas for token in delta.token_ids]
    return Answer("".join(delta.text for delta in deltas), tokens, deltas, rounds, summary)


def plain(length: int = 40, *, prompt: Sequence[int] = PROMPT, seed: int = 7) -> list[int]:
    """What plain decoding emits."""
    return Language().continuation(prompt, length, seed)


VERIFY = fakes.description()
DRAFT = fakes.description("draft", "alpha")
DRAFT_TOO = fakes.description("draft", "beta")


@asynccontextmanager
async def house(
    *descriptions: common_pb2.DescribeResponse,
    policy: str = "static",
    limits: LimitSettings | None = None,
    redis: RedisSettings | None = None,
    metrics: MetricsSettings | None = None,
    timeouts: TimeoutSettings = QUICK,
    settle: bool = True,
    file: Path | None = None,
    more: Mapping[str, Any] | None = None,
    worker_certificates: Certificates | None = None,
    **router: Any,
) -> AsyncIterator[House]:
    """A controller over fake workers: one target and one drafter unless told otherwise; it follows `file`, if any.
    `more` are other sections of its settings.

    Nothing is scored unless the test says so: sessions that chance opens would be counted among those of requests.
    """
    async with fakes.workers(*(descriptions or (VERIFY, DRAFT)), certificates=worker_certificates) as started:
        settings = Settings(
            listen="127.0.0.1:0",
            tokenizer="letters",
            workers=tuple(WorkerEntry(role=_role(worker), address=worker.address) for worker in started),
            router=RouterSettings(policy=policy, **{"scoring_share": 0.0} | router),
            limits=limits or LimitSettings(),
            redis=redis,
            metrics=metrics or MetricsSettings(),
            timeouts=timeouts,
            **more or {},
        )
        if file is not None:
            write_settings(file, settings)
        async with (
            running(settings, file=file, tokenizer=LetterTokenizer()) as controller,
            grpc.aio.insecure_channel(controller.address) as channel,
        ):
            at_home = House(
                controller,
                started,
                channel,
                generation_pb2_grpc.GenerationServiceStub(channel),
                router_pb2_grpc.RouterServiceStub(channel),
            )
            if settle:
                await at_home.settled()
            yield at_home


def write_settings(file: Path, settings: Settings) -> None:
    """What an operator would have written."""
    file.write_text(yaml.safe_dump(settings.model_dump(mode="json")))


@asynccontextmanager
async def fleet_of(*started: RunningWorker, timeouts: FleetTimeouts = QUICK_FLEET) -> AsyncIterator[WorkerFleet]:
    """A fleet that watches these workers."""
    fleet = WorkerFleet(IDENTITY, timeouts)
    fleet.list_workers((worker.address, Role(_role(worker))) for worker in started)
    watching = asyncio.create_task(fleet.run())
    try:
        yield fleet
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def eventually(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """Wait until something is so that tells nobody."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - the fakes under observation raise no events
            await asyncio.sleep(0.01)


async def until(fleet: WorkerFleet, holds: Any) -> None:
    """Wait until a fleet has come to a state."""
    while not holds(fleet):
        await fleet.changed.wait()


def _role(worker: RunningWorker) -> Any:
    return "draft" if worker.worker.description.role == common_pb2.WORKER_ROLE_DRAFT else "verify"
