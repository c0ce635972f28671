"""What a bandit chooses among, and how it draws one arm from its exact probabilities."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from router_models.limits import offered
from router_models.plan import Plan, no_speculation
from router_models.policy import RoundContext
from speculation.tree import TreeShape

MOST_DRAFTERS = 16
"""Drafters a bandit tells apart at once; of a longer offer it looks at the first ones."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A drafter and the shape of its tree."""

    drafter: str
    shape: TreeShape


PLAIN = None
"""The arm that does not speculate."""


def arms_of(context: RoundContext, shapes: tuple[TreeShape, ...]) -> tuple[Arm | None, ...]:
    """Everything on offer, plain decoding first; a pinned shape stands in for all others."""
    return _arms(context.drafters[:MOST_DRAFTERS], offered_shapes(context, shapes))


def offered_shapes(context: RoundContext, shapes: tuple[TreeShape, ...]) -> tuple[TreeShape, ...]:
    """What operator and caller leave of them."""
    return offered(shapes, context)


@lru_cache(maxsize=256)
def _arms(drafters: tuple[str, ...], shapes: tuple[TreeShape, ...]) -> tuple[Arm | None, ...]:
    return (PLAIN, *(Arm(drafter, shape) for drafter in drafters for shape in shapes))


def arm_of(plan: Plan) -> Arm | None:
    """The arm that was played. A plan cut short at the end of an answer is an arm with a shallower shape."""
    return Arm(plan.drafters[0], plan.shape) if plan.drafters else PLAIN


def plan_of(arm: Arm | None, *, propensity: float, explanation: str) -> Plan:
    """The plan that plays an arm."""
    if arm is PLAIN:
        return Plan(drafters=(), propensity=propensity, explanation=f"plain decoding: {explanation}")
    return Plan(drafters=(arm.drafter,), shape=arm.shape, propensity=propensity, explanation=explanation)


def was_a_choice(context: RoundContext, plan: Plan) -> bool:
    """Whether there was more than one arm to choose from, and the policy chose."""
    return bool(plan.propensity and context.drafters) and context.remaining_tokens > 1


def nothing_on_offer() -> Plan:
    """What every policy answers when there is nothing to choose from."""
    return no_speculation("no drafter is on offer")


def draw(probabilities: NDArray[np.float64], seed: int, context: RoundContext) -> int:
    """An index with exactly these chances, the same one whenever the same round of the same request asks."""
    return min(
        int(np.searchsorted(np.cumsum(probabilities), _uniform(seed, context), side="right")),
        int(np.flatnonzero(probabilities)[-1]),  # the sum may fall short of one by a rounding error
    )


def _uniform(seed: int, context: RoundContext) -> float:
    """In [0, 1), from request and round alone: no state to keep, and a log can be replayed."""
    text = f"{seed}/{context.request_id}/{context.round}"
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / (1 << 53)
