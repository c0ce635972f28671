"""Which request a piece of work is for: what every line of the log says without being told by whoever writes it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Correlation:
    """What lines about one request have in common.

    Attributes:
        request_id: The caller's name for it, or ours; empty: it is for no request.
        trace_id: Of its trace, as W3C Trace Context writes it; empty: nobody named one.
    """

    request_id: str = ""
    trace_id: str = ""


NO_REQUEST = Correlation()

_CURRENT: ContextVar[Correlation] = ContextVar("correlation", default=NO_REQUEST)


def correlation() -> Correlation:
    """Of the work under way."""
    return _CURRENT.get()


def correlate(what: Correlation) -> None:
    """From now on this task, and those begun by it, are for that request."""
    _CURRENT.set(what)


@contextmanager
def correlated(what: Correlation) -> Iterator[None]:
    """The body, and the tasks begun in it, are for that request."""
    token = _CURRENT.set(what)
    try:
        yield
    finally:
        _CURRENT.reset(token)
