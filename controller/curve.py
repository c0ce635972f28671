"""How fast requests were, one after another, since the controller began: few points, however many requests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import time_ns

from controller.rounds_sum import RoundsSum

MOST_POINTS = 128
"""Beyond that two neighbours become one."""


@dataclass(slots=True, kw_only=True)
class CurvePoint:
    """Requests that ended one after another.

    Attributes:
        requests: How many.
        until_ms: When the last of them ended, Unix time.
        drafting: What their rounds came to in which something was drafted.
        plain: What the others did.
        learnt_records: Records learnt from by then, since the promotion of `base_version`.
        base_version: The promoted version that the learning went on from; 0 for none.
    """

    requests: int = 0
    until_ms: int = 0
    drafting: RoundsSum = field(default_factory=RoundsSum)
    plain: RoundsSum = field(default_factory=RoundsSum)
    learnt_records: int = 0
    base_version: int = 0

    def merge(self, later: "CurvePoint") -> None:
        """Take in the requests that ended next."""
        self.requests += later.requests
        self.until_ms = later.until_ms
        self.drafting.merge(later.drafting)
        self.plain.merge(later.plain)
        self.learnt_records, self.base_version = later.learnt_records, later.base_version


class LearningCurve:
    """Requests in the order in which they ended, so many to a point that there are never too many points.

    Attributes:
        points: The oldest first; all but the last are of as many requests.
        learnt: Tells how many records have been learnt from, and since which version.
    """

    def __init__(self) -> None:
        self.points: list[CurvePoint] = []
        self.learnt: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._requests_a_point = 1

    def add(self, drafting: RoundsSum, plain: RoundsSum) -> None:
        """A request has ended, whose rounds came to this."""
        if not self.points or self.points[-1].requests >= self._requests_a_point:
            self._make_room()
            self.points.append(CurvePoint())
        records, version = self.learnt()
        ended = CurvePoint(requests=1, until_ms=time_ns() // 1_000_000, learnt_records=records, base_version=version)
        ended.drafting.merge(drafting)
        ended.plain.merge(plain)
        self.points[-1].merge(ended)

    def _make_room(self) -> None:
        if len(self.points) < MOST_POINTS:
            return
        self._requests_a_point *= 2
        for point, later in zip(self.points[::2], self.points[1::2], strict=True):
            point.merge(later)
        del self.points[1::2]
