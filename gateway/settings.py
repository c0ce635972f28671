"""How one gateway is set: what `python -m gateway` takes as options."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from speculation.logs import LogFormat

Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class HTTPSettings(BaseModel):
    """What stands before a controller and speaks HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    controller: Address = "127.0.0.1:50050"
    """host:port of the controller."""
    ca: Annotated[str, Field(min_length=1)] | None = None
    """PEM file of those who sign the certificate of a controller with TLS, or system (default: plain text)"""
    cert: Path | None = None
    """PEM file of a certificate and its unencrypted key, for a controller that asks callers for one"""
    server_name: Annotated[str, Field(min_length=1)] | None = None
    """the name in the controller's certificate, where it is not the host of its address"""
    listen: Address = "127.0.0.1:8000"
    """host:port; loopback unless you name another host; port 0 takes a free one"""
    insecure: bool = False
    """true to serve other machines in plain text; better is a proxy before it that speaks TLS"""
    longest_body_bytes: Count = 4 << 20
    """bytes of a request's body; the controller takes messages of up to 16 MiB"""
    most_header_bytes: Count = 32 << 10
    """bytes of a request's headers"""
    headers_within_s: Seconds = 10.0
    """seconds in which a request's headers must have come"""
    body_within_s: Seconds = 30.0
    """seconds in which its body must have come after them"""
    idle_s: Count = 30
    """seconds that a connection may stay open between two requests"""
    longest_request_s: Seconds = 600.0
    """seconds in which an answer must be complete"""
    most_connections: Count = 1024
    """connections at once; requests on more are answered 503"""
    drain_grace_s: Count = 30
    """seconds that running requests may go on after SIGTERM"""
    log_format: LogFormat | None = None
    """of the log on stderr: json, or text for people (default: json)"""


class GatewaySettings(HTTPSettings):
    """One gateway."""

    model_name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """what callers call the target's model (default: its hub id, or the name of its folder)"""
