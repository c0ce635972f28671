"""Attention in which the bits of a token's output depend on its own path alone: not on the tree around it, nor on the
other sessions, nor on the slices in which a prompt was read.

The keys of a token at position t are cut at the last multiple of BLOCK that is not beyond t. What lies before, the
whole part, is shared by all tokens of a block that have the same past. The rest, the tail, is gathered in the order of
the path into BLOCK places; tokens on one path share a tail. PyTorch's flash kernel computes both and tells the
logarithm of what each weighs, by which they are put together.

For a fixed number of keys that kernel gives a query the same bits beside any number of others (measured for 2 to 1024;
the engine looks again when it loads a model). One query alone, or alone in the last group of 32, is computed in another
way; so queries come in even numbers.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from speculation.errors import UnservableModelError
from worker.attention import CAUSAL, Predicate, Scoring, ShapeRecorder
from worker.cache import KeyValuePool
from worker.step import Span

BLOCK = 64
"""Places of a tail: the positions between two multiples of it."""

SHORT = 16
"""Tails of up to so many tokens share a kernel call, padded to the longest; those of prompts have one of their own."""

HIDDEN = -1e30
"""Added to the score of a key that may not be seen. Finite, so that a part of hidden keys weighs zero, and its average
is a number."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def refuse_inexact(name: str, recorder: ShapeRecorder) -> None:
    """Raise UnservableModelError for attention that cannot be computed here.

    Args:
        name: The model's.
        recorder: What a forward of it recorded.
    """
    if recorder.has_softcap:
        raise UnservableModelError(name, "cannot be served bit for bit: it bounds its attention scores (softcap)")
    if any(shape.key_size != shape.value_size for shape in recorder.shapes.values()):
        raise UnservableModelError(name, "cannot be served bit for bit: its keys and values differ in size")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tail:
    """Tokens of one block on one path.

    Attributes:
        tokens: Places in the packed row, downwards.
        positions: Of these tokens.
        block: Which block.
        rows: Pool rows of the path from the beginning of the block to the last of these tokens.
        past: Pool rows of all before the block.
        past_name: Equal for equal pasts.
    """

    tokens: Sequence[int]
    positions: Sequence[int]
    block: int
    rows: Sequence[int]
    past: slice | Sequence[int]
    past_name: tuple[int, int, int]


