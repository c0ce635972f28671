"""How a controller or a worker is reached: over TLS or not, showing what.

It loads no more than gRPC: probes of containers begin with it, every few seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from speculation.errors import ConfigurationError
from speculation.exposure import is_loopback
from speculation.tls import Certificates, PemFile

SYSTEM = "system"
"""In place of a file: the authorities that gRPC trusts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """A way to a controller or a worker.

    Attributes:
        address: host:port.
        credentials: None: plain text.
        metadata: What every call carries.
        server_name: The name in the other side's certificate, where it is not the address's host.
    """

    address: str
    credentials: grpc.ChannelCredentials | None
    metadata: tuple[tuple[str, str], ...]
    server_name: str | None = None

    @classmethod
    def to(
        cls,
        address: str,
        *,
        token: str | None = None,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        server_name: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> Self:
        """The way to an address.

        Args:
            address: host:port.
            token: To be shown by every call.
            ca: PEM file of those who may have signed the other side's certificate, or SYSTEM. None: plain text.
            cert: PEM file of our own certificate and its unencrypted key, to be shown; None: none.
            key: PEM file of that key, if it is not in the same.
            server_name: The name in the other side's certificate; None: the host of the address.
            credentials: In place of `ca` and `cert`.

        Raises:
            ConfigurationError: A file cannot be read or is not what it should be, or something would be sent in plain
                text that must not be.
        """
        if ca is not None:
            credentials = _credentials(ca, cert, key)
        elif cert or key or server_name:
            field = "cert" if cert else "key" if key else "server_name"
            raise ConfigurationError(field, "is for TLS: name the ca of the other side, too")
        if token and credentials is None and not is_loopback(address):
            raise ConfigurationError(
                "token", f"would travel in plain text to {address}: name the ca of its certificate"
            )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return cls(address=address, credentials=credentials, metadata=metadata, server_name=server_name)

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """For calls that wait with threads."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, options=options)
        return grpc.secure_channel(self.address, self.credentials, options=self._named(options))

    def aio_channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
        """For calls that wait with asyncio."""
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.address, options=options)
        return grpc.aio.secure_channel(self.address, self.credentials, options=self._named(options))

    def _named(self, options: Sequence[tuple[str, Any]]) -> Sequence[tuple[str, Any]]:
        return options if not self.server_name else (*options, ("grpc.ssl_target_name_override", self.server_name))


def _credentials(ca: str | Path, cert: str | Path | None, key: str | Path | None) -> grpc.ChannelCredentials:
    roots = None if ca == SYSTEM else PemFile("ca", Path(ca)).read()
    if cert is None:
        if key is not None:
            raise ConfigurationError("cert", "is missing: a key is shown with its certificate")
        return grpc.ssl_channel_credentials(roots)
    files = Certificates(
        certificate=PemFile("cert", Path(cert)), key=PemFile("key", Path(key)) if key else PemFile("cert", Path(cert))
    )
    content = files.current()
    return grpc.ssl_channel_credentials(roots, content.key, content.certificate)
