"""Forwards as spans: which of them served a call that is traced, and with whom it shared them.

The engine's thread only notes them. Spans are made of the notes on the event loop, where nobody waits for a forward.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from opentelemetry.trace import Link

from speculation.tracing import Place, record


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedForward:
    """One forward, as one of those who shared it sees it.

    Attributes:
        began_ns: When it began, by `time.perf_counter_ns`.
        ended_ns: When it had ended.
        batch_size: Calls that shared it, this one included.
        batch_positions: Positions at which it told the next token, of all of them.
        beside: Where the other calls belong, of those that are traced.
    """

    began_ns: int
    ended_ns: int
    batch_size: int
    batch_positions: int
    beside: Sequence[Place]


@dataclass(slots=True)
class ForwardNotes:
    """The forwards of one call.

    Attributes:
        place: Where the call belongs.
        forwards: So far.
    """

    place: Place
    forwards: list[SharedForward] = field(default_factory=list)

    def tell(self) -> None:
        """Make spans of them, below that of the call."""
        for forward in tuple(self.forwards):
            record(
                self.place,
                "forward",
                began_ns=forward.began_ns,
                ended_ns=forward.ended_ns,
                attributes={
                    "forerun.batch_size": forward.batch_size,
                    "forerun.batch_positions": forward.batch_positions,
                },
                links=[Link(other.span.get_span_context()) for other in forward.beside],
            )


def note(calls: Sequence[ForwardNotes | None], *, began_ns: int, batch_positions: int) -> None:
    """Tell those who are traced of a forward that has just ended; there is an entry for each call that shared it."""
    traced = [call for call in calls if call is not None]
    for call in traced:
        call.forwards.append(
            SharedForward(
                began_ns=began_ns,
                ended_ns=time.perf_counter_ns(),
                batch_size=len(calls),
                batch_positions=batch_positions,
                beside=[other.place for other in traced if other is not call],
            )
        )
