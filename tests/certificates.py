"""Certificates as an operator would make them, with keys that last for one test."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Into files, one after the other, as most people do it."""
        certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
        certificate.write_bytes(self.certificate)
        key.write_bytes(self.key)
        return certificate, key


class Authority:
    """Somebody whose word is taken."""

    def __init__(self, name: str = "authority") -> None:
        self._name = _named(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = _unsigned(self._name, self._name, self._key.public_key(), ends=datetime.now(UTC) + DAY)
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.pem = own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def pair(self, name: str = "127.0.0.1", *, expired: bool = False) -> Pair:
        """A certificate for a host or an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        ends = datetime.now(UTC) + (-DAY if expired else DAY)
        try:
            known_as: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            known_as = x509.DNSName(name)
        unsigned = _unsigned(self._name, _named(name), key.public_key(), ends=ends)
        unsigned = unsigned.add_extension(x509.SubjectAlternativeName([known_as]), critical=False)
        return Pair(
            unsigned.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
        )

    def write(self, folder: Path, name: str = "ca") -> Path:
        """Its own certificate into a file."""
        file = folder / f"{name}.pem"
        file.write_bytes(self.pem)
        return file

    def channel(self, address: str, shown: Pair | None = None) -> grpc.aio.Channel:
        """A way to whom it has signed for, showing a certificate or none."""
        credentials = grpc.ssl_channel_credentials(
            self.pem, shown.key if shown else None, shown.certificate if shown else None
        )
        return grpc.aio.secure_channel(address, credentials)


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _unsigned(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, ends: datetime
) -> x509.CertificateBuilder:
    return x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=key,
        serial_number=x509.random_serial_number(),
        not_valid_before=ends - 10 * DAY,
        not_valid_after=ends,
    )
