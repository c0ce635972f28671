"""One forward over a packed row: each session's tokens look at that session's past and their own branch, no further."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from worker.attention import CAUSAL, Mask, Predicate, Scoring, folded_heads, weighted_values
from worker.cache import KeyValuePool

MAX_PADDED_QUERIES = 64
"""A session with more new tokens is attended to alone: padding the others to its length would waste the batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One session's part of a packed row.

    Attributes:
        start: First of its tokens in the row.
        stop: One past its last token in the row.
        first_row: Pool row of the session's first token.
        num_committed: Tokens of the committed prefix.
        positions: Position of every scratch token, the new ones last.
        ancestry: (new, scratch) who descends from whom; None when the scratch is a chain.
    """

    start: int
    stop: int
    first_row: int
    num_committed: int
    positions: Sequence[int]
    ancestry: NDArray[np.bool_] | None

    @property
    def num_new(self) -> int:
        """Tokens in the row."""
        return self.stop - self.start

    @property
    def new_rows(self) -> tuple[int, int]:
        """Pool rows of its tokens: from the first to before the second."""
        last_row = self.first_row + self.num_keys
        return last_row - self.num_new, last_row

    @property
    def num_keys(self) -> int:
        """Tokens to look at: committed prefix, then scratch."""
        return self.num_committed + len(self.positions)


class PooledStep:
    """Writes a packed row's keys and values to the pool, and lets each part of the row attend to what it may see.

    Args:
        pool: Where keys and values live.
        spans: The sessions, in the order of the row.
        rows: (tokens,) pool row of each token.
        padded: Whether sessions with few new tokens share one padded kernel call, which suits a GPU. One by one is at
            least as fast on CPU (evidence: every cell of a five-model sweep).
    """

    def __init__(self, pool: KeyValuePool, spans: Sequence[Span], rows: Tensor, *, padded: bool) -> None:
        self._pool = pool
        self._rows = rows
        self._alone = pool.window(*spans[0].new_rows) if len(spans) == 1 else None
        short = [span for span in spans if padded and span.num_new <= MAX_PADDED_QUERIES]
        batch = short if len(short) > 1 else []
        self._parts: list[_Part] = [_Session(span, pool) for span in spans if span not in batch]
        if batch:
            self._parts.append(_PaddedBatch(batch, pool, rows.device))

    def attend(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, predicate: Predicate | None, scoring: Scoring
    ) -> Tensor:
        """Attention output of one layer.

        Args:
            layer: The attention module.
            query: (1, heads, tokens, key_size).
            key: (1, kv_heads, tokens, key_size).
            value: (1, kv_heads, tokens, value_size).
            predicate: Who may see whom by position; None is causal.
            scoring: The layer's score function.

        Returns:
            (1, tokens, heads, value_size).
        """
        self._write(layer, key, value)
        predicate = predicate or CAUSAL
        if len(self._parts) == 1:
            return self._parts[0].attend(layer, query, predicate, scoring)[None]
        output = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
        for part in self._parts:
            output[part.tokens] = part.attend(layer, query, predicate, scoring)
        return output[None]

    def _write(self, layer: nn.Module, key: Tensor, value: Tensor) -> None:
        """Store the row's keys and values; those of a single session lie side by side."""
        if self._alone is None:
            self._pool.write(layer, self._rows, key, value)
        else:
            self._alone.keys[layer].copy_(key)
            self._alone.values[layer].copy_(value)


class _Part:
    """Tokens of a row that one kernel call serves; remembers its masks, which most layers share."""

    tokens: slice | Tensor

    def __init__(self) -> None:
        self._masks: dict[tuple[int, int], tuple[Predicate, Mask]] = {}

    def attend(self, layer: nn.Module, query: Tensor, predicate: Predicate, scoring: Scoring) -> Tensor:
        """Attention output (tokens, heads, value_size) of a layer."""
        raise NotImplementedError

    def _mask(self, predicate: Predicate, copies: int, like: Tensor) -> Mask:
        """The mask for a predicate, its bias repeated for folded heads."""
        found = self._masks.get((id(predicate), copies))
        if found is None:
            # The predicate is kept beside its mask: were it freed, another could take its id within this step.
            found = self._masks[id(predicate), copies] = predicate, self._new_mask(predicate, copies, like)
        return found[1]

    def _new_mask(self, predicate: Predicate, copies: int, like: Tensor) -> Mask:
        raise NotImplementedError


