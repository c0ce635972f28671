"""Which worker is far slower than its peers: one that answers, and its health checks too, and is yet no good.

Its pace is compared with the median of the others of its name: with two of them that is the other one. (Outlier
detection as in Envoy and gRPC A50, on how long exchanges take instead of on how they end: a worker that fails is
ejected at once.)
"""

from collections.abc import Iterable
from statistics import median

EXCHANGES = 20
"""How many say something of a worker; as many must go well until one that was ejected is trusted again."""

NEWEST = 0.1
"""Weight of the newest exchange in the mean."""

LEAST_S = 0.02
"""Nobody is ejected for less: where exchanges take a millisecond, four of them are noise."""


class Pace:
    """How long a worker's exchanges take lately."""

    def __init__(self) -> None:
        self._mean_s = 0.0
        self._exchanges = 0

    @property
    def mean_s(self) -> float | None:
        """Seconds an exchange; None while too few were seen."""
        return self._mean_s if self._exchanges >= EXCHANGES else None

    def add(self, took_s: float) -> None:
        """One more exchange."""
        self._exchanges += 1
        self._mean_s += (took_s - self._mean_s) * max(NEWEST, 1 / self._exchanges)

    @property
    def may_be_outlier(self) -> bool:
        """Whether there is anything to hold against its peers: it is known, and not so fast that nobody minds."""
        return self.mean_s is not None and self.mean_s > LEAST_S

    def is_outlier(self, peers: "Iterable[Pace]", *, factor: float) -> bool:
        """Whether it is this many times slower than the median of its peers."""
        known = [peer.mean_s for peer in peers if peer.mean_s is not None]
        if self.mean_s is None or not known:
            return False
        return self.mean_s > max(factor * median(known), median(known) + LEAST_S)
