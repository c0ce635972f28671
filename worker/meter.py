"""Counts what an engine does, on the engine's thread: a few additions a forward."""

from collections.abc import Iterable

from speculation.metrics import Histogram

NS = 1e-9

FORWARD_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28)
BATCH = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (1, 4, 16, 64, 256, 512)


class EngineMeter:
    """Everything counted about forwards.

    Attributes:
        forward_time: Seconds of each.
        batch_sizes: Sessions that shared each.
        tokens: Tokens run in each.
        queue_time: Seconds from a call to its first forward.
        failed_forwards: That raised; each is repeated session by session.
    """

    def __init__(self) -> None:
        self.forward_time, self.queue_time = Histogram(FORWARD_S), Histogram(FORWARD_S)
        self.batch_sizes, self.tokens = Histogram(BATCH), Histogram(TOKENS)
        self.failed_forwards = 0

    def count(self, *, took_ns: int, batch_size: int, tokens: int, waited_ns: Iterable[int]) -> None:
        """Count a forward; `waited_ns` of those calls of which it is the first."""
        self.forward_time.observe(took_ns * NS)
        self.batch_sizes.observe(batch_size)
        self.tokens.observe(tokens)
        for waited in waited_ns:
            self.queue_time.observe(waited * NS)
