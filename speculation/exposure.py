"""Who can reach an address: plain text is for where nobody else can listen."""

import ipaddress

from speculation.errors import ConfigurationError


def is_loopback(address: str) -> bool:
    """Whether host:port can be reached from this machine alone. A name other than localhost may mean anything."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_protection(listen: str, *, protected: bool, insecure: bool, remedy: str) -> None:
    """Refuse to serve other machines in plain text unless somebody said that this is meant.

    Raises:
        ConfigurationError: The address can be reached from elsewhere.
    """
    if not (protected or insecure or is_loopback(listen)):
        raise ConfigurationError(
            "listen", f"other machines can reach {listen}, and nothing would protect what travels there: {remedy}"
        )
