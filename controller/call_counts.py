"""Counts gRPC calls by their method and how they ended."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from controller.interception import Behaviour, around
from speculation.metrics import Labels


class CallCounts(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """An interceptor that changes nothing.

    Attributes:
        counts: By service, method and code.
    """

    def __init__(self) -> None:
        self.counts: Counter[Labels] = Counter()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The handler of a call, counted if it is one of ours."""
        return around(await continuation(details), details.method, self._counted)

    def _counted(self, behaviour: Behaviour, method: str) -> Behaviour:
        _, service, name = method.split("/")

        async def counted(request: Any, context: Any) -> Any:
            code = grpc.StatusCode.OK
            try:
                return await behaviour(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except BaseException:
                code = _aborted_with(context)
                raise
            finally:
                self.counts[service, name, code.name] += 1

        return counted


def _aborted_with(context: Any) -> grpc.StatusCode:
    """The code that a call was aborted with; an error that nobody made a status of is UNKNOWN to the caller."""
    code = context.code()  # 0 where none was set
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
