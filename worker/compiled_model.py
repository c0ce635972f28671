"""The forward of a lean model by kernels that numba compiles: one call for all layers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.cache import KeyValuePool
from worker.crew import Crew
from worker.lean_layers import LeanLayer, LeanModel, can_be_lean
from worker.panels import PanelEmbedding, PanelLinear, Rows, has_panels, kept, tensor_of
from worker.step import Span

MAX_SEEN = 2**20
"""Tokens times the most keys that one looks at, of those that go through the layers together: the list of what they see
has 8 bytes for each."""

MAX_LOGITS = 2**22
"""Numbers of a product with the head, each of which every thread has room for."""

LENGTH_DEPENDENT = frozenset({"dynamic", "longrope"})
"""Rotations whose angles change with the length of a text: no table holds them."""

Rotation = NDArray[np.float32]
Numbers = NDArray[np.int64]


def can_be_compiled(model: PreTrainedModel, max_length: int) -> bool:
    """Whether a model would be, once its weights lie in panels, for which there are kernels here."""
    if not can_be_lean(model) or not has_panels(model.dtype):
        return False
    decoder: Any = cast(Any, model).model
    layer = decoder.layers[0]
    head_size = layer.head_size if isinstance(layer, LeanLayer) else layer.self_attn.head_dim
    return _rotation(decoder.rotary_emb, head_size, max_length, model.dtype) is not None


def compiled_model(model: LeanModel, pool: KeyValuePool, max_length: int, threads: int) -> "CompiledModel | None":
    """None where it cannot be: for weights that do not lie in panels, or for a rotation of parts of heads."""
    if not all(isinstance(product, PanelLinear) for product in _products(model)):
        return None
    rotation = _rotation(model.rotary, model.layers[0].head_size, max_length, model.norm.weight.dtype)
    return None if rotation is None else CompiledModel(model, pool, rotation, threads)


class CompiledModel:
    """What a LeanModel computes.

    Args:
        model: All its products are by panels. Its weights are not copied.
        pool: Where keys and values live.
        rotation: (positions, 2, half a head), cosines and sines.
        threads: That share its forwards.
    """

    def __init__(self, model: LeanModel, pool: KeyValuePool, rotation: Rotation, threads: int) -> None:
        from worker import kernels  # here: it takes a second and 70 MB, and only workers of such models need it

        self._kernels = kernels
        self._embed = _embedding(model.embed)
        self._head = cast(PanelLinear, model.head)
        self._layers = _Layers.of(model.layers, pool)
        self._norm = _floats(model.norm.weight), model.norm.eps
        self._rotation = rotation
        self._row_size = pool.keys[model.layers[0]][0].numel()
        self._needs = _needs(model.layers[0])
        self._crew = Crew(threads, self._embed([0]), [*self._layers.read, self._head.panels])

    def __call__(self, token_ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        """Logits (wanted, vocab) of a packed row."""
        rows = self._embed(token_ids)
        with self._crew.helping():
            for start, piece in _pieces(spans):
                self._decode(rows[start : start + piece[-1].stop], piece)
            return tensor_of(self._logits(rows[wanted]))

    def _decode(self, rows: Rows, spans: Sequence[Span]) -> None:
        """Take rows through all layers, in place."""
        places = _places(spans)
        seen, counts = self._seen(spans, places)
        memory = self._memory(len(rows) * (self._needs.outputs + seen.shape[1]))
        room = self._crew.room("activations", len(rows) * self._needs.activations, rows.dtype)
        layers, sizes, factors, _ = self._layers
        control = self._crew.control
        self._kernels.decode(rows, self._rotation, places, seen, counts, control, memory, room, layers, sizes, factors)

    def _seen(self, spans: Sequence[Span], places: Numbers) -> tuple[Numbers, Numbers]:
        """What every token looks at, as `kernels.attend` wants it."""
        most, lanes, count = max(span.num_keys for span in spans), self._kernels.LANES, len(places)
        width = -(-most // lanes) * lanes
        seen = self._crew.room("seen", count * width, np.int64)[: count * width].reshape(count, width)
        counts = self._crew.room("counts", count, np.int64)[:count]
        self._kernels.see(places, _related(spans), self._row_size, seen, counts)
        return seen, counts

    def _logits(self, rows: Rows) -> Rows:
        """(wanted, vocab), some rows at a time."""
        count, channels = rows.shape
        logits = np.empty((count, self._head.out_features), rows.dtype)
        width = self._head.panels.shape[0] * self._head.panels.shape[2]
        most = max(self._kernels.MOST_ROWS, MAX_LOGITS // width)
        normed = self._crew.room("normed", min(count, most) * channels, rows.dtype)
        for start in range(0, count, most):
            part = rows[start : start + most]
            of_part = normed[: part.size].reshape(part.shape)
            self._kernels.normalise(part, *self._norm, of_part)
            products = logits[start : start + most]
            memory = self._memory(len(part) * width)
            self._kernels.multiply_together(of_part, self._head.panels, products, self._crew.control, memory)
        return logits

    def _memory(self, size: int) -> Any:
        """(threads, at least so many) numbers."""
        threads = self._crew.threads
        size += self._kernels.MOST_ROWS * self._kernels.WIDTH
        memory = self._crew.room("memory", threads * size, np.float32)
        return memory[: len(memory) // threads * threads].reshape(threads, -1)


def _products(model: LeanModel) -> list[nn.Module]:
    """Every linear layer of it."""
    layers = [(layer.query_key_value, layer.output, layer.gate_up, layer.down) for layer in model.layers]
    return [model.head, *(product for layer in layers for product in layer)]


class _Needs(NamedTuple):
    """Numbers that a layer has to keep for a row: activations, and for each thread what it makes of the widest product,
    or of attention."""

    activations: int
    outputs: int


def _needs(layer: LeanLayer) -> _Needs:
    products: Any = layer.query_key_value, layer.output, layer.gate_up, layer.down
    joined, channels, units = (product.out_features for product in products[:3])
    outputs = [product.panels.shape[0] * product.panels.shape[2] for product in products]
    queries = products[1].in_features
    return _Needs(channels + joined + queries + units + units // 2, max(*outputs, queries + layer.head_size))


def _embedding(embed: nn.Module) -> Callable[[Sequence[int]], Rows]:
    """Token ids to rows."""
    if isinstance(embed, PanelEmbedding):
        return embed.rows
    weights: Rows = kept(cast(Tensor, embed.weight))
    return lambda token_ids: weights[token_ids]


class _Layers(NamedTuple):
    """What `kernels.decode` wants to know of layers, and the arrays that are spoken of, which stay with it."""

    layers: Numbers
    sizes: Numbers
    factors: NDArray[np.float32]
    read: list[NDArray[Any]]

    @classmethod
    def of(cls, layers: Sequence[LeanLayer], pool: KeyValuePool) -> "_Layers":
        """Those of a model."""
        arrays = [_arrays(layer, pool) for layer in layers]
        return cls(
            np.array([[_spoken_of(array) for array in of_layer] for of_layer in arrays], np.int64),
            np.array([_sizes(layer) for layer in layers], np.int64),
            np.array([(layer.norms[0].eps, layer.scoring.scale) for layer in layers], np.float32),
            [array for of_layer in arrays for array in of_layer],
        )


def _arrays(layer: LeanLayer, pool: KeyValuePool) -> tuple[NDArray[Any], ...]:
    head_norms = np.zeros((0, layer.head_size), np.float32)
    if layer.head_norms is not None:
        head_norms = _floats(layer.head_norms[0][:, 0])
    products: Any = layer.query_key_value, layer.output, layer.gate_up, layer.down
    return (
        _floats(torch.stack([norm.weight for norm in layer.norms])),
        head_norms,
        *(product.panels for product in products),
        kept(pool.keys[layer]),
        kept(pool.values[layer]),
    )


def _sizes(layer: LeanLayer) -> tuple[int, int]:
    """Query heads, and hidden units of the feed-forward."""
    output, down = cast(PanelLinear, layer.output), cast(PanelLinear, layer.down)
    return output.in_features // layer.head_size, down.in_features


def _spoken_of(array: NDArray[Any]) -> tuple[int, ...]:
    """Address and shape of an array in one piece."""
    if not array.flags.c_contiguous:
        raise ValueError("the array does not lie in one piece")
    return array.ctypes.data, *array.shape, *[1] * (3 - array.ndim)


def _rotation(rotary: Any, head_size: int, max_length: int, dtype: torch.dtype) -> Rotation | None:
    """(positions, 2, half a head) cosines and sines, rounded as the model's numbers; None where a head is not turned
    whole, by halves that agree, or not always by the same angles."""
    if getattr(rotary, "rope_type", "default") in LENGTH_DEPENDENT:
        return None
    positions = torch.arange(max_length)[None]
    tables = [table[0] for table in rotary(torch.zeros(1, 1, 1, dtype=dtype), positions)]
    half = head_size // 2
    if any(table.shape[1] != 2 * half or not torch.equal(table[:, :half], table[:, half:]) for table in tables):
        return None
    cosines_and_sines: Rotation = _floats(torch.stack([table[:, :half] for table in tables], dim=1))
    return cosines_and_sines


def _pieces(spans: Sequence[Span]) -> Iterator[tuple[int, Sequence[Span]]]:
    """A forward in pieces that follow one another: where each begins in the row, and its spans.

    What a token looks at comes before it, and so lies in the pool when its piece has its turn.
    """
    size = max(1, MAX_SEEN // max(span.num_keys for span in spans))
    if spans[-1].stop <= size:  # as nearly always: cutting takes microseconds a session
        yield 0, spans
        return
    for start in range(0, spans[-1].stop, size):
        stop = start + size
        yield start, [_cut(span, start, stop) for span in spans if span.start < stop and start < span.stop]


def _cut(span: Span, start: int, stop: int) -> Span:
    """What of a span lies between two places of the row, in a row that begins at the first of them."""
    first, last = max(span.start, start), min(span.stop, stop)
    before = len(span.positions) - (span.stop - last)
    ancestry = span.ancestry
    return replace(
        span,
        start=first - start,
        stop=last - start,
        positions=span.positions[:before],
        ancestry=None if ancestry is None else ancestry[first - span.start : last - span.start, :before],
    )


def _places(spans: Sequence[Span]) -> Numbers:
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
    """(tokens, longest scratch), as `kernels.see` wants them."""
    related = np.zeros((spans[-1].stop, max(len(span.positions) for span in spans)), np.bool_)
    for span in spans:
        scratch = len(span.positions)
        if span.ancestry is not None:
            related[span.start : span.stop, :scratch] = span.ancestry
        elif span.num_new == 1:  # as in every step of a draft, where to ask for a triangle would take a tenth of it
            related[span.start, :scratch] = True
        else:
            related[span.start : span.stop, :scratch] = np.tri(span.num_new, scratch, scratch - span.num_new, np.bool_)
    return related


def _floats(tensor: Tensor) -> Any:
    """As float32."""
    return tensor.detach().float().contiguous().numpy()
