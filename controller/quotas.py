"""What each tenant may use: requests at once, requests a minute, tokens a minute."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from speculation.errors import QuotaError

MOST_TENANTS = 10_000
"""Without tokens a tenant is whatever a caller says: the one that called longest ago is forgotten."""

PAUSE_S = 1.0
"""When to call again if all places of a tenant are taken: nobody knows when one is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What every tenant may use that the pattern matches (`fnmatch`, case matters); None: no limit, any tenant.

    Attributes:
        tenant: The pattern.
        requests_at_once: Most requests inside.
        requests_per_minute: Most requests begun, over a minute; as many may come at once.
        tokens_per_minute: Most tokens, of prompts and answers together, likewise.
    """

    tenant: str | None = None
    requests_at_once: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def matches(self, tenant: str) -> bool:
        """Whether it is about that tenant."""
        return self.tenant is None or fnmatchcase(tenant, self.tenant)


UNLIMITED = Quota()


@dataclass(slots=True)
class Meter:
    """A token bucket seen from its bottom: what was taken drains at a constant rate, and a minute's worth has room.

    So a meter that nobody has used is the same as a new one, whatever the rate. (The "continuous-state leaky bucket" of
    ITU-T I.371, annex A.)
    """

    taken: float = 0.0
    at: float = 0.0

    def wait_s(self, amount: float, *, per_minute: float, now: float) -> float:
        """Seconds until there is room; 0: there is. What is more than a minute's worth may go when nothing is left."""
        self.taken = max(0.0, self.taken - (now - self.at) * per_minute / 60)
        self.at = now
        return max(0.0, self.taken + min(amount, per_minute) - per_minute) * 60 / per_minute

    def take(self, amount: float) -> None:
        """Take it; a negative amount is given back."""
        self.taken = max(0.0, self.taken + amount)


@dataclass(slots=True)
class _Tenant:
    inside: int = 0
    requests: Meter = field(default_factory=Meter)
    tokens: Meter = field(default_factory=Meter)


class Visit:
    """One request inside, and the tokens set aside for it."""

    def __init__(self, name: str, quota: Quota, tenant: _Tenant, now: Callable[[], float]) -> None:
        self._name = name
        self._quota = quota
        self._tenant = tenant
        self._now = now
        self._reserved = 0

    def reserve(self, tokens: int) -> None:
        """Set aside what the request can use at most: what is not used comes back.

        Raises:
            QuotaError: It has to wait for that.
        """
        granted = self._quota.tokens_per_minute
        if granted is not None:
            wait_s = self._tenant.tokens.wait_s(tokens, per_minute=granted, now=self._now())
            if wait_s:
                raise QuotaError(self._name, "tokens_per_minute", granted, wait_s)
            self._tenant.tokens.take(tokens)
            self._reserved = tokens

    def used(self, tokens: int) -> None:
        """So much it was in the end."""
        self._tenant.tokens.take(min(0, tokens - self._reserved))


class Quotas:
    """Counts what tenants use. The first quota that matches a tenant holds for it, alone; each tenant has its own."""

    def __init__(self, quotas: tuple[Quota, ...] = (), *, now: Callable[[], float] = time.monotonic) -> None:
        self._quotas = quotas
        self._now = now
        self._tenants: dict[str, _Tenant] = {}

    def __len__(self) -> int:
        """Tenants that are remembered."""
        return len(self._tenants)

    def obey(self, quotas: tuple[Quota, ...]) -> None:
        """Other quotas, for requests to come; what was used stays used."""
        self._quotas = quotas

    @contextmanager
    def visit(self, name: str) -> Iterator[Visit]:
        """A place for one request of a tenant.

        Raises:
            QuotaError: It has to wait for that.
        """
        quota = next((one for one in self._quotas if one.matches(name)), UNLIMITED)
        tenant = _Tenant() if quota == UNLIMITED else self._tenant(name)
        self._enter(name, quota, tenant)
        try:
            yield Visit(name, quota, tenant, self._now)
        finally:
            tenant.inside -= 1

    def _enter(self, name: str, quota: Quota, tenant: _Tenant) -> None:
        places, rate = quota.requests_at_once, quota.requests_per_minute
        if places is not None and tenant.inside >= places:
            raise QuotaError(name, "requests_at_once", places, PAUSE_S)
        if rate is not None:
            wait_s = tenant.requests.wait_s(1, per_minute=rate, now=self._now())
            if wait_s:
                raise QuotaError(name, "requests_per_minute", rate, wait_s)
            tenant.requests.take(1)
        tenant.inside += 1

    def _tenant(self, name: str) -> _Tenant:
        """What a tenant has used; it is the last one to be forgotten now."""
        tenant = self._tenants[name] = self._tenants.pop(name, _Tenant())
        if len(self._tenants) > MOST_TENANTS:
            # Whoever has a request inside stays, lest it be counted twice; of those there are never many.
            forgotten = next((one for one, state in self._tenants.items() if not state.inside and one != name), None)
            if forgotten is not None:
                del self._tenants[forgotten]
        return tenant
