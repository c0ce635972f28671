"""What the contextual bandits see of an arm: its shape, the request, and how drafter and request go together."""

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import excess_surprisal
from router_models.policy import RoundContext
from speculation.tree import TreeShape

TASK_BUCKETS = 8
"""Task labels are hashed into so many places (the hashing trick, arXiv:0902.2206): callers may invent any number."""

MOST_SURPRISAL = 2.0
"""Nats per token by which a drafter may be more surprised than the least surprised one; more is no worse."""

NUM_FEATURES = 11 + TASK_BUCKETS

Features = NDArray[np.float64]


def features(
    context: RoundContext, drafters: Sequence[str], shapes: tuple[TreeShape, ...], unread: NDArray[np.float64]
) -> Features:
    """(drafters, shapes, NUM_FEATURES), all of the order of one.

    The shape's (1, depth, depth squared, breadth), what moves the best depth (sampling, surprisal and load, each alone
    and times depth), unread text, and the task's bucket.
    """
    form = np.broadcast_to(_form(shapes), (len(drafters), len(shapes), 4))
    sampled = np.full((len(drafters), 1, 1), float(context.temperature > 0))
    load = np.full((len(drafters), 1, 1), np.log2(context.requests_in_flight) / 4)
    surprisal = capped_surprisal(context, drafters, MOST_SURPRISAL)[:, None, None]
    moving = np.concatenate((sampled, surprisal, load), axis=-1)
    of_request = np.concatenate(
        (np.log1p(unread)[:, None, None] / 8, np.broadcast_to(_task(context.task), (len(drafters), 1, TASK_BUCKETS))),
        axis=-1,
    )
    every_shape = (len(drafters), len(shapes), -1)
    parts = (
        form,
        np.broadcast_to(moving, (*every_shape[:2], moving.shape[-1])),
        moving * form[..., 1:2],
        np.broadcast_to(of_request, (*every_shape[:2], of_request.shape[-1])),
    )
    return np.concatenate(parts, axis=-1)


@lru_cache(maxsize=256)
def _form(shapes: tuple[TreeShape, ...]) -> Features:
    """(shapes, 4): what of its value lies in a shape's form alone. Logarithms, since each further level gains less."""
    depth = np.log2([shape.depth for shape in shapes]) / 3
    breadth = np.log2([max(shape.budget / shape.depth, 1.0) for shape in shapes]) / 3
    return np.stack((np.ones_like(depth), depth, depth**2, breadth), axis=-1)


def capped_surprisal(context: RoundContext, drafters: Sequence[str], most: float) -> NDArray[np.float64]:
    """(drafters,) nats above the least surprised drafter, at most so many; 0 for one that has not read the prompt."""
    excess = excess_surprisal(context)
    return np.array([min(excess.get(name, 0.0), most) for name in drafters])


@lru_cache(maxsize=256)
def _task(label: str) -> Features:
    """(TASK_BUCKETS,): one of them is 1 if there is a label. The same label has the same bucket in every process."""
    buckets = np.zeros(TASK_BUCKETS)
    if label:
        buckets[crc32(label.encode(errors="surrogatepass")) % TASK_BUCKETS] = 1.0
    return buckets
