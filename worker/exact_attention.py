"""Attention in which the bits of a token's output depend on its own path alone: not on the tree around it, nor on the
other sessions, nor on the slices in which a prompt was read.

The keys of a token at position t are cut at the last multiple of BLOCK that is not beyond t, and BLOCK before that. The
last part, the tail, is gathered in the order of the path into BLOCK places; tokens on one path share a tail. The block
before it, and all the distant rest, are shared by tokens that have the same past; the rest lies in order even where a
tree reaches into the next block. PyTorch's flash kernel computes each part and tells the logarithm of its weight, by
which they are put together.

For a fixed number of keys that kernel gives a query the same bits beside any number of others, if queries come in
multiples of a step: 2 on an Intel processor with AMX, 4 on an AMD one without. The step is found when a model is
loaded, by comparing the bits.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from speculation.errors import UnservableModelError
from worker.attention import CAUSAL, Predicate, Scoring, ShapeRecorder
from worker.cache import KeyValuePool, LayerShape
from worker.step import Span

BLOCK = 64
"""Places of a tail: the positions between two multiples of it."""

SHORT = 16
"""Tails of up to so many tokens share a kernel call, padded to the longest; those of prompts have one of their own."""

DISTANT, BEFORE, TAIL = range(3)
"""The parts."""

HIDDEN = -1e30
"""Added to the score of a key that may not be seen. Finite, so that a part of hidden keys weighs zero, and its average
is a number."""

STEPS = (2, 4, 8, 16, 32)

TRIAL_KEYS = (BLOCK, 2 * BLOCK, 3 * BLOCK, 5 * BLOCK, 8 * BLOCK, 9 * BLOCK, 16 * BLOCK)
"""Numbers of keys with which a step is tried: the kernel takes up to 512 at a time."""

TRIAL_QUERIES = 192
"""Most queries with which a step is tried: beyond, the kernel takes more of them at a time."""

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


@torch.inference_mode()
def step_of_queries(name: str, shapes: Collection[LayerShape]) -> int:
    """The smallest number whose multiples of queries the kernel keeps apart on this processor, for all layers.

    Raises:
        UnservableModelError: There is none.
    """
    sizes = {(shape.num_heads, shape.key_size) for shape in shapes}
    for step in STEPS:
        if all(_keeps_apart(step, heads, size, keys) for heads, size in sizes for keys in TRIAL_KEYS):
            return step
    raise UnservableModelError(
        name, "cannot be served bit for bit: this processor's attention depends on other queries"
    )


def _keeps_apart(step: int, heads: int, size: int, keys: int) -> bool:
    """Whether random queries have the same bits in the smallest groups, in larger ones, and at other places there."""
    generator = torch.Generator().manual_seed(keys)
    queries, key, value = (
        torch.randn(1, heads, count, size, generator=generator).bfloat16() for count in (TRIAL_QUERIES, keys, keys)
    )
    mask = torch.zeros(TRIAL_QUERIES, keys).masked_fill_(torch.rand(1, keys, generator=generator) < 0.3, HIDDEN)

    def attend(some: Tensor) -> Tensor:
        bias = mask[: some.shape[2]].bfloat16()
        average, log_weight = _flash(some, key, value, 0.0, False, attn_mask=bias, scale=size**-0.5)
        return torch.cat([average.float(), log_weight[..., None]], dim=-1)

    expected = torch.cat([attend(group) for group in torch.split(queries, step, dim=2)], dim=2)
    counts = [count for count in (2 * step, 3 * step, 5 * step, 7 * step, 64, TRIAL_QUERIES) if count <= TRIAL_QUERIES]
    return all(
        torch.equal(attend(queries[:, :, :count].roll(places, 2)), expected[:, :, :count].roll(places, 2))
        for count in counts
        for places in (0, 1, step // 2)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """New tokens of one block on one path.

    Attributes:
        span: Their session.
        path: Scratch tokens that lead to the last of them.
        tokens: Places in the packed row, downwards.
        positions: Of these tokens.
        begin: First position of their block.
    """

    span: Span
    path: Sequence[int]
    tokens: Sequence[int]
    positions: Sequence[int]
    begin: int

    def rows(self, start: int, stop: int) -> slice | list[int]:
        """Pool rows of the path's positions from start to stop - 1; a slice where they lie in order."""
        span, committed = self.span, self.span.num_committed
        if span.ancestry is None or stop <= committed:
            return slice(span.first_row + start, span.first_row + stop)
        kin = self.path[max(0, start - committed) : stop - committed]
        before = range(span.first_row + start, span.first_row + committed)
        return [*before, *(span.first_row + committed + node for node in kin)]

    def past(self, stop: int) -> tuple[int, int, int]:
        """Equal for branches that agree in all before a position."""
        in_order = self.span.ancestry is None or stop <= self.span.num_committed
        return self.span.start, stop, -1 if in_order else self.path[stop - self.span.num_committed - 1]


