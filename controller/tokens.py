"""Who may call: tokens, of which a file holds nothing but hashes (`docs/security.md`)."""

import hashlib
import hmac
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AwareDatetime, Field, ValidationError

from controller.settings import Section
from controller.settings_file import parsed
from speculation.errors import AccessDeniedError, ConfigurationError, UnauthenticatedError
from speculation.tls import PemFile

logger = logging.getLogger(__name__)

LONGEST_TENANT = 64
SCHEME = "bearer "
PREFIX = "forerun_"
"""So that programs that look for leaked secrets can tell one."""
FINGERPRINT_DIGITS = 12

Metadata = Iterable[tuple[str, str | bytes]]


class Role(Enum):
    """What a token is for."""

    CALL = "call"
    """Answers."""
    OPERATE = "operate"
    """Everything: answers, too, and RouterService, which can show the texts of recent requests of all tenants."""

    def includes(self, other: "Role") -> bool:
        """Whether it may do what the other may."""
        return self is Role.OPERATE or other is Role.CALL


class TokenEntry(Section):
    """One token."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of its characters, in hexadecimal."""
    role: Role
    """call: answers. operate: RouterService, too."""
    tenant: Annotated[str, Field(max_length=LONGEST_TENANT)] = ""
    """For whom it speaks, and for nobody else. Absent: for the tenant without a name."""
    expires: AwareDatetime | None = None
    """From when on it is refused, with an offset: 2027-01-31T00:00:00Z. Absent: never."""


class TokenList(Section):
    """A file of tokens. It is read anew when it changes."""

    tokens: tuple[TokenEntry, ...]
    """All that are accepted."""


def hash_of(token: str) -> str:
    """What the file holds of a token. Tokens are 256 bits of chance, so a fast hash cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


def fingerprint_of(metadata: Metadata) -> str:
    """The first digits of the hash of a call's token, by which its line in the file can be found; empty without one."""
    try:
        return hash_of(_bearer(metadata))[:FINGERPRINT_DIGITS]
    except UnauthenticatedError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls."""

    role: Role
    tenant: str


class Tokens:
    """The tokens of a file, as it is now. A file that is wrong or gone changes nothing; an empty list locks all out.

    Raises:
        ConfigurationError: It is wrong at the start.
    """

    def __init__(self, file: Path, *, now: Callable[[], float] = time.time) -> None:
        self._file = PemFile("tokens", file)
        self._now = now
        self._stamp = self._file.stamp
        self._entries = self._read()

    def principal(self, metadata: Metadata) -> Principal:
        """Who the bearer of a call's token is.

        Raises:
            UnauthenticatedError: There is no token, or it is not valid now.
        """
        digest = hash_of(_bearer(metadata))
        # All of them, whichever fits: how long the search takes tells nothing.
        found = [entry for entry in self._current() if hmac.compare_digest(entry.sha256, digest)]
        if not found:
            raise UnauthenticatedError("the token is not known here")
        entry = found[0]
        if entry.expires is not None and entry.expires.timestamp() <= self._now():
            raise UnauthenticatedError("the token has expired")
        return Principal(role=entry.role, tenant=entry.tenant)

    def _current(self) -> tuple[TokenEntry, ...]:
        stamp = self._file.stamp
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._entries = self._read()
            except ConfigurationError as error:
                logger.warning("tokens refused, those in use stay", extra={"problem": str(error)})
            else:
                logger.info("tokens read", extra={"tokens": len(self._entries)})
        return self._entries

    def _read(self) -> tuple[TokenEntry, ...]:
        return parsed(self._file.read().decode(errors="replace"), self._file.path, TokenList).tokens


def new_token(file: Path, *, role: Role, tenant: str, expires: datetime | None) -> str:
    """A new token, whose hash is in the file from now on, and which is nowhere else.

    Raises:
        ConfigurationError: The tenant's name is too long, or the file is wrong, before or after the addition.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    try:
        entry = TokenEntry(sha256=hash_of(token), role=role, tenant=tenant, expires=expires)
    except ValidationError as error:
        raise ConfigurationError("--tenant", f"has more than {LONGEST_TENANT} characters") from error
    plain = {name: value for name, value in entry.model_dump(mode="json").items() if value not in ("", None)}
    line = "  - " + yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=sys.maxsize)
    try:
        before = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError("--file", f"{file} cannot be read: {error}") from error
    known = parsed(before, file, TokenList).tokens if before.strip() else ()
    after = before.rstrip("\n") + "\n" + line if known else "tokens:\n" + line
    parsed(after, file, TokenList)
    _replace(file, after)
    return token


def _replace(file: Path, text: str) -> None:
    """At once, so that no controller reads half of it, and for its owner's eyes."""
    beside = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            opened.write(text)
        beside.replace(file)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigurationError("--file", f"{file} cannot be written: {error.strerror}") from error


def _bearer(metadata: Metadata) -> str:
    given = [value for key, value in metadata if key == "authorization"]
    if len(given) != 1 or not isinstance(given[0], str) or not given[0].lower().startswith(SCHEME):
        raise UnauthenticatedError("a token is needed: metadata `authorization`, once, with `Bearer TOKEN`")
    return given[0][len(SCHEME) :].strip()


def tenant_of(principal: Principal, claimed: str) -> str:
    """For whom a request is: what its token says, and the request may say it again.

    Raises:
        AccessDeniedError: It says something else: to share caches and quotas of others is to learn about them.
    """
    if claimed not in ("", principal.tenant):
        raise AccessDeniedError(f"the token does not speak for tenant {claimed!r}", {"field": "tenant"})
    return principal.tenant
