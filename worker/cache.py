"""Keys and values of every session: plain rows that the engine owns, so that a tree can be cut back to one path."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """What one attention layer stores for one token."""

    num_heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Window:
    """Views of a range of rows, by layer: (1, kv_heads, rows, size)."""

    keys: Mapping[nn.Module, Tensor]
    values: Mapping[nn.Module, Tensor]


class KeyValuePool:
    """One key row and one value row per token place and attention layer.

    Layers are found by their module, not by a number, since numbers repeat in models made of several stacks. Buffers of
    equal shape share one tensor, so a uniform model is compacted by a single copy.
    """

    def __init__(self, shapes: Mapping[nn.Module, LayerShape], *, rows: int, device: torch.device) -> None:
        members: dict[tuple[int, int, torch.dtype], list[tuple[bool, nn.Module]]] = {}
        for layer, shape in shapes.items():
            members.setdefault((shape.num_heads, shape.key_size, shape.dtype), []).append((True, layer))
            members.setdefault((shape.num_heads, shape.value_size, shape.dtype), []).append((False, layer))
        self._groups: list[Tensor] = []
        self._members = tuple(members.values())
        self.keys: dict[nn.Module, Tensor] = {}
        self.values: dict[nn.Module, Tensor] = {}
        for (num_heads, size, dtype), buffers in members.items():
            group = torch.zeros(len(buffers), rows, num_heads, size, dtype=dtype, device=device)
            self._groups.append(group)
            for buffer, (is_key, layer) in zip(group, buffers, strict=True):
                (self.keys if is_key else self.values)[layer] = buffer

    @property
    def num_bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(group.nbytes for group in self._groups)

    def window(self, first: int, stop: int) -> Window:
        """The rows from first to before stop, of all layers at once: a view costs more than a small product's row."""
        keys: dict[nn.Module, Tensor] = {}
        values: dict[nn.Module, Tensor] = {}
        for group, buffers in zip(self._groups, self._members, strict=True):
            views = group[:, None, first:stop].transpose(2, 3).unbind()
            for view, (is_key, layer) in zip(views, buffers, strict=True):
                (keys if is_key else values)[layer] = view
        return Window(keys, values)

    def write(self, layer: nn.Module, rows: Tensor, key: Tensor, value: Tensor) -> None:
        """Store one packed row of tokens.

        Args:
            layer: The attention module.
            rows: (tokens,) row of each token.
            key: (1, kv_heads, tokens, key_size).
            value: (1, kv_heads, tokens, value_size).
        """
        self.keys[layer].index_copy_(0, rows, key[0].transpose(0, 1))
        self.values[layer].index_copy_(0, rows, value[0].transpose(0, 1))

    def copy(self, source: int, target: int, count: int) -> None:
        """Copy `count` rows of every layer, from row `source` on, to the rows from `target` on; they do not overlap."""
        for group in self._groups:
            group[:, target : target + count] = group[:, source : source + count]

    def move(self, sources: Tensor, target: int) -> None:
        """Copy the rows `sources` of every layer to the rows from `target` on; the ranges may overlap."""
        for group in self._groups:
            group[:, target : target + len(sources)] = group[:, sources]


class PackedRow(Cache):
    """Stands in for transformers' cache: the past lies in the pool, and a layer sees only the new tokens.

    Passing None instead would make transformers take positions that jump for packed training sequences and cut the
    mask between them.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.positions: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Hand the new keys and values on unchanged."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> Tensor | int:  # type: ignore[override]
        """What a layer must add to a token's place in the row to get its position.

        One number would do for one session; Llama 4, whose queries are scaled by position, adds it to a range and takes
        one number per token as well. A model that branches on it raises, and is refused.
        """
        if self.positions is None:
            return 0
        return self.positions - torch.arange(len(self.positions), device=self.positions.device)

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Masks are evaluated on true positions later, so they start at zero here."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys as transformers sees them: just the new tokens."""
        return query_length, 0
