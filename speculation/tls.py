"""Who is at the other end of a connection: certificates from PEM files, followed when they change."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from speculation.errors import ConfigurationError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PemFile:
    """A file, and the setting that names it."""

    field: str
    path: Path

    def read(self) -> bytes:
        """What it says now.

        Raises:
            ConfigurationError: It cannot be read.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ConfigurationError(self.field, f"{self.path} cannot be read: {error.strerror}") from error

    @property
    def stamp(self) -> tuple[int, ...]:
        """Another one whenever the file has been written or replaced; empty while there is none."""
        try:
            found = self.path.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino


@dataclass(frozen=True, slots=True)
class Pem:
    """What one side of a connection shows, and by whom the other side must have been signed; None: by nobody."""

    certificate: bytes
    key: bytes
    ca: bytes | None


class Certificates:
    """What a process shows and demands, as its files are now. Files that do not fit together change nothing.

    Raises:
        ConfigurationError: A file cannot be read, or is not what it should be; names the setting.
    """

    def __init__(self, *, certificate: PemFile, key: PemFile, ca: PemFile | None = None) -> None:
        self._certificate, self._key, self._ca = certificate, key, ca
        # Before the first look into the files: one that changes meanwhile is read again.
        self._stamps = self._stamps_now()
        self._pem = self._read()

    def current(self) -> Pem:
        """The same object for as long as the files do not change. Costs a few `stat` calls."""
        stamps = self._stamps_now()
        if stamps != self._stamps:
            self._stamps = stamps
            try:
                self._pem = self._read()
            except ConfigurationError as error:
                # Whoever replaces several files does so one after the other: the last one brings us here again.
                logger.warning("certificates refused, those in use stay: %s", error)
            else:
                logger.info("certificates read: %s", self._certificate.path)
        return self._pem

    def _stamps_now(self) -> tuple[tuple[int, ...], ...]:
        return tuple(file.stamp for file in (self._certificate, self._key, self._ca) if file is not None)

    def _read(self) -> Pem:
        certificate, key = self._certificate.read(), self._key.read()
        ca = self._ca.read() if self._ca is not None else None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(self._certificate.path, self._key.path, password="")
        except (OSError, ValueError) as error:
            problem = f"{self._key.path} is not the unencrypted key of {self._certificate.path}: {error}"
            raise ConfigurationError(self._key.field, problem) from error
        if self._ca is not None:
            _check_authority(context, self._ca)
        return Pem(certificate, key, ca)


def _check_authority(context: ssl.SSLContext, ca: PemFile) -> None:
    try:
        context.load_verify_locations(ca.path)
    except OSError as error:
        raise ConfigurationError(ca.field, f"{ca.path} holds no certificate: {error}") from error


def _server_credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """For one port, as a second one would find what it begins with taken. Every new connection meets the certificates
    as they are then, and shows one itself if there is a CA to hold it against; those that stand are left alone.
    """
    given = certificates.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        now = certificates.current()
        if now is given:
            return None
        given = now
        return _configuration(now)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        renewed,  # type: ignore[arg-type]  # the stubs do not know that None means no change
        require_client_authentication=given.ca is not None,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.ca)


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    """For a channel whose other end must be signed by the CA, and to which we show our certificate."""
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.certificate)


def add_port(server: grpc.aio.Server, listen: str, certificates: Certificates | None) -> int:
    """Let a server listen; the port it takes.

    Args:
        server: Which.
        listen: host:port; port 0 takes a free one.
        certificates: What callers are shown, and must show; None: plain text.

    Raises:
        ConfigurationError: It cannot listen there.
    """
    try:
        if certificates is not None:
            return server.add_secure_port(listen, _server_credentials(certificates))
        return server.add_insecure_port(listen)
    except RuntimeError as error:
        raise ConfigurationError("listen", f"cannot listen on {listen}: {error}") from error
