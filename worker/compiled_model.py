"""The forward of a lean model over few rows, by kernels that numba compiles: one call a layer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.cache import KeyValuePool
from worker.lean_layers import LeanLayer, LeanModel
from worker.panels import PanelLinear
from worker.step import Span

MAX_ROWS = 64
"""Tokens of a forward up to which calls are worth saving."""

MAX_SCORES = 8192
"""New tokens of a session times the keys that they look at; beyond, torch's products of matrices are faster."""

LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Rotations whose angles change with the length of a text: no table holds them."""

Rows = NDArray[np.float32]


def compiled_model(model: LeanModel, pool: KeyValuePool, max_length: int) -> "CompiledModel | None":
    """None where it cannot be: for weights that do not lie in panels, or for a rotation of parts of heads."""
    if not all(isinstance(product, PanelLinear) for product in _products(model)):
        return None
    rotation = _rotation(model, max_length)
    return None if rotation is None else CompiledModel(model, pool, rotation)


class CompiledModel:
    """What a LeanModel computes, for forwards that it takes.

    Args:
        model: All its products are by panels. Its weights are not copied.
        pool: Where keys and values live.
        rotation: (positions, 2, half a head), cosines and sines.
    """

    def __init__(self, model: LeanModel, pool: KeyValuePool, rotation: Rows) -> None:
        from worker import kernels  # here: it takes a second and 70 MB, and only workers of such models need it

        self._embed, self._head = model.embed, model.head
        self._decode, self._normalise = kernels.decode, kernels.normalise
        self._layers = [_arguments(layer, pool) for layer in model.layers]
        self._norm = _array(model.norm.weight), model.norm.eps
        self._rotation = rotation

    def takes(self, spans: Sequence[Span]) -> bool:
        """Whether a forward is small enough to be faster here."""
        return spans[-1].stop <= MAX_ROWS and all(span.num_new * span.num_keys <= MAX_SCORES for span in spans)

    def __call__(self, token_ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """Logits (wanted, vocab) of a packed row."""
        rows: Rows = self._embed(torch.tensor(token_ids)).numpy()
        places, related = _places(spans), _related(spans)
        for layer in self._layers:
            self._decode(rows, self._rotation, places, related, *layer)
        rows = rows[wanted]
        normed = np.empty_like(rows)
        self._normalise(rows, *self._norm, normed)
        logits: Tensor = self._head(torch.from_numpy(normed))
        return logits


def _products(model: LeanModel) -> list[nn.Module]:
    """Every linear layer of it."""
    layers = [(layer.query_key_value, layer.output, layer.gate_up, layer.down) for layer in model.layers]
    return [model.head, *(product for layer in layers for product in layer)]


def _arguments(layer: LeanLayer, pool: KeyValuePool) -> tuple[Any, ...]:
    """What `kernels.decode` wants to know of a layer."""
    eps = layer.norms[0].eps
    if layer.head_norms is None:
        head_norms = np.zeros((0, layer.head_size), np.float32)
    else:
        head_norms = _array(layer.head_norms[0][:, 0])
    products: Any = layer.query_key_value, layer.output, layer.gate_up, layer.down
    return (
        _array(torch.stack([norm.weight for norm in layer.norms])),
        eps,
        head_norms,
        *(product.panels for product in products),
        _array(pool.keys[layer]),
        _array(pool.values[layer]),
        layer.scoring.scale,
    )


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
