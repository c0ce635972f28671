"""Linear layers whose weights lie in panels, as our compiled product reads them (worker/kernels.py).

A panel holds the weights of a few neighbouring outputs side by side, input after input, and their biases before them:
a forward of few rows reads every weight once, in order, and keeps the sums in registers. In a row's result no other row
has a part. Source of the form: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Rows = NDArray[np.float32]

CACHE_LINE_BYTES = 64


class PanelLinear(nn.Module):
    """What a `nn.Linear` in float32 on a CPU computes, on one thread.

    Args:
        layer: Whose weights are copied.
        panels: (outputs / panel's width, 1 + in, width), where to; biases first, the last panel filled up with zeros.
    """

    def __init__(self, layer: nn.Linear, panels: Rows) -> None:
        from worker import kernels  # here: it takes a second and 70 MB, and only workers of such models need it

        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.panels, self._multiply = panels, kernels.multiply
        _fill(panels, layer)

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> list["PanelLinear"]:
        """Those layers, in one piece of memory.

        For a large one NumPy asks for pages of 2 MiB, where the system has them; from pages of 4 KiB a product of few
        rows takes up to half as long again.

        Raises:
            ImportError: numba is not installed.
            ValueError: They are in another format.
        """
        from worker import kernels

        if any(layer.weight.dtype != torch.float32 for layer in layers):
            raise ValueError("weights in other formats than float32 have no panels")
        shapes = [(-(-layer.out_features // kernels.WIDTH), 1 + layer.in_features, kernels.WIDTH) for layer in layers]
        sizes = list(map(math.prod, shapes))
        memory = np.empty(sum(sizes) + CACHE_LINE_BYTES, np.float32)
        unaligned = -memory.ctypes.data % CACHE_LINE_BYTES // memory.itemsize
        starts = accumulate(sizes, initial=unaligned)
        return [
            cls(layer, memory[start : start + size].reshape(shape))
            for layer, shape, size, start in zip(layers, shapes, sizes, starts, strict=False)
        ]

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        products = self.products(inputs.reshape(-1, self.in_features).numpy())
        return torch.from_numpy(products).view(*inputs.shape[:-1], self.out_features)

    def products(self, rows: Rows) -> Rows:
        """(n, in_features) to (n, out_features)."""
        products = np.empty((len(rows), self.out_features), np.float32)
        self._multiply(rows, self.panels, products)
        return products


class PanelEmbedding(nn.Module):
    """The embeddings of a model whose head shares their weights."""

    def __init__(self, head: PanelLinear) -> None:
        from worker import kernels

        super().__init__()
        self.num_embeddings, self._channels = head.out_features, head.in_features
        self._panels, self._look_up = head.panels, kernels.look_up

    def forward(self, token_ids: Tensor) -> Tensor:
        """(...) to (..., channels)."""
        rows = self.rows(token_ids.reshape(-1).numpy())
        return torch.from_numpy(rows).view(*token_ids.shape, self._channels)

    def rows(self, token_ids: Sequence[int] | NDArray[np.int64]) -> Rows:
        """(n,) to (n, channels)."""
        rows = np.empty((len(token_ids), self._channels), np.float32)
        self._look_up(np.asarray(token_ids, np.int64), self._panels, rows)
        return rows


def _fill(panels: Rows, layer: nn.Linear) -> None:
    """Copy weights and biases to where `kernels.multiply` looks for them."""
    width = panels.shape[2]
    weights = layer.weight.detach().numpy()
    panels[-1] = 0
    panels[:, 0] = 0
    for panel, first in zip(panels, range(0, len(weights), width), strict=True):
        rows = weights[first : first + width]
        panel[1:, : len(rows)] = rows.T
        if layer.bias is not None:
            panel[0, : len(rows)] = layer.bias.detach()[first : first + width].numpy()
