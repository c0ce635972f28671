"""How a controller is reached: over TLS or not, and with which token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from speculation.errors import ConfigurationError
from speculation.exposure import is_loopback
from speculation.tls import PemFile

SYSTEM = "system"
"""In place of a file: the authorities that gRPC trusts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A way to a controller.

    Attributes:
        address: host:port.
        credentials: None: plain text.
        metadata: What every call carries.
    """

    address: str
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]

    @classmethod
    def to(
        cls,
        address: str,
        *,
        token: str | None = None,
        ca: str | Path | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> Self:
        """The way to an address.

        Raises:
            ConfigurationError: The file of the CA cannot be read, or the token would be sent in plain text.
        """
        if ca is not None:
            roots = None if ca == SYSTEM else PemFile("ca", Path(ca)).read()
            credentials = grpc.ssl_channel_credentials(roots)
        if token and credentials is None and not is_loopback(address):
            raise ConfigurationError(
                "token", f"would travel in plain text to {address}: name the ca of its certificate"
            )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return cls(address=address, credentials=credentials, metadata=metadata)

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """For calls that wait with threads."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(self.address, self.credentials, options=options)

    def aio_channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """For calls that wait with asyncio."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, options=options)
        return grpc.aio.secure_channel(self.address, self.credentials, options=options)
