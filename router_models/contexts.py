"""In which company an observation is kept: from all drafters that read the prompt alike down to one request."""

from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence

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
    return _path(context, drafter, excess_surprisal(context))


def paths_of(context: RoundContext) -> Sequence[Path]:
    """Of every drafter on offer."""
    excess = excess_surprisal(context)
    return [_path(context, drafter, excess) for drafter in context.drafters]


def _path(context: RoundContext, drafter: str, excess: Mapping[str, float]) -> Path:
    surprised = bisect_left(SURPRISAL_STEPS, excess[drafter]) if drafter in excess else None
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


def excess_surprisal(context: RoundContext) -> Mapping[str, float]:
    """Nats per token by which the prompt surprised each drafter that has read it more than the least surprised one."""
    known = context.prompt_surprisal
    least = min(known.values(), default=0.0)
    return {drafter: surprisal - least for drafter, surprisal in known.items()}