class _Session(_Part):
    """One session, reading views of the pool."""

    def __init__(self, span: Span, pool: KeyValuePool) -> None:
        super().__init__()
        self._span = span
        self._own = pool.window(span.first_row, span.first_row + span.num_keys)
        self.tokens = slice(span.start, span.stop)

    def attend(self, layer: nn.Module, query: Tensor, predicate: Predicate, scoring: Scoring) -> Tensor:
        """Attention output (tokens, heads, value_size)."""
        keys, values = self._own.keys[layer], self._own.values[layer]
        copies = folded_heads(query.shape[1], keys.shape[1], self._span.num_new)
        own = query if query.shape[2] == self._span.num_new else query[:, :, self.tokens]
        output = weighted_values(own, keys, values, self._mask(predicate, copies, query), scoring)
        return output[0].transpose(0, 1)

    def _new_mask(self, predicate: Predicate, copies: int, like: Tensor) -> Mask:
        span = self._span
        if span.ancestry is None and predicate is CAUSAL:
            if span.num_new == 1:
                return Mask()
            if span.num_new == span.num_keys:
                return Mask(is_triangle=True)
        positions = torch.tensor(span.positions, device=like.device)
        key_positions = torch.cat([torch.arange(span.num_committed, device=like.device), positions])
        visible = predicate(0, 0, positions[-span.num_new :, None], key_positions[None, :])
        if span.ancestry is not None:
            visible = visible.clone()
            visible[:, span.num_committed :] &= torch.from_numpy(span.ancestry).to(like.device)
        return Mask(_bias(visible, like).repeat(copies, 1))


class _PaddedBatch(_Part):
    """Several sessions in one rectangle.

    Padding repeats a session's own first token and first row, so that nothing another session holds can leak in, not
    even a value that is not a number.
    """

    def __init__(self, spans: Sequence[Span], pool: KeyValuePool, device: torch.device) -> None:
        super().__init__()
        self._pool = pool
        size = len(spans), max(span.num_new for span in spans), max(span.num_keys for span in spans)
        is_query = np.arange(size[1]) < np.array([[span.num_new] for span in spans])
        queries = np.zeros(size[:2], np.int64)
        rows = np.zeros((size[0], size[2]), np.int64)
        positions = np.zeros((size[0], size[2]), np.int64)
        related = np.zeros(size, np.bool_)
        related[:, :, 0] = True  # a padded query must see something, or its softmax is not a number
        for index, span in enumerate(spans):
            new, committed, keys = span.num_new, span.num_committed, span.num_keys
            queries[index] = span.start + np.where(is_query[index], np.arange(size[1]), 0)
            rows[index] = span.first_row
            rows[index, :keys] += np.arange(keys)
            positions[index, :committed] = np.arange(committed)
            positions[index, committed:keys] = span.positions
            related[index, :new, :keys] = True
            if span.ancestry is not None:
                related[index, :new, committed:keys] = span.ancestry
        last = np.array([[span.num_keys - span.num_new] for span in spans]) + np.arange(size[1])
        query_positions = np.take_along_axis(positions, np.where(is_query, last, 0), axis=1)

        self.tokens = torch.from_numpy(queries[is_query]).to(device)
        self._is_query = torch.from_numpy(is_query).to(device)
        self._queries = torch.from_numpy(queries).to(device)
        self._rows = torch.from_numpy(rows).to(device)
        self._query_positions = torch.from_numpy(query_positions).to(device)
        self._key_positions = torch.from_numpy(positions).to(device)
        self._related = torch.from_numpy(related).to(device)

    def attend(self, layer: nn.Module, query: Tensor, predicate: Predicate, scoring: Scoring) -> Tensor:
        """Attention output (tokens, heads, value_size)."""
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        copies = folded_heads(query.shape[1], keys.shape[1], self._queries.shape[1])
        output = weighted_values(
            query[0].transpose(0, 1)[self._queries].transpose(1, 2),
            keys[self._rows].transpose(1, 2),
            values[self._rows].transpose(1, 2),
            self._mask(predicate, copies, query),
            scoring,
        )
        return output.transpose(1, 2)[self._is_query]

    def _new_mask(self, predicate: Predicate, copies: int, like: Tensor) -> Mask:
        by_position = predicate(0, 0, self._query_positions[:, :, None], self._key_positions[:, None, :])
        return Mask(_bias(self._related & by_position, like)[:, None].repeat(1, 1, copies, 1))


def _bias(visible: Tensor, like: Tensor) -> Tensor:
    """0 where visible, -inf elsewhere; made once per step, since kernels convert a boolean mask in every layer."""
    return torch.zeros(visible.shape, dtype=like.dtype, device=like.device).masked_fill_(~visible, float("-inf"))
