"""When a call that failed is worth another attempt, and when repeating it would only make things worse."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import grpc

from speculation.errors import QuotaError
from speculation.retry_budget import RetryBudget
from speculation.rpc import error_of, retry_after_s

JITTER = 0.2
"""Pauses are longer by up to this share, so that callers who were refused together do not come back together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, and after what pauses, a call is repeated that no controller took.

    Only UNAVAILABLE, and RESOURCE_EXHAUSTED that says when to call again (RetryInfo), are retried, and only before the
    first delta: afterwards the caller has seen text of an unknown seed. A pause is never shorter than what the refusal
    asked for; if that is later than the deadline, the refusal is raised at once.

    All calls of a client share a budget (speculation/retry_budget.py), so that a service in trouble is not asked
    several times for everything. What a tenant's quota refuses takes nothing from it: it tells of no trouble.

    Attributes:
        attempts: Most calls in all.
        first_pause_s: Before the second call, in seconds; up to a fifth longer, by chance.
        factor: By which every further pause is longer.
        refusals: Whether refusals are waited out at all; without it they are raised for the caller to wait.
        share: Most repetitions, as a share of the client's calls.
        reserve: Repetitions that are allowed beyond that, until there were calls enough again.
    """

    attempts: int = 4
    first_pause_s: float = 0.1
    factor: float = 3.0
    refusals: bool = True
    share: float = 0.1
    reserve: int = 10

    def pauses(self) -> Iterator[float]:
        """Seconds before each repetition."""
        for attempt in range(self.attempts - 1):
            yield self.first_pause_s * self.factor**attempt


USUAL = Retry()


class Retries:
    """The repetitions of one client: what its calls may still spend on them."""

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self._budget = RetryBudget(share=retry.share, reserve=retry.reserve)

    def called(self) -> None:
        """A call was made for the first time."""
        self._budget.called()

    def asked_pause_s(self, error: grpc.RpcError, peer: str) -> float | None:
        """The least pause before a call that failed like this is repeated; None: it is not to be."""
        code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
        wanted_s = retry_after_s(error)
        refused = code is grpc.StatusCode.RESOURCE_EXHAUSTED and wanted_s is not None and self.retry.refusals
        if refused and isinstance(error_of(error, peer), QuotaError):
            return wanted_s
        if not (refused or code is grpc.StatusCode.UNAVAILABLE):
            return None
        return wanted_s or 0.0 if self._budget.allows() else None


def with_jitter(pause_s: float) -> float:
    """A pause that is longer by chance."""
    return pause_s * (1.0 + JITTER * random.random())
