"""Where a Hugging Face model meets the engine: the attention and mask functions registered with transformers.

The mask function hands the model's positional predicate (causal, sliding, chunked) through to the attention function,
which hands it to the running step. So no architecture's window is known here by name.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import causal_mask_function

from worker.cache import LayerShape

IMPLEMENTATION = "forerun_tree"

MAX_FOLDED_QUERIES = 128
"""Above so many query rows per key head, a mask repeated for every query head costs more than it saves."""

Predicate = Callable[[int, int, Tensor, Tensor], Tensor]
"""(batch, head, query position, key position) -> may the query see the key; transformers' mask function."""

CAUSAL = cast(Predicate, causal_mask_function)  # transformers annotates it for numbers and calls it on tensors


class UnsupportedAttentionError(Exception):
    """A layer asks for attention that this module cannot compute; the message completes "the model ..."."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How one layer turns query and key into weights.

    Attributes:
        scale: Factor on the dot products.
        softcap: Bound of the scores, reached as softcap * tanh(score / softcap); None for no bound.
        sinks: (heads,) score of a place every query may look at that holds nothing; None for no such place.
    """

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None


class AttentionStep(Protocol):
    """What the registered attention function hands every layer to while a forward runs."""

    def attend(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, predicate: Predicate | None, scoring: Scoring
    ) -> Tensor:
        """Attention output (1, tokens, heads, value_size) of one layer over the packed row."""
        ...


# A context variable and not a global: a drafter and a target may run on two threads of one process.
_running: ContextVar[AttentionStep | None] = ContextVar("running_attention_step", default=None)


@contextmanager
def running(step: AttentionStep) -> Iterator[None]:
    """Let the layers of a model called inside this context attend through `step`."""
    token = _running.set(step)
    try:
        yield
    finally:
        _running.reset(token)


def running_step() -> AttentionStep | None:
    """The step whose forward this is; None outside of one."""
    return _running.get()


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """The attention function registered with transformers."""
    step = running_step()
    if step is None:
        raise RuntimeError("this model belongs to an Engine; load another copy to call it directly")
    if attention_mask is not None and not callable(attention_mask):
        raise UnsupportedAttentionError("builds its own attention masks")
    if options.get("position_bias") is not None:
        raise UnsupportedAttentionError("adds a position bias to its scores")
    if options.get("is_causal") is False:
        raise UnsupportedAttentionError("has attention that is not causal")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scoring = Scoring(scale=scale, softcap=softcap, sinks=s_aux)
    return step.attend(module, query, key, value, attention_mask, scoring), None


def _pass_predicate(*, mask_function: Predicate, **_: object) -> Predicate:
    """The mask function registered with transformers."""
    return mask_function


AttentionInterface.register(IMPLEMENTATION, _attention)
AttentionMaskInterface.register(IMPLEMENTATION, _pass_predicate)


@dataclass
class ShapeRecorder:
    """A step that computes nothing and learns what every layer stores: no configuration needs to be understood.

    Attributes:
        shapes: What each layer stores.
        has_softcap: Whether any layer bounds its scores.
    """

    shapes: dict[nn.Module, LayerShape] = field(default_factory=dict)
    has_softcap: bool = False

    def attend(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, predicate: Predicate | None, scoring: Scoring
    ) -> Tensor:
        """Note the layer's shape and answer zeros."""
        if layer in self.shapes:
            raise UnsupportedAttentionError("runs one attention layer twice in a forward pass")
        self.shapes[layer] = LayerShape(
            num_heads=key.shape[1], key_size=key.shape[3], value_size=value.shape[3], dtype=key.dtype
        )
        self.has_softcap |= scoring.softcap is not None
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3])


@dataclass(frozen=True, slots=True)
class Mask:
    """Who may see whom, ready for the kernel.

    Attributes:
        bias: Added to the scores, 0 or -inf, broadcastable to (sessions, heads, queries, keys); None lets all be seen.
        is_triangle: The bias would be a lower triangle, which the kernel applies faster by itself.
    """

    bias: Tensor | None = None
    is_triangle: bool = False


def folded_heads(heads: int, kv_heads: int, queries: int) -> int:
    """How many query heads become rows of their common key head: all that share it, or one if the rows get many."""
    group = heads // kv_heads
    return group if group * queries <= MAX_FOLDED_QUERIES else 1


def weighted_values(query: Tensor, key: Tensor, value: Tensor, mask: Mask, scoring: Scoring) -> Tensor:
    """Attention proper.

    Args:
        query: (sessions, heads, queries, key_size).
        key: (sessions, kv_heads, keys, key_size).
        value: (sessions, kv_heads, keys, value_size).
        mask: Its bias repeated over queries `folded_heads` times.
        scoring: The layer's score function.

    Returns:
        (sessions, heads, queries, value_size).
    """
    sessions, heads, queries, _ = query.shape
    group = heads // key.shape[1]
    if group > 1 and (mask.is_triangle or folded_heads(heads, key.shape[1], queries) == 1):
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        group = 1
    folded = query.reshape(sessions, heads // group, group * queries, -1)
    by_kernel = scoring.softcap is None and scoring.sinks is None
    attend = _by_kernel if by_kernel else _by_hand
    return attend(folded, key, value, mask, scoring).view(sessions, heads, queries, -1)


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Mask, scoring: Scoring) -> Tensor:
    if query.shape[2] == 1 and query.dtype is torch.bfloat16 and query.device.type == "cpu":
        # One row is no matrix, and the kernel's products of vectors in bfloat16 take longer than five rows do.
        mask = Mask(None if mask.bias is None else mask.bias.float())
        return _by_kernel(query.float(), key.float(), value.float(), mask, scoring).to(query.dtype)
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask.bias, is_causal=mask.is_triangle, scale=scoring.scale
    )


def _by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Mask, scoring: Scoring) -> Tensor:
    """For score functions no kernel offers; softmax in float32, as transformers' plain attention does."""
    scores = (query @ key.transpose(-1, -2)) * scoring.scale
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    if mask.is_triangle:
        scores = scores.masked_fill(torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1), float("-inf"))
    if mask.bias is not None:
        scores = scores + mask.bias
    if scoring.sinks is None:
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    else:
        heads = query.shape[1]
        rows = query.shape[2] * heads // len(scoring.sinks)
        sinks = scoring.sinks.view(1, heads, -1, 1).expand(len(query), -1, -1, rows).reshape(len(query), heads, -1, 1)
        weights = torch.softmax(torch.cat([scores, sinks], dim=-1), dim=-1, dtype=torch.float32)[..., :-1]
    return weights.to(value.dtype) @ value
