"""The clients, synchronous and asynchronous: they differ only in how they wait."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forerun.client.generation import Delta, Generation, RoundReport, ServedModel
from forerun.client.messages import Answer, GenerateOptions, models_of, request_of
from forerun.client.retries import USUAL, Retries, Retry, with_jitter
from forerun.connection import Connection
from speculation.errors import ForerunError, WorkerUnavailableError
from speculation.rpc import error_of, status_to_errors
from speculation.v1 import generation_pb2, generation_pb2_grpc

DEFAULT_TIMEOUT_S = 120.0
QUESTION_TIMEOUT_S = 10.0
"""Of calls that only ask how things are."""

SERVICE_NAME = generation_pb2.DESCRIPTOR.services_by_name["GenerationService"].full_name
NO_METADATA: Mapping[str, str] = MappingProxyType({})

CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    # Answers are one message a round and have no useful upper bound; requests carry prompts of any length.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A controller that vanished without a word is noticed within half a minute, and not at the deadline.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # We retry ourselves, where we know that nothing has been emitted yet.
    ("grpc.enable_retries", 0),
)


class DeadlineExceededError(ForerunError):
    """The deadline passed before the answer was complete; `partial_text` is what had come by then, and is valid."""

    reason = "DEADLINE_EXCEEDED"

    def __init__(self, address: str, timeout_s: float, partial_text: str) -> None:
        super().__init__(f"{address} did not complete the answer within {timeout_s:g} s", {"address": address})
        self.partial_text = partial_text


class _Call:
    """One request in progress: what both kinds of stream know and decide alike."""

    def __init__(
        self, connection: Connection, prompt: str | None, options: GenerateOptions, timeout_s: float, retries: Retries
    ) -> None:
        self.request = request_of(prompt, options)
        self.answer = Answer()
        self.address = connection.address
        self.timeout_s = options.get("timeout_s", timeout_s)
        self.metadata = (*connection.metadata, *options.get("metadata", {}).items())
        self._ends = time.monotonic() + self.timeout_s
        self._retries, self._pauses = retries, retries.retry.pauses()
        retries.called()

    @property
    def remaining_s(self) -> float:
        """Until the deadline; what every attempt is given."""
        return max(0.001, self._ends - time.monotonic())

    def pause_after(self, error: grpc.RpcError) -> float:
        """Seconds to wait before the next attempt; raises what the caller should see if there is to be none."""
        code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise DeadlineExceededError(self.address, self.timeout_s, self.answer.text) from error
        pause_s = None if self.answer.deltas else next(self._pauses, None)
        if pause_s is not None and (asked_s := self._retries.asked_pause_s(error, self.address)) is not None:
            pause_s = with_jitter(max(pause_s, asked_s))
            if pause_s < self.remaining_s:
                return pause_s
        raise error_of(error, self.address) from error

    @property
    def generation(self) -> Generation:
        """The complete answer; there is none before the stream has ended."""
        if self.answer.generation is None:
            raise WorkerUnavailableError(f"{self.address} has not sent the summary of this answer")
        return self.answer.generation


class _StreamBase:
    def __init__(self, call: _Call) -> None:
        self._call = call

    @property
    def text(self) -> str:
        """The answer as far as it has come."""
        return self._call.answer.text

    @property
    def rounds(self) -> Sequence[RoundReport]:
        """The rounds so far, if `explain` was asked for."""
        return self._call.answer.rounds

    @property
    def generation(self) -> Generation:
        """The complete answer, once the stream has ended.

        Raises:
            WorkerUnavailableError: It has not.
        """
        return self._call.generation


class Stream(_StreamBase, Iterator[Delta]):
    """Deltas as they come; closing it, or leaving its `with`, cancels what is still to come."""

    def __init__(self, stub: generation_pb2_grpc.GenerationServiceStub, call: _Call) -> None:
        super().__init__(call)
        self._stub = stub
        self._deltas = self._read()

    def __next__(self) -> Delta:
        return next(self._deltas)

    def close(self) -> None:
        """Cancel the call if it still runs: the service frees everything it used."""
        self._deltas.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> Generator[Delta]:
        while True:
            responses = self._stub.Generate(
                self._call.request, timeout=self._call.remaining_s, metadata=self._call.metadata
            )
            try:
                for response in responses:
                    if (delta := self._call.answer.fold(response)) is not None:
                        yield delta
                return
            except grpc.RpcError as error:
                time.sleep(self._call.pause_after(error))
            finally:
                responses.cancel()


class AsyncStream(_StreamBase, AsyncIterator[Delta]):
    """Deltas as they come; closing it, or leaving its `async with`, cancels what is still to come."""

    def __init__(self, stub: generation_pb2_grpc.GenerationServiceStub, call: _Call) -> None:
        super().__init__(call)
        self._stub = stub
        self._deltas = self._read()

    async def __anext__(self) -> Delta:
        return await anext(self._deltas)

    async def aclose(self) -> None:
        """Cancel the call if it still runs: the service frees everything it used."""
        await self._deltas.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _read(self) -> AsyncGenerator[Delta]:
        while True:
            responses = self._stub.Generate(
                self._call.request, timeout=self._call.remaining_s, metadata=self._call.metadata
            )
            try:
                async for response in responses:
                    if (delta := self._call.answer.fold(response)) is not None:
                        yield delta
                return
            except grpc.RpcError as error:
                await asyncio.sleep(self._call.pause_after(error))
            finally:
                responses.cancel()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    connection: Connection
    timeout_s: float
    retries: Retries

    def call(self, prompt: str | None, options: GenerateOptions) -> _Call:
        return _Call(self.connection, prompt, options, self.timeout_s, self.retries)

    def metadata(self, more: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        return (*self.connection.metadata, *more.items())


class Client:
    """Calls a controller and waits for the answer.

    Example:
        >>> with Client("127.0.0.1:50050") as client:  # doctest: +SKIP
        ...     answer = client.generate("def area(radius):", max_new_tokens=64, task="code")
        ...     print(answer.text, answer.acceptance.mean_acceptance_length)
        ...     with client.stream("Once", temperature=0.8, seed=7) as deltas:
        ...         for delta in deltas:
        ...             print(delta.text, end="")
        ...     print(deltas.generation.tokens_per_second)

    Args:
        address: host:port of a controller.
        timeout_s: Deadline of calls that name none.
        retry: When to repeat a call that no controller took.
        token: For a controller that asks for one. It is not sent in plain text to another machine.
        ca: For a controller with TLS: PEM file of those who may have signed its certificate, or "system" for those whom
            gRPC trusts.
        cert: PEM file of a certificate and its unencrypted key, for a controller that asks callers for one.
        server_name: The name in the controller's certificate, where it is called by another one.
        credentials: In place of the three.

    Raises:
        ConfigurationError: The file cannot be read, or the token would be sent in plain text.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry = USUAL,
        token: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        server_name: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        connection = Connection.to(
            address, token=token, ca=ca, cert=cert, server_name=server_name, credentials=credentials
        )
        self._settings = _Settings(connection=connection, timeout_s=timeout_s, retries=Retries(retry))
        self._channel = connection.channel(CHANNEL_OPTIONS)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def stream(self, prompt: str | None = None, **options: Unpack[GenerateOptions]) -> Stream:
        """Start an answer and read it as it comes; `stream.generation` holds all of it at the end.

        Raises:
            InvalidRequestError: A field is wrong; others appear on iterating, see `generate`.
        """
        return Stream(self._stub, self._settings.call(prompt, options))

    def generate(self, prompt: str | None = None, **options: Unpack[GenerateOptions]) -> Generation:
        """The complete answer.

        Raises:
            InvalidRequestError: A field is wrong; `error.field` names it.
            UnknownNameError: No policy or drafter has that name.
            UnauthenticatedError: The controller asks for a token, and this is none that is valid now.
            AccessDeniedError: The token does not allow the call, or speaks for another tenant.
            CapacityError: Too many requests at once; call again after a pause.
            QuotaError: Too many of this tenant, and the deadline is before `error.retry_after_s`.
            DeadlineExceededError: `timeout_s` passed; what had come is in `error.partial_text`.
            WorkerUnavailableError: No controller or no target answers.
        """
        with self.stream(prompt, **options) as deltas:
            for _ in deltas:
                pass
        return deltas.generation

    def models(self, *, metadata: Mapping[str, str] = NO_METADATA) -> tuple[ServedModel, ...]:
        """What is served; nothing while no target serves.

        Raises:
            WorkerUnavailableError: No controller answers.
        """
        with status_to_errors(self._settings.connection.address):
            return models_of(
                self._stub.ListModels(
                    generation_pb2.ListModelsRequest(),
                    timeout=QUESTION_TIMEOUT_S,
                    metadata=self._settings.metadata(metadata),
                )
            )

    def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio, with the same arguments and errors.

    Example:
        >>> async def main() -> None:
        ...     async with AsyncClient("127.0.0.1:50050") as client:
        ...         answer = await client.generate("def area(radius):", max_new_tokens=64)
        ...         async with client.stream(messages=[{"role": "user", "content": "2 + 2?"}]) as deltas:
        ...             async for delta in deltas:
        ...                 print(delta.text, end="")
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retry: Retry = USUAL,
        token: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        server_name: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        connection = Connection.to(
            address, token=token, ca=ca, cert=cert, server_name=server_name, credentials=credentials
        )
        self._settings = _Settings(connection=connection, timeout_s=timeout_s, retries=Retries(retry))
        self._channel = connection.aio_channel(CHANNEL_OPTIONS)
        self._stub = generation_pb2_grpc.GenerationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health = health_pb2_grpc.HealthStub(self._channel)

    def stream(self, prompt: str | None = None, **options: Unpack[GenerateOptions]) -> AsyncStream:
        """As `Client.stream`."""
        return AsyncStream(self._stub, self._settings.call(prompt, options))

    async def generate(self, prompt: str | None = None, **options: Unpack[GenerateOptions]) -> Generation:
        """As `Client.generate`."""
        async with self.stream(prompt, **options) as deltas:
            async for _ in deltas:
                pass
        return deltas.generation

    async def models(self, *, metadata: Mapping[str, str] = NO_METADATA) -> tuple[ServedModel, ...]:
        """As `Client.models`."""
        with status_to_errors(self._settings.connection.address):
            return models_of(
                await self._stub.ListModels(
                    generation_pb2.ListModelsRequest(),
                    timeout=QUESTION_TIMEOUT_S,
                    metadata=self._settings.metadata(metadata),
                )
            )

    async def serves(self) -> bool:
        """Whether the controller says of itself that it can answer requests: there is a target, and it stays.

        Raises:
            WorkerUnavailableError: No controller answers.
        """
        with status_to_errors(self._settings.connection.address):
            state = await self._health.Check(
                health_pb2.HealthCheckRequest(service=SERVICE_NAME), timeout=QUESTION_TIMEOUT_S
            )
        return bool(state.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        """Close the connection; calls in progress are cancelled."""
        await self._channel.close(grace=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
