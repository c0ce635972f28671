"""The forward of a lean model over few rows, by kernels that numba compiles: eight or nine calls a layer, all short."""

import logging
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.cache import KeyValuePool
from worker.lean_layers import LeanLayer, LeanModel
from worker.prepacked import PrepackedLinear
from worker.step import Span

MAX_ROWS = 64
"""Tokens of a forward up to which calls are worth saving."""

MAX_SCORES = 8192
"""New tokens of a session times the keys that they look at; beyond, torch's products of matrices are faster."""

LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Rotations whose angles change with the length of a text: no table holds them."""

Rows = NDArray[np.float32]

_logger = logging.getLogger(__name__)


def compiled_model(model: LeanModel, pool: KeyValuePool, max_length: int) -> "CompiledModel | None":
    """None where it cannot be: not in float32 on a CPU, without numba, or for a rotation of parts of heads."""
    weights = model.embed.weight
    if weights.dtype != torch.float32 or weights.device.type != "cpu":
        return None
    rotation = _rotation(model, max_length)
    if rotation is None:
        return None
    try:
        return CompiledModel(model, pool, rotation)
    except ImportError as error:
        _logger.info("layers are computed by torch's operators: %s", error)
        return None


class CompiledModel:
    """What a LeanModel computes, for forwards that it takes.

    Args:
        model: In float32 on a CPU. Its weights are not copied.
        pool: Where keys and values live.
        rotation: (positions, 2, half a head), cosines and sines.

    Raises:
        ImportError: numba is not installed.
    """

    def __init__(self, model: LeanModel, pool: KeyValuePool, rotation: Rows) -> None:
        from worker import kernels  # here: it takes a second and 70 MB, and only workers of such models need it

        self._kernels = kernels
        self._embeddings = _array(model.embed.weight)
        self._layers = [_Layer(layer, pool, kernels) for layer in model.layers]
        self._norm = _array(model.norm.weight), model.norm.eps
        self._head = _product(model.head, kernels)
        self._rotation = rotation

    def takes(self, spans: Sequence[Span]) -> bool:
        """Whether a forward is small enough to be faster here."""
        return spans[-1].stop <= MAX_ROWS and all(span.num_new * span.num_keys <= MAX_SCORES for span in spans)

    def __call__(self, token_ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """Logits (wanted, vocab) of a packed row."""
        rows = self._embeddings[token_ids]
        places, related = _places(spans), _related(spans)
        for layer in self._layers:
            layer(rows, self._rotation, places, related)
        rows = rows[wanted]
        normed = np.empty_like(rows)
        self._kernels.normalise(rows, *self._norm, normed)
        return torch.from_numpy(self._head(normed))


class _Layer:
    """One decoder layer.

    Args:
        layer: Whose weights and products it takes.
        pool: Where keys and values live.
        kernels: The module of that name.
    """

    def __init__(self, layer: LeanLayer, pool: KeyValuePool, kernels: ModuleType) -> None:
        self._kernels = kernels
        products = layer.query_key_value, layer.output, layer.gate_up, layer.down
        self._query_key_value, self._output, self._gate_up, self._down = (_product(one, kernels) for one in products)
        self._norms = [(_array(norm.weight), norm.eps) for norm in layer.norms]
        self._head_norms = layer.head_norms and (_array(layer.head_norms[0][:, 0]), layer.head_norms[1])
        self._keys, self._values = _array(pool.keys[layer]), _array(pool.values[layer])
        self._num_attended: int = layer.output.in_features
        self._num_gated: int = layer.down.in_features
        self._scale = layer.scoring.scale

    def __call__(self, rows: Rows, rotation: Rows, places: NDArray[np.int64], related: NDArray[np.bool_]) -> None:
        """Rows (n, channels) become the layer's output, in place."""
        kernels, count = self._kernels, len(rows)
        normed = np.empty_like(rows)
        kernels.normalise(rows, *self._norms[0], normed)
        joined = self._query_key_value(normed)
        if self._head_norms is not None:
            kernels.normalise_heads(joined, *self._head_norms)
        kernels.place(joined, rotation, places, self._keys, self._values)
        attended = np.empty((count, self._num_attended), np.float32)
        kernels.attend(joined, self._keys, self._values, places, related, self._scale, attended)
        kernels.add(rows, self._output(attended))
        kernels.normalise(rows, *self._norms[1], normed)
        gated = np.empty((count, self._num_gated), np.float32)
        kernels.gate(self._gate_up(normed), gated)
        kernels.add(rows, self._down(gated))


def _product(layer: nn.Module, kernels: ModuleType) -> Callable[[Rows], Rows]:
    """What a linear layer does to rows: by its own operator where weights are packed, else by our kernel."""
    if isinstance(layer, PrepackedLinear):
        packed = layer.forward
        return lambda rows: packed(torch.from_numpy(rows)).numpy()
    plain: Any = layer
    weights = _array(plain.weight)
    bias = np.zeros(len(weights), np.float32) if plain.bias is None else _array(plain.bias)

    def product(rows: Rows) -> Rows:
        projected = np.empty((len(rows), len(weights)), np.float32)
        kernels.project(rows, weights, bias, projected)
        return projected

    return product


def _rotation(model: LeanModel, max_length: int) -> Rows | None:
    """(positions, 2, half a head) cosines and sines; None where a head is not turned whole, by halves that agree, or
    not always by the same angles."""
    if getattr(model.rotary, "rope_type", "default") in LENGTH_DEPENDENT:
        return None
    positions = torch.arange(max_length)[None]
    tables = [table[0] for table in model.rotary(torch.zeros(1, 1, 1), positions)]
    half = model.layers[0].head_size // 2
    if any(table.shape[1] != 2 * half or not torch.equal(table[:, :half], table[:, half:]) for table in tables):
        return None
    cosines_and_sines: Rows = _array(torch.stack([table[:, :half] for table in tables], dim=1))
    return cosines_and_sines


def _places(spans: Sequence[Span]) -> NDArray[np.int64]:
    """(tokens, 4), as `kernels.place` wants them."""
    return np.array(
        [
            (row, position, span.first_row, span.num_committed)
            for span in spans
            for row, position in zip(range(*span.new_rows), span.positions[-span.num_new :], strict=True)
        ],
        np.int64,
    )


def _related(spans: Sequence[Span]) -> NDArray[np.bool_]:
    """(tokens, longest scratch), as `kernels.attend` wants them."""
    related = np.zeros((spans[-1].stop, max(len(span.positions) for span in spans)), np.bool_)
    for span in spans:
        scratch = len(span.positions)
        chain = np.tri(span.num_new, scratch, scratch - span.num_new, np.bool_)
        related[span.start : span.stop, :scratch] = chain if span.ancestry is None else span.ancestry
    return related


def _array(tensor: Tensor) -> Any:
    """The same memory."""
    return tensor.detach().contiguous().numpy()
