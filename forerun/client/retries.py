"""When a call that failed is worth another attempt, and when repeating it would only make things worse."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from speculation.errors import QuotaError
from speculation.rpc import error_of, retry_after_s

JITTER = 0.2
"""Pauses are longer by up to this share, so that callers who were refused together do not come back together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and after what pauses, a call is repeated that no controller took.

    Only UNAVAILABLE, and RESOURCE_EXHAUSTED that says when to call again (RetryInfo), are retried, and only before the
    first delta: afterwards the caller has seen text of an unknown seed. A pause is never shorter than what the refusal
    asked for; if that is later than the deadline, the refusal is raised at once.

    All calls of a client share a budget, as in gRPC's retry throttling (gRFC A6): it starts full, a failure takes one
    token, an answer gives `budget_refill` back, and while half of it is gone nothing is repeated. So a service in
    trouble is not asked several times for everything. What a tenant's quota refuses takes none: it tells of no trouble.

    Attributes:
        attempts: Most calls in all.
        first_pause_s: Before the second call, in seconds; up to a fifth longer, by chance.
        factor: By which every further pause is longer.
        refusals: Whether refusals are waited out at all; without it they are raised for the caller to wait.
        budget: Tokens of a full budget; half of them are failures that are repeated.
        budget_refill: Tokens that an answer gives back: repetitions for each answer, in the long run.
    """

    attempts: int = 4
    first_pause_s: float = 0.1
    factor: float = 3.0
    refusals: bool = True
    budget: float = 20.0
    budget_refill: float = 0.1

    def pauses(self) -> Iterator[float]:
        """Seconds before each repetition."""
        for attempt in range(self.attempts - 1):
            yield self.first_pause_s * self.factor**attempt


USUAL = Retry()


class Retries:
    """The repetitions of one client: what its calls may still spend on them. Threads that count at the same moment may
    lose a token; the budget is a brake and no ledger."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self._tokens = retry.budget

    def answered(self) -> None:
        """A call got its answer."""
        self._tokens = min(self.retry.budget, self._tokens + self.retry.budget_refill)

    def asked_pause_s(self, error: grpc.RpcError, peer: str) -> float | None:
        """The least pause before a call that failed like this is repeated; None: it is not to be."""
        code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
        wanted_s = retry_after_s(error)
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and wanted_s is not None and self.retry.refusals
        if refused and isinstance(error_of(error, peer), QuotaError):
            return wanted_s
        if not (refused or code is grpc.StatusCode.UNAVAILABLE):
            return None
        self._tokens = max(0.0, self._tokens - 1.0)
        return wanted_s or 0.0 if self._tokens > self.retry.budget / 2 else None


def with_jitter(pause_s: float) -> float:
    """A pause that is longer by chance."""
    return pause_s * (1.0 + JITTER * random.random())
