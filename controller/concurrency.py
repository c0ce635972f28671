"""How many requests run at once: as many as the fleet has slots for, and fewer while it is strained.

Two signs of strain are looked for in windows of a second: rounds that wait for the target's engine much longer than a
forward takes (they find no room in the next one, or no slot: another controller uses the fleet, too), and answers of a
class with an objective that are slower than it. The number is then cut, and grows again by one a window: additive
increase, multiplicative decrease (Chiu and Jain 1989), which lets several controllers come to equal shares of a fleet
without knowing of each other; with the constants of `AIMDLimit` in Netflix's concurrency-limits.

That latency grows with the number of requests is no sign: in a batch it always does, and tokens a second grow with it.
So gradients of latency (Envoy's adaptive concurrency, TCP Vegas) would keep batches small.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from controller.generation import Round

CUT = 0.9
WINDOW_S = 1.0
LEAST_ROUNDS = 16

MOST_FORWARDS_WAITED = 2.0
"""In the mean. A round waits for the forward that runs when it comes, which is one at most."""

MS_PER_NS = 1e-6


@dataclass(slots=True)
class _Window:
    """What was seen since `began`."""

    began: float
    rounds: int = 0
    waited_ns: float = 0.0
    forward_ns: float = 0.0
    took_ms: float = 0.0
    allowed_ms: float = 0.0
    most_running: int = 0

    @property
    def strained(self) -> bool:
        return self.waited_ns > MOST_FORWARDS_WAITED * self.forward_ns or self.took_ms > self.allowed_ms


class ConcurrencyLimit:
    """How many requests may run at once, now.

    Attributes:
        most: What the operator allows.
        adaptive: Whether it is lowered while the fleet is strained.
    """

    def __init__(
        self,
        most: int,
        *,
        adaptive: bool = True,
        slots: Callable[[], int] = lambda: 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            most: What the operator allows.
            adaptive: See above.
            slots: Sessions for which targets that serve have room; 0 while none serves.
            now: A clock, in seconds.
        """
        self.most = most
        self.adaptive = adaptive
        self._slots = slots
        self._last_slots = 0
        self._share = 1.0
        self._now = now
        self._window = _Window(now())

    @property
    def ceiling(self) -> int:
        """What it is while nothing is strained; where the only target is away for a moment, what it was."""
        self._last_slots = self._slots() or self._last_slots
        return min(self.most, self._last_slots) if self._last_slots else self.most

    @property
    def value(self) -> int:
        """The limit."""
        ceiling = self.ceiling
        return max(1, int(self._share * ceiling + 1e-9)) if self.adaptive else ceiling

    def note(self, done: Round, *, objective_ms: float | None, running: int) -> bool:
        """Be told of a round, of what its class wants a token to take, and of how many requests run.

        Returns:
            Whether the limit may be another one now.
        """
        window, timings = self._window, done.outcome.verdict.timings
        window.rounds += 1
        window.waited_ns += timings.queue_ns
        window.forward_ns += timings.compute_ns / max(1, timings.forwards)
        window.most_running = max(window.most_running, running)
        if objective_ms is not None:
            window.took_ms += done.outcome.timings.round_ns * MS_PER_NS
            window.allowed_ms += objective_ms * len(done.emitted)
        if window.rounds < LEAST_ROUNDS or self._now() - window.began < WINDOW_S:
            return False
        self._adapt(window)
        self._window = _Window(self._now())
        return True

    def _adapt(self, window: _Window) -> None:
        if window.strained:
            self._share = max(CUT * self._share, 1 / self.ceiling)
        elif 2 * window.most_running >= self.value:
            # Where it is not made use of, nothing is known of what more would do.
            self._share = min(1.0, self._share + 1 / self.ceiling)
