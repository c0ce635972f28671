"""In which company an observation is kept: from all drafters that read the prompt alike down to one request."""

from bisect import bisect_left
from collections.abc import Hashable, Sequence

from router_models.policy import RoundContext

SURPRISAL_STEPS = (0.02, 0.1, 0.3, 0.8, 1.5)
"""Nats per token by which a drafter may be more surprised by the prompt than the least surprised one."""

Key = tuple[Hashable, ...]
Path = Sequence[Key]
"""Keys from the coarsest level to the finest."""

LEVELS = 4
"""Of a path; the finest is the request itself."""


def path_of(context: RoundContext, drafter: str) -> Path:
    """How surprised a drafter is (a new one starts there), which one it is, the task, the request."""
    return _path(context, drafter, surprise(context, drafter))


def paths_of(context: RoundContext) -> Sequence[Path]:
    """Of every drafter on offer."""
    known = context.prompt_surprisal
    least = min(known.values(), default=0.0)
    return [
        _path(context, drafter, bisect_left(SURPRISAL_STEPS, known[drafter] - least) if drafter in known else None)
        for drafter in context.drafters
    ]


def _path(context: RoundContext, drafter: str, surprised: int | None) -> Path:
    alike = (context.temperature > 0, surprised)
    of_task = (*alike, drafter, context.task)
    return (alike, (*alike, drafter), of_task, (*of_task, context.request_id))


def is_about(key: Key, drafter: str, *, sampled: bool) -> bool:
    """Whether a key is of one drafter."""
    return key[0] == sampled and drafter in key[2:3]


def is_of_a_request(key: Key) -> bool:
    """Whether a key is at the finest level."""
    return len(key) == LEVELS + 1


def kind_of(context: RoundContext, drafter: str) -> Key:
    """What confidences and shapes depend on most: who drafts, and whether the target samples."""
    return (drafter, context.temperature > 0)


def surprise(context: RoundContext, drafter: str) -> int | None:
    """By how many steps the prompt surprised a drafter more than the least surprised one; None if that is unknown."""
    excess = excess_surprisal(context, drafter)
    return None if excess is None else bisect_left(SURPRISAL_STEPS, excess)


def excess_surprisal(context: RoundContext, drafter: str) -> float | None:
    """Nats per token by which the prompt surprised a drafter more than the least surprised one, if it has read it."""
    known = context.prompt_surprisal
    return known[drafter] - min(known.values()) if drafter in known else None