class ExactStep:
    """As `PooledStep`, and its output is the same to the last bit however a session's tokens come in.

    Args:
        pool: Where keys and values live, in bfloat16 on a CPU.
        spans: The sessions, in the order of the row.
        rows: (tokens,) pool row of each token; tokens of the row beyond them are padding.
    """

    def __init__(self, pool: KeyValuePool, spans: Sequence[Span], rows: Tensor) -> None:
        self._pool = pool
        self._rows = rows
        tails = [tail for span in spans for tail in _tails(span)]
        short = [tail for tail in tails if len(tail.tokens) <= SHORT]
        long = [tail for tail in tails if len(tail.tokens) > SHORT]
        self._parts = [_tail_part(lots) for lots in (short, long) if lots]
        pasts: dict[tuple[int, int, int], list[_Tail]] = defaultdict(list)
        for tail in tails:
            if tail.block:
                pasts[tail.past_name].append(tail)
        self._parts += map(_whole_part, pasts.values())

    def attend(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, predicate: Predicate | None, scoring: Scoring
    ) -> Tensor:
        """Attention output (1, tokens, heads, value_size) of one layer; see `PooledStep.attend`. Zeros for padding."""
        count = len(self._rows)
        self._pool.write(layer, self._rows, key[:, :, :count], value[:, :, :count])
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        queries = query[0].transpose(0, 1)
        averages = queries.new_zeros(2, *queries.shape)
        log_weights = torch.zeros(*queries.shape[:2], 2 if scoring.sinks is None else 3)
        log_weights[..., 0] = float("-inf")
        if scoring.sinks is not None:
            log_weights[..., 2] = scoring.sinks
        for part in self._parts:
            average, log_weight = part.attend(queries, keys, values, predicate or CAUSAL, scoring.scale)
            averages[part.side, part.tokens] = average
            log_weights[part.tokens, :, part.side] = log_weight
        # Over the last dimension a softmax treats every row in the same way, wherever it stands in the tensor.
        weights = torch.softmax(log_weights, dim=-1)[..., :2].permute(2, 0, 1)[..., None]
        return (averages.float() * weights).sum(dim=0).to(query.dtype)[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Lots of queries, each lot looking at keys of its own.

    Attributes:
        side: 0 for a whole part, 1 for tails.
        tokens: (lots, queries) places in the packed row, an even number of queries; the last is repeated as padding.
        positions: (lots, queries).
        rows: Pool rows of the keys: (lots, keys), or a slice for a single lot.
        key_positions: (lots, keys).
        masks: What is added to scores, by predicate and query heads of a key head.
    """

    side: int
    tokens: Tensor
    positions: Tensor
    rows: slice | Tensor
    key_positions: Tensor
    masks: dict[tuple[int, int], tuple[Predicate, Tensor]] = field(default_factory=dict)

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, predicate: Predicate, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Average of the values seen and the logarithm of their weight.

        Args:
            queries: (row, heads, size).
            keys: (pool rows, kv_heads, size).
            values: (pool rows, kv_heads, size).
            predicate: Who may see whom by position.
            scale: Factor on the dot products.

        Returns:
            (lots, queries, heads, size) and (lots, queries, heads).
        """
        (lots, count), (heads, size) = self.tokens.shape, queries.shape[1:]
        kv_heads = keys.shape[1]
        folded = queries[self.tokens].transpose(1, 2).reshape(lots, kv_heads, -1, size)
        average, log_weight = _flash(
            folded,
            self._of_lots(keys),
            self._of_lots(values),
            0.0,
            False,
            attn_mask=self._mask(predicate, heads // kv_heads, folded.dtype),
            scale=scale,
        )
        average, log_weight = average.reshape(lots, heads, count, size), log_weight.reshape(lots, heads, count)
        return average.transpose(1, 2), log_weight.transpose(1, 2)

    def _of_lots(self, buffer: Tensor) -> Tensor:
        """(lots, kv_heads, keys, size) of a layer's pool rows."""
        held = buffer[self.rows]
        return (held[None] if isinstance(self.rows, slice) else held).transpose(1, 2)

    def _mask(self, predicate: Predicate, group: int, dtype: torch.dtype) -> Tensor | None:
        """(lots, 1, group * queries, keys); None for a whole part of which all is seen."""
        if predicate is CAUSAL and not self.side:
            return None
        found = self.masks.get((id(predicate), group))
        if found is None:
            query, key = self.positions[:, :, None], self.key_positions[:, None, :]
            hidden = ~(predicate(0, 0, query, key) & (key <= query))
            bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, HIDDEN)[:, None]
            # The predicate is kept beside its mask: were it freed, another could take its id within this step.
            found = self.masks[id(predicate), group] = predicate, bias.repeat(1, 1, group, 1)
        return found[1]


def _tails(span: Span) -> Iterator[_Tail]:
    """The tails of a session's new tokens, each token in one of them."""
    first = len(span.positions) - span.num_new
    covered: set[int] = set()
    for node in sorted(range(first, len(span.positions)), key=lambda node: -span.positions[node]):
        if node in covered:
            continue
        path = range(node + 1) if span.ancestry is None else np.flatnonzero(span.ancestry[node - first]).tolist()
        block = span.positions[node] // BLOCK
        nodes = [kin for kin in path if kin >= first and kin not in covered and span.positions[kin] // BLOCK == block]
        covered.update(nodes)
        yield _tail(span, path, nodes, block, first=first)


def _tail(span: Span, path: Sequence[int], nodes: Sequence[int], block: int, *, first: int) -> _Tail:
    """The tail that holds the new tokens `nodes` of a path through the scratch."""
    begin = block * BLOCK
    tokens_before = span.first_row + span.num_committed
    rows = [
        *range(span.first_row + min(begin, span.num_committed), tokens_before),
        *(tokens_before + kin for kin in path),
    ]
    # Rows of the path from position min(begin, committed) on.
    skipped = max(0, begin - span.num_committed)
    in_order = span.ancestry is None or not skipped
    return _Tail(
        tokens=[span.start + node - first for node in nodes],
        positions=[span.positions[node] for node in nodes],
        block=block,
        rows=rows[skipped:],
        past=slice(span.first_row, span.first_row + begin)
        if in_order
        else [*range(span.first_row, tokens_before), *rows[:skipped]],
        past_name=(span.start, block, path[skipped - 1] if skipped else -1),
    )


def _tail_part(tails: Sequence[_Tail]) -> _Part:
    count = max(len(tail.tokens) for tail in tails)
    return _Part(
        side=1,
        tokens=torch.tensor([_padded(tail.tokens, count) for tail in tails]),
        positions=torch.tensor([_padded(tail.positions, count) for tail in tails]),
        rows=torch.tensor([_padded(tail.rows, BLOCK) for tail in tails]),
        key_positions=torch.tensor([[tail.block] for tail in tails]) * BLOCK + torch.arange(BLOCK),
    )


def _whole_part(tails: Sequence[_Tail]) -> _Part:
    """For tails that have the same past."""
    tokens = [token for tail in tails for token in tail.tokens]
    positions = [position for tail in tails for position in tail.positions]
    past = tails[0].past
    return _Part(
        side=0,
        tokens=torch.tensor([_padded(tokens, len(tokens))]),
        positions=torch.tensor([_padded(positions, len(positions))]),
        rows=past if isinstance(past, slice) else torch.tensor([past]),
        key_positions=torch.arange(tails[0].block * BLOCK)[None],
    )


def _padded(numbers: Sequence[int], count: int) -> list[int]:
    """`count` numbers, or one more if that is odd; the last one is repeated."""
    return [*numbers, *[numbers[-1]] * (count + count % 2 - len(numbers))]
