"""Linear layers whose weights lie in panels, as our compiled product reads them (worker/kernels.py).

A panel holds the weights of a few neighbouring outputs side by side, input after input, and their biases before them:
a forward of few rows reads every weight once, in order, and keeps the sums in registers. In a row's result no other row
has a part. Source of the form: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Rows = NDArray[np.float32]


class PanelLinear(nn.Module):
    """What a `nn.Linear` in float32 on a CPU computes, on one thread.

    Attributes:
        panels: (outputs / panel's width, 1 + in, width), biases first; the last panel is filled up with zeros.

    Raises:
        ImportError: numba is not installed.
        ValueError: It is in another format.
    """

    def __init__(self, layer: nn.Linear) -> None:
        from worker import kernels  # here: it takes a second and 70 MB, and only workers of such models need it

        super().__init__()
        if layer.weight.dtype != torch.float32:
            raise ValueError(f"weights in {layer.weight.dtype} have no panels")
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.panels: Rows = _panels(layer, kernels.WIDTH)
        self._multiply: Any = kernels.multiply

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


def _panels(layer: nn.Linear, width: int) -> Rows:
    """(panels, 1 + in, width)."""
    num_panels = -(-layer.out_features // width)
    # torch's memory begins at a multiple of a cache line, and so does every row of a panel then.
    weights = torch.zeros(num_panels, 1 + layer.in_features, width)
    for panel, first in zip(weights, range(0, layer.out_features, width), strict=True):
        rows = layer.weight.detach()[first : first + width]
        panel[1:, : len(rows)] = rows.t()
        if layer.bias is not None:
            panel[0, : len(rows)] = layer.bias.detach()[first : first + width]
    panels: Rows = weights.numpy()
    return panels
