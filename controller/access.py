"""The door: which calls are let in, on whose behalf, and a count of those that are not."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc

from controller.tokens import Role, Tokens, tenant_of
from speculation.errors import AccessDeniedError, ForerunError, QuotaError, UnauthenticatedError
from speculation.rpc import errors_to_status

logger = logging.getLogger(__name__)

TELL_AGAIN_S = 1.0
"""Whoever tries tokens all day must not fill the disk with it."""

CallContext = grpc.aio.ServicerContext[Any, Any]
Handler = Any
"""grpc.RpcMethodHandler with its fields, which the type stubs do not list."""


class Refusals:
    """Counts what was refused, and tells the log of it: who called what, and nothing that was sent.

    Attributes:
        counts: By the error's reason, since the start.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._now = now
        self._told: dict[str, float] = {}

    @contextmanager
    def noted(self, method: str, peer: str) -> Iterator[None]:
        """Note it if the body refuses a call."""
        try:
            yield
        except (UnauthenticatedError, AccessDeniedError, QuotaError) as error:
            self._note(error, method, peer)
            raise

    def _note(self, error: ForerunError, method: str, peer: str) -> None:
        reason, now = error.reason, self._now()
        self.counts[reason] += 1
        if now - self._told.get(reason, -TELL_AGAIN_S) >= TELL_AGAIN_S:
            self._told[reason] = now
            told = {"reason": reason, "method": method, "peer": peer, "so_far": self.counts[reason]}
            logger.warning("call refused", extra=told)


class Access:
    """Whom the controller serves.

    Attributes:
        refusals: Whom it did not.
    """

    def __init__(self, tokens: Tokens | None = None) -> None:
        self.refusals = Refusals()
        self._tokens = tokens

    def tenant(self, context: CallContext, claimed: str) -> str:
        """On whose behalf a call is; without tokens the caller's word is all there is.

        Raises:
            UnauthenticatedError: The token has become invalid since the call began.
            AccessDeniedError: The token speaks for another tenant.
        """
        if self._tokens is None:
            return claimed
        return tenant_of(self._tokens.principal(context.invocation_metadata() or ()), claimed)

    def interceptors(self, needed: Mapping[str, Role | None]) -> "tuple[Guard, ...]":
        """What stands before a server; nothing if there are no tokens."""
        return () if self._tokens is None else (Guard(self._tokens, needed, self.refusals),)


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Looks at the token of every call before the call is looked at.

    It decides which handler a call gets, and never waits for one: so cancellations reach handlers as if it were not
    there, and so do streams that last for hours.
    """

    def __init__(self, tokens: Tokens, needed: Mapping[str, Role | None], refusals: Refusals) -> None:
        """
        Args:
            tokens: Those that are accepted.
            needed: The role that each service asks for; None: it is open to all. One that is not named asks for most.
            refusals: Told about those turned away.
        """
        self._tokens = tokens
        self._needed = needed
        self._refusals = refusals

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """The handler of a call, or one that refuses it."""
        handler = await continuation(handler_call_details)
        try:
            self._check(handler_call_details)
        except ForerunError as error:
            return handler and self._refusing(handler, error, handler_call_details.method)
        return handler

    def _check(self, call: grpc.HandlerCallDetails) -> None:
        service = call.method.rpartition("/")[0].removeprefix("/")
        role = self._needed.get(service, Role.OPERATE)
        if role is None:
            return
        principal = self._tokens.principal(call.invocation_metadata or ())
        if not principal.role.includes(role):
            raise AccessDeniedError(f"the token's role is {principal.role.value}; {service} needs {role.value}")

    def _refusing(self, handler: Handler, error: ForerunError, method: str) -> Handler:
        """Of the same form as the call's own, so that no message is waited for that may never come."""

        async def refuse(_: Any, context: CallContext) -> None:
            async with errors_to_status(context):
                with self._refusals.noted(method, context.peer()):
                    raise error

        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(refuse, handler.request_deserializer, handler.response_serializer)
