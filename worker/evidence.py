"""What a verdict rests on: of each row of the target's logits the little that must be known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from speculation.tree import TokenTree
from worker.sampling import Sampler

ROUNDING = {torch.float64: 1e-12, torch.float32: 5e-5, torch.float16: 2e-2, torch.bfloat16: 2e-1}
"""How far rounding may move the difference of two logits, in standard deviations of their row: twice the largest error
seen between forwards of different sizes (evidence: engine, "bf16 flips")."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the target says at the root of a tree, which comes first, and after each node.

    Attributes:
        chosen: (1 + nodes,), the tokens that the request takes there.
        near: (1 + nodes,), whether the next best score lies so close that rounding could have swapped the two.
        logprobs: (1 + nodes,), of the chosen tokens under the unmodified distribution.
        node_probs: (nodes,), of each node after its parent under the unmodified distribution.
    """

    chosen: Sequence[int]
    near: Sequence[bool]
    logprobs: Sequence[float]
    node_probs: Sequence[float]


Weigh = Callable[[Sampler, Sequence[int], TokenTree, Tensor], Evidence]
"""From the sampler of a session, its tokens, a tree, and the logits (1 + nodes, vocab)."""


def by_torch(sampler: Sampler, context: Sequence[int], tree: TokenTree, logits: Tensor) -> Evidence:
    """On any device, and in any type."""
    scores = sampler.scores(logits, context, _paths(tree))
    chosen = scores.argmax(dim=-1).tolist()
    best = scores.topk(2).values
    log_probs = logits.float().log_softmax(dim=-1)
    bounds = _rounding(sampler, logits) * _deviations(logits.float())
    parents = [1 + parent for parent in tree.parents]  # the root's row comes first, and ROOT is -1
    return Evidence(
        chosen=chosen,
        near=(best[:, 0] - best[:, 1] < bounds).tolist(),
        logprobs=log_probs[range(len(chosen)), chosen].tolist(),
        node_probs=log_probs[parents, list(tree.token_ids)].exp().tolist() if len(tree) else (),
    )


def _deviations(logits: Tensor) -> Tensor:
    """(n,) standard deviations; torch's own takes ten times as long."""
    distances = logits - logits.mean(dim=-1, keepdim=True)
    norms: Tensor = torch.linalg.vector_norm(distances, dim=-1)
    return norms / math.sqrt(logits.shape[-1] - 1)


def by_kernel() -> Weigh:
    """The same in one call, on a CPU: there, each call of torch's costs as much as all sums together."""
    from worker import kernels  # here: see `CompiledModel`

    return partial(_by_kernel, kernels.weigh)


def _by_kernel(
    weigh: Callable[..., None], sampler: Sampler, context: Sequence[int], tree: TokenTree, logits: Tensor
) -> Evidence:
    numbers = logits.float()
    scores = numbers if sampler.is_plain else sampler.log_probs(numbers, context, _paths(tree))
    choices, chances = np.empty((2, len(logits)), np.int64), np.empty((2, len(logits)))
    weigh(
        numbers.numpy(),
        scores.contiguous().numpy(),
        sampler.divisor if sampler.is_plain else 0.0,
        sampler.noise(len(context), (0, *tree.depths)).numpy(),
        _rounding(sampler, logits),
        np.array((tree.parents, tree.token_ids), np.int64),
        choices,
        chances,
    )
    (chosen, near), (logprobs, node_probs) = choices.tolist(), chances.tolist()
    return Evidence(chosen, list(map(bool, near)), logprobs, node_probs[1:])


def _rounding(sampler: Sampler, logits: Tensor) -> float:
    return ROUNDING[logits.dtype] / (sampler.parameters.temperature or 1.0)


def _paths(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens below the root and down to each node."""
    paths: list[tuple[int, ...]] = [()]
    for token, parent in zip(tree.token_ids, tree.parents, strict=True):
        paths.append((*paths[1 + parent], token))
    return paths
