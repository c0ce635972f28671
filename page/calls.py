"""The calls of the page: operators' gRPC services as JSON over HTTP, field by field as protobuf maps them.

There is nothing between the page's scripts and the protocol: a message of `protos/speculation/v1/router.proto` or
`models.proto` comes and goes in its canonical JSON form, where 64-bit numbers are strings. What a caller may do is
for the controller to say: his token goes with every call.
"""

import json
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format, message_factory

from forerun.connection import Connection
from gateway.errors import HTTPProblem
from speculation.rpc import status_to_errors
from speculation.v1 import models_pb2, router_pb2

SERVICES = (
    router_pb2.DESCRIPTOR.services_by_name["RouterService"],
    models_pb2.DESCRIPTOR.services_by_name["ModelService"],
)

OPTIONS = (("grpc.max_receive_message_length", 16 << 20),)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Method:
    """One call: what it takes, and how it is made."""

    request: type[Any]
    call: Any


class Calls:
    """Everything that an operator can ask a controller, over one connection.

    Args:
        connection: The way to the controller.
        timeout_s: Within which it must have answered.
    """

    def __init__(self, connection: Connection, *, timeout_s: float) -> None:
        self._address, self._timeout_s = connection.address, timeout_s
        self._channel = connection.aio_channel(OPTIONS)
        self._methods = {
            f"{service.name}/{method.name}": self._method(service.full_name, method)
            for service in SERVICES
            for method in service.methods
        }

    async def call(self, name: str, body: bytes, *, authorization: str | None) -> str:
        """What the controller answers, as JSON.

        Args:
            name: SERVICE/METHOD.
            body: The request as JSON.
            authorization: Whose call it is: the header as it came.

        Raises:
            HTTPProblem: There is no such call, or the body is no request of it.
            ForerunError: As the controller refuses it.
        """
        method = self._methods.get(name)
        if method is None:
            raise HTTPProblem(404, f"there is no call {name}; known: {', '.join(self._methods)}", code="unknown_call")
        request = _parsed(body, method.request())
        metadata = (("authorization", _printable(authorization)),) if authorization is not None else ()
        with status_to_errors(self._address):
            response = await method.call(request, timeout=self._timeout_s, metadata=metadata)
        return json_format.MessageToJson(
            response, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=None
        )

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    def _method(self, service: str, method: Any) -> _Method:
        request, response = (message_factory.GetMessageClass(kind) for kind in (method.input_type, method.output_type))
        call = self._channel.unary_unary(
            f"/{service}/{method.name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return _Method(request=request, call=call)


def _parsed(body: bytes, request: Any) -> Any:
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise HTTPProblem(400, "the body must be a JSON object", code="invalid_json")
    try:
        return json_format.ParseDict(fields, request)
    except json_format.ParseError as error:
        raise HTTPProblem(400, f"the body is no {request.DESCRIPTOR.name}: {error}", code="invalid_value") from None


def _printable(header: str) -> str:
    if not (header.isascii() and header.isprintable()):
        raise HTTPProblem(400, "authorization: must be printable ASCII", param="authorization", code="invalid_value")
    return header
