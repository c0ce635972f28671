"""Linear layers whose weights lie in panels, as our compiled product reads them (worker/kernels/products.py).

A panel holds the weights of a few neighbouring outputs side by side, input after input, and their biases before them:
a forward of few rows reads every weight once, in order, and keeps the sums in registers. In a row's result no other row
has a part. Source of the form: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".

In bfloat16 the weights of two neighbouring inputs share the place of one in float32: so the processor multiplies them.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Rows = NDArray[np.float32] | NDArray[np.uint16]
Panels = NDArray[np.float32] | NDArray[np.uint32]

CACHE_LINE_BYTES = 64

INPUTS_A_STEP = {torch.float32: 1, torch.bfloat16: 2}
"""Neighbouring inputs whose weights share a place."""


def kept(tensor: Tensor) -> Any:
    """The same memory as kernels read it: bfloat16 as uint16."""
    plain = tensor.detach().contiguous()
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


def tensor_of(rows: Rows) -> Tensor:
    """The same memory as torch reads it."""
    tensor = torch.from_numpy(rows)
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def has_panels(dtype: torch.dtype) -> bool:
    """Whether there are kernels for such weights, for this processor."""
    try:
        from worker import kernels  # here: it takes a second and 70 MB, and only workers of such models need it
    except ImportError:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and kernels.MULTIPLIES_BFLOAT16)


class PanelLinear(nn.Module):
    """What a `nn.Linear` in float32 or bfloat16 on a CPU computes, on one thread.

    Args:
        layer: Whose weights are copied.
        panels: Where to, as `kernels.multiply` wants them, in 4 bytes each.

    Attributes:
        kept: How kernels keep its numbers.
    """

    def __init__(self, layer: nn.Linear, panels: NDArray[np.uint32]) -> None:
        from worker import kernels

        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.panels: Panels = panels.view(np.float32) if layer.weight.dtype == torch.float32 else panels
        self.kept = np.dtype(np.float32 if layer.weight.dtype == torch.float32 else np.uint16)
        self._multiply, self._look_up = kernels.multiply, kernels.look_up
        self._fill(layer)

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> list["PanelLinear"]:
        """Those layers, in one piece of memory.

        For a large one NumPy asks for pages of 2 MiB, where the system has them; from pages of 4 KiB a product of few
        rows takes up to half as long again.

        Raises:
            ImportError: numba is not installed.
            ValueError: They are in a format that this processor does not multiply.
        """
        from worker import kernels

        if others := {layer.weight.dtype for layer in layers if not has_panels(layer.weight.dtype)}:
            raise ValueError(f"there are no panels of {', '.join(map(str, others))} on this processor")
        if any(layer.weight.dtype == torch.bfloat16 for layer in layers):
            kernels.compile_for_bfloat16()
        shapes = [_shape(layer, kernels.WIDTH) for layer in layers]
        sizes = list(map(math.prod, shapes))
        memory = np.empty(sum(sizes) + CACHE_LINE_BYTES, np.uint32)
        unaligned = -memory.ctypes.data % CACHE_LINE_BYTES // memory.itemsize
        starts = accumulate(sizes, initial=unaligned)
        return [
            cls(layer, memory[start : start + size].reshape(shape))
            for layer, shape, size, start in zip(layers, shapes, sizes, starts, strict=False)
        ]

    @property
    def weights(self) -> Rows:
        """(panels, 1 + steps, a panel's width, inputs a step): the same memory, behind the biases in its first row."""
        num_panels, rows, width = self.panels.shape
        return self.panels.view(self.kept).reshape(num_panels, rows, width, -1)

    def look_up(self, outputs: NDArray[np.int64], rows: Rows) -> None:
        """Write the weights of some outputs, each below out_features, to rows (n, in_features)."""
        self._look_up(self.weights, outputs, rows)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        products = self.products(kept(inputs.reshape(-1, self.in_features)))
        return tensor_of(products).view(*inputs.shape[:-1], self.out_features)

    def products(self, rows: Rows) -> Rows:
        """(n, in_features) to (n, out_features)."""
        products = np.empty((len(rows), self.out_features), self.kept)
        self._multiply(rows, self.panels, products)
        return products

    def _fill(self, layer: nn.Linear) -> None:
        """Copy weights and biases; what is left of the last panel and of the last step is 0."""
        self.panels[:] = 0
        weights = self.weights[:, 1:]
        _, steps, width, inputs = weights.shape
        rows = np.zeros((self.out_features, steps * inputs), self.kept)
        rows[:, : self.in_features] = kept(layer.weight)
        for panel, first in enumerate(range(0, self.out_features, width)):
            part = rows[first : first + width]
            weights[panel, :, : len(part)] = part.reshape(len(part), steps, inputs).swapaxes(0, 1)
            if layer.bias is not None:
                biases = self.panels[panel, 0].view(np.float32)
                biases[: len(part)] = layer.bias.detach()[first : first + width].float().numpy()


def _shape(layer: nn.Linear, width: int) -> tuple[int, int, int]:
    """Of its panels; the first row of each is for biases."""
    steps = -(-layer.in_features // INPUTS_A_STEP[layer.weight.dtype])
    return -(-layer.out_features // width), 1 + steps, width


class PanelEmbedding(nn.Module):
    """The embeddings of a model whose head shares their weights."""

    def __init__(self, head: PanelLinear) -> None:
        super().__init__()
        self.num_embeddings, self._channels = head.out_features, head.in_features
        self._kept, self._look_up = head.kept, head.look_up

    def forward(self, token_ids: Tensor) -> Tensor:
        """(...) to (..., channels)."""
        rows = self.rows(token_ids.reshape(-1).numpy())
        return tensor_of(rows).view(*token_ids.shape, self._channels)

    def rows(self, token_ids: Sequence[int] | NDArray[np.int64]) -> Rows:
        """(n,) to (n, channels)."""
        rows = np.empty((len(token_ids), self._channels), self._kept)
        self._look_up(np.asarray(token_ids, np.int64), rows)
        return rows
