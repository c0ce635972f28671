"""Keeps retries a small share of calls: whoever is down must not be called several times as often as when it works."""

from threading import Lock


class RetryBudget:
    """A bucket into which every call puts a part of a retry, and from which every retry takes a whole one.

    Where calls mostly work, it is full and every retry is allowed; where they mostly fail, retries are that share of
    the calls and no more. (Finagle's `RetryBudget`; gRPC's `retryThrottling`, A6, counts failures against successes.)
    May be used by several threads.

    Attributes:
        denied: Retries that were not allowed.
    """

    def __init__(self, *, share: float, reserve: int) -> None:
        """
        Args:
            share: Retries a call, in the long run.
            reserve: Retries in the bucket at the beginning, and at most.
        """
        self._share, self._most = share, float(reserve)
        self._left = float(reserve)
        self._lock = Lock()
        self.denied = 0

    def called(self) -> None:
        """A call that is no retry was made."""
        with self._lock:
            self._left = min(self._most, self._left + self._share)

    def allows(self) -> bool:
        """Whether one more retry may be made; then it is counted."""
        with self._lock:
            allowed = self._left >= 1.0
            if allowed:
                self._left -= 1.0
            else:
                self.denied += 1
            return allowed
