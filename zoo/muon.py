"""Muon: momentum whose matrix is replaced by its nearest orthogonal one, for the weights between layers.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the constants of the
quintic iteration are theirs.
"""

from collections import defaultdict
from collections.abc import Sequence

import torch

_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
_WEIGHT_DECAY = 0.01


class Muon:
    """Updates matrices in place.

    Args:
        matrices: (weight, number of matrices stacked in it): a fused projection is orthogonalised part by part.
    """

    def __init__(self, matrices: Sequence[tuple[torch.Tensor, int]]) -> None:
        self._matrices = tuple(matrices)
        self._momenta = [torch.zeros_like(weight) for weight, _ in matrices]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply the gradients and clear them."""
        by_shape: dict[torch.Size, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
        for (weight, parts), momentum in zip(self._matrices, self._momenta, strict=True):
            assert weight.grad is not None
            momentum.lerp_(weight.grad, 1 - _MOMENTUM)
            nesterov = weight.grad.lerp(momentum, _MOMENTUM)
            for part, update in zip(weight.chunk(parts), nesterov.chunk(parts), strict=True):
                by_shape[part.shape].append((part, update))
            weight.grad = None
        for shape, pairs in by_shape.items():
            # One batched iteration for all matrices of a shape: a dozen small products would cost more in calls.
            directions = orthogonalise(torch.stack([update for _, update in pairs]))
            scale = learning_rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for (part, _), direction in zip(pairs, directions, strict=True):
                part.mul_(1 - learning_rate * _WEIGHT_DECAY).sub_(direction, alpha=scale)


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Push all singular values of each matrix towards one. (batch, rows, columns) to the same."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    result: torch.Tensor = x.mT if tall else x
    return result.float()