class ExactStep:
    """As `PooledStep`, and its output is the same to the last bit however a session's tokens come in.

    Args:
        pool: Where keys and values live, in bfloat16 on a CPU.
        spans: The sessions, in the order of the row.
        rows: (tokens,) pool row of each token; tokens of the row beyond them are padding.
        step: Queries come in multiples of it.
    """

    def __init__(self, pool: KeyValuePool, spans: Sequence[Span], rows: Tensor, *, step: int) -> None:
        self._pool = pool
        self._rows = rows
        branches = [branch for span in spans for branch in _branches(span)]
        short = [branch for branch in branches if len(branch.tokens) <= SHORT]
        long = [branch for branch in branches if len(branch.tokens) > SHORT]
        self._parts = [_tails(lots, step) for lots in (short, long) if lots]
        pasts: dict[tuple[int, int, int, int], list[_Branch]] = defaultdict(list)
        for branch in branches:
            if branch.begin:
                pasts[BEFORE, *branch.past(branch.begin)].append(branch)
            if branch.begin > BLOCK:
                pasts[DISTANT, *branch.past(branch.begin - BLOCK)].append(branch)
        for (kind, _, stop, _), alike in pasts.items():
            self._parts.append(_shared(alike, kind, stop - BLOCK if kind == BEFORE else 0, stop, step))

    def attend(
        self, layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, predicate: Predicate | None, scoring: Scoring
    ) -> Tensor:
        """Attention output (1, tokens, heads, value_size) of one layer; see `PooledStep.attend`. Zeros for padding."""
        count = len(self._rows)
        self._pool.write(layer, self._rows, key[:, :, :count], value[:, :, :count])
        keys, values = self._pool.keys[layer], self._pool.values[layer]
        queries = query[0].transpose(0, 1)
        averages = queries.new_zeros(3, *queries.shape)
        log_weights = torch.zeros(*queries.shape[:2], 3 if scoring.sinks is None else 4)
        log_weights[..., :TAIL] = float("-inf")
        if scoring.sinks is not None:
            log_weights[..., 3] = scoring.sinks
        for part in self._parts:
            average, log_weight = part.attend(queries, keys, values, predicate or CAUSAL, scoring.scale)
            averages[part.kind, part.tokens] = average
            log_weights[part.tokens, :, part.kind] = log_weight
        # Over the last dimension a softmax treats every row in the same way, wherever it stands in the tensor.
        weights = torch.softmax(log_weights, dim=-1)[..., :3].permute(2, 0, 1)[..., None]
        return (averages.float() * weights).sum(dim=0).to(query.dtype)[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Lots of queries, each lot looking at keys of its own.

    Attributes:
        kind: DISTANT, BEFORE or TAIL.
        tokens: (lots, queries) places in the packed row, a multiple of the step; the last is repeated as padding.
        positions: (lots, queries).
        rows: Pool rows of the keys: (lots, keys), or a slice for a single lot.
        key_positions: (lots, keys).
        masks: What is added to scores, by predicate and query heads of a key head.
    """

    kind: int
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
        """(lots, 1, group * queries, keys); None where all is seen."""
        if predicate is CAUSAL and self.kind != TAIL:
            return None
        found = self.masks.get((id(predicate), group))
        if found is None:
            query, key = self.positions[:, :, None], self.key_positions[:, None, :]
            hidden = ~(predicate(0, 0, query, key) & (key <= query))
            bias = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, HIDDEN)[:, None]
            # The predicate is kept beside its mask: were it freed, another could take its id within this step.
            found = self.masks[id(predicate), group] = predicate, bias.repeat(1, 1, group, 1)
        return found[1]


def _branches(span: Span) -> Iterator[_Branch]:
    """The branches of a session's new tokens, each token in one of them."""
    first = len(span.positions) - span.num_new
    covered: set[int] = set()
    for node in sorted(range(first, len(span.positions)), key=lambda node: -span.positions[node]):
        if node in covered:
            continue
        path = range(node + 1) if span.ancestry is None else np.flatnonzero(span.ancestry[node - first]).tolist()
        block = span.positions[node] // BLOCK
        nodes = [kin for kin in path if kin >= first and kin not in covered and span.positions[kin] // BLOCK == block]
        covered.update(nodes)
        yield _Branch(
            span=span,
            path=path,
            tokens=[span.start + kin - first for kin in nodes],
            positions=[span.positions[kin] for kin in nodes],
            begin=block * BLOCK,
        )


def _tails(branches: Sequence[_Branch], step: int) -> _Part:
    """What the branches see of their own blocks."""
    count = _rounded_up(max(len(branch.tokens) for branch in branches), step)
    begins = torch.tensor([branch.begin for branch in branches])
    rows = [branch.rows(branch.begin, branch.positions[-1] + 1) for branch in branches]
    return _Part(
        kind=TAIL,
        tokens=torch.tensor([_padded(branch.tokens, count) for branch in branches]),
        positions=torch.tensor([_padded(branch.positions, count) for branch in branches]),
        rows=torch.tensor([_padded(_listed(some), BLOCK) for some in rows]),
        key_positions=begins[:, None] + torch.arange(BLOCK),
    )


def _shared(branches: Sequence[_Branch], kind: int, start: int, stop: int, step: int) -> _Part:
    """What branches with the same past see between two positions before their block."""
    tokens = [token for branch in branches for token in branch.tokens]
    positions = [position for branch in branches for position in branch.positions]
    rows = branches[0].rows(start, stop)
    count = _rounded_up(len(tokens), step)
    return _Part(
        kind=kind,
        tokens=torch.tensor([_padded(tokens, count)]),
        positions=torch.tensor([_padded(positions, count)]),
        rows=rows if isinstance(rows, slice) else torch.tensor([rows]),
        key_positions=torch.arange(start, stop)[None],
    )


def _listed(rows: slice | list[int]) -> list[int]:
    return list(range(rows.start, rows.stop)) if isinstance(rows, slice) else rows


def _padded(numbers: Sequence[int], count: int) -> list[int]:
    """`count` numbers; the last one is repeated."""
    return [*numbers, *[numbers[-1]] * (count - len(numbers))]


def _rounded_up(count: int, step: int) -> int:
    return -(-count // step) * step
