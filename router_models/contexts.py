"""In which company an observation is kept: from all drafters that read the prompt alike down to one request."""

from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache

from router_models.policy import RoundContext
from router_models.turns import STRAIGHT, Turn

SURPRISAL_STEPS = (0.0, 0.02, 0.1, 0.3, 0.8, 1.5)
"""Nats per token by which a drafter may be more surprised by the prompt than the one that is at home there, which is in
a class of its own."""

Key = tuple[Hashable, ...]
Path = Sequence[Key]
"""Keys from the coarsest level to the finest."""
Paths = tuple[Path, ...]

TURNED = "turned"
"""In place of a surprisal, where the prompt says no more about the answer."""

KIND = 2
"""Length of a key of all subjects: who drafts, and whether the target samples."""

LEVELS = 4
"""Of a path; the finest is the request itself."""


def path_of(context: RoundContext, drafter: str, home: str = "", turn: Turn = STRAIGHT) -> Path:
    """How surprised a drafter is (a new one starts there), which one it is, the subject, the request.

    The subject is the task that the caller names, else the drafter that is at home in the prompt: a drafter that read
    everything does not do everything equally well. Once the answer has turned to something else, its prompt says no
    more about it: the subject is then what comes after the drafter that was right so far.

    Args:
        context: Of the round.
        drafter: Which one.
        home: See router_models/homes.py; empty if nobody has read the prompt.
        turn: Where the answer stands.
    """
    return _paths_at(context, (drafter,), home, turn)[0]


def paths_of(context: RoundContext, home: str = "", turn: Turn = STRAIGHT) -> Paths:
    """Of every drafter on offer: one object for all rounds of a request in which nothing of it changes."""
    return _paths_at(context, context.drafters, home, turn)


def _paths_at(context: RoundContext, drafters: tuple[str, ...], home: str, turn: Turn) -> Paths:
    sampled = context.temperature > 0
    if turn.number:
        return _paths_after(context.request_id, sampled, drafters, turn.number, turn.after)
    return _paths(context.request_id, context.task, sampled, _surprisal(context), drafters, home)


@lru_cache(maxsize=4096)
def _paths_after(request_id: str, sampled: bool, drafters: tuple[str, ...], number: int, after: str) -> Paths:
    return tuple(
        _path_in((sampled, TURNED), f"after {after}", f"{request_id}, turn {number}", drafter) for drafter in drafters
    )


@lru_cache(maxsize=4096)
def _paths(
    request_id: str,
    task: str,
    sampled: bool,
    surprisal: tuple[tuple[str, float], ...],
    drafters: tuple[str, ...],
    home: str,
) -> Paths:
    nats = dict(surprisal)
    at_home = nats.get(home, 0.0)
    classes = {name: 0 if name == home else _class_behind(nats[name] - at_home) for name in nats}
    return tuple(_path_in((sampled, classes.get(drafter)), task or home, request_id, drafter) for drafter in drafters)


def _class_behind(excess: float) -> int:
    """Of a drafter that is not at home; it may be less surprised by a hair."""
    return max(bisect_left(SURPRISAL_STEPS, excess), 1)


def _path_in(alike: Key, subject: str, request_id: str, drafter: str) -> Path:
    of_subject = (*alike, drafter, subject)
    return (alike, (*alike, drafter), of_subject, (*of_subject, request_id))


def field_of(path: Path) -> Key:
    """What shapes bring depends on most: who drafts, whether the target samples, and the subject."""
    sampled, _, drafter, subject = path[2]
    return (drafter, sampled, subject)


def is_of_a_request(key: Key) -> bool:
    """Whether a key is at the finest level."""
    return len(key) == LEVELS + 1


def kind_of(context: RoundContext, drafter: str) -> Key:
    """What confidences depend on most: who drafts, and whether the target samples. A field without its subject."""
    return (drafter, context.temperature > 0)


def excess_surprisal(context: RoundContext) -> Mapping[str, float]:
    """Nats per token by which the prompt surprised each drafter that has read it more than the least surprised one."""
    return _excess(context.prompt_surprisal)


def _excess(surprisal: Mapping[str, float]) -> Mapping[str, float]:
    least = min(surprisal.values(), default=0.0)
    return {drafter: nats - least for drafter, nats in surprisal.items()}


def _surprisal(context: RoundContext) -> tuple[tuple[str, float], ...]:
    return tuple(context.prompt_surprisal.items())
