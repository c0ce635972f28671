"""Keys and values of every token, what it sees of them, and a head's attention to that.

Attention reads LANES keys, and then values, for one token after another, so that they come from the nearest cache. LLVM
would look for overlaps of arrays before every such loop of Python's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba import boolean, float32, int64, types, void
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from speculation.compiled import compiled
from worker.kernels.arithmetic import CONTRACTED, REORDERED, ZERO, exp
from worker.kernels.formats import Rows, Sums, in_each_format, kept, number, rounded, widened
from worker.kernels.processor import LANES
from worker.kernels.vectors import VectorCode, plus_product, spread


@in_each_format(lambda of: void(of.rows, float32[:, :, ::1], int64[:, ::1], of.table, of.table), fastmath=REORDERED)
def place(joined: Rows, rotation: Sums, places: NDArray[np.int64], keys: Rows, values: Rows) -> None:
    """Turn queries and keys to their positions, in place, and store keys and values.

    Args:
        joined: (n, query, key and value heads by head size).
        rotation: (positions, 2, half a head), cosines and sines.
        places: (n, 4) pool row, position, the session's first row and its committed tokens.
        keys: (pool rows, key heads, head size).
        values: Of the same shape.
    """
    _, num_keys, size = keys.shape
    num_rotated = joined.shape[1] // size - num_keys
    heads = joined.reshape(len(joined), -1, size)
    halves = joined.reshape(len(joined), -1, 2, size // 2)
    for token in range(len(joined)):
        row, position = places[token, 0], places[token, 1]
        for head in range(num_rotated):
            for i in range(size // 2):
                x, y = number(halves[token, head, 0, i]), number(halves[token, head, 1, i])
                cos, sin = rotation[position, 0, i], rotation[position, 1, i]
                halves[token, head, 0, i] = kept(rounded(x * cos, halves) - rounded(y * sin, halves), halves)
                halves[token, head, 1, i] = kept(rounded(y * cos, halves) + rounded(x * sin, halves), halves)
        for head in range(num_keys):
            for i in range(size):
                keys[row, head, i] = heads[token, num_rotated - num_keys + head, i]
                values[row, head, i] = heads[token, num_rotated + head, i]


@compiled(void(int64[:, ::1], boolean[:, ::1], int64, int64[:, ::1], int64[::1]))
def see(
    places: NDArray[np.int64],
    related: NDArray[np.bool_],
    row_size: int,
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """What every token looks at: its session's committed prefix, then its own path.

    Args:
        places: See `place`.
        related: (n, longest scratch), the tokens of its session's scratch that each descends from, itself included.
        row_size: Numbers in a row of keys or values.
        seen: (n, a multiple of LANES), written: where in the pool their rows begin, in the order of the text; the last
            one is repeated.
        counts: (n,), written: how many they are.
    """
    for token in range(len(seen)):
        first_row, committed = places[token, 2], places[token, 3]
        count = committed
        for i in range(committed):
            seen[token, i] = (first_row + i) * row_size
        for node in range(related.shape[1]):
            if related[token, node]:
                seen[token, count] = (first_row + committed + node) * row_size
                count += 1
        seen[token, count:] = seen[token, count - 1]
        counts[token] = count


class _HeadCode(VectorCode):
    """Writes what is done with the vectors of a head, the last one cut to the head's size."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        super().__init__(context, builder, signature, arguments)
        self._mask = ir.VectorType(ir.IntType(1), LANES)

    def element(self, array: Any, *indices: Any) -> Any:
        """Where an element of an array begins, or all of those below it."""
        shape = self._cgutils.unpack_tuple(self._builder, array.shape)
        place = self.number(0)
        for index, size in zip(indices, shape, strict=False):
            place = self._builder.add(self._builder.mul(place, size), index)
        for size in shape[len(indices) :]:
            place = self._builder.mul(place, size)
        return self._builder.gep(array.data, [place])

    def seen_starts(self, array: Any, head: Any, first: Any) -> list[Any]:
        """Where a head of LANES rows begins, the first of which `see` listed here."""
        start = self.element(array, self.number(0), head)
        places = [self._builder.load(self._builder.gep(first, [self.number(lane)])) for lane in range(LANES)]
        return [self._builder.gep(start, [place]) for place in places]

    @contextmanager
    def parts(self, size: Any) -> Iterator[tuple[Any, Any]]:
        """A loop over the vectors of a head: the first number of each, and which of its lanes are inside."""
        lanes = ir.Constant(ir.VectorType(self.number, LANES), list(range(LANES)))
        step = self.number(LANES)
        with self._cgutils.for_range_slice(self._builder, self.number(0), size, step, self.number) as (first, _):
            left = spread(self._builder, self._builder.sub(size, first), lanes.type)
            yield first, self._builder.icmp_signed(">", left, lanes)

    def load(self, start: Any, first: Any, inside: Any) -> Any:
        """A vector of kept numbers; outside of the head it is 0."""
        vector = ir.VectorType(start.type.pointee, LANES)
        kind = ir.FunctionType(vector, [vector.as_pointer(), ir.IntType(32), self._mask, vector])
        at = self.vector_at(self._builder.gep(start, [first]), vector)
        loaded = self._masked("load", vector, kind, at, ir.IntType(32)(2), inside, ir.Constant(vector, None))
        integers = ir.VectorType(ir.IntType(32), LANES)
        return loaded if vector == self.vector else widened(self._builder, loaded, integers, self.vector)

    def store(self, vector: Any, start: Any, first: Any, inside: Any) -> None:
        """What of it is inside of the head."""
        kind = ir.FunctionType(ir.VoidType(), [self.vector, self.vector.as_pointer(), ir.IntType(32), self._mask])
        at = self.vector_at(self._builder.gep(start, [first]))
        self._masked("store", self.vector, kind, vector, at, ir.IntType(32)(4), inside)

    def _masked(self, name: str, vector: Any, kind: Any, *arguments: Any) -> Any:
        element = "f32" if vector == self.vector else "i16"
        function = self._cgutils.get_or_insert_function(
            self._builder.module, kind, f"llvm.masked.{name}.v{LANES}{element}.p0"
        )
        return self._builder.call(function, arguments)


def _declare_score(
    _: Any, queries: Any, token: Any, head: Any, keys: Any, key_head: Any, seen: Any, at: Any, weights: Any
) -> tuple[Any, Any]:
    """weights[token, at : at + LANES] = dot products of its query with the keys of seen[token, at : at + LANES]."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _HeadCode(context, builder, signature, arguments)
        queries, keys, seen, weights = (code.array(place) for place in (0, 3, 5, 7))
        _, token, head, _, key_head, _, at, _ = arguments
        query = code.element(queries, token, head)
        starts = code.seen_starts(keys, key_head, code.element(seen, token, at))
        zero = ir.Constant(code.vector, None)
        totals = [cast(Any, cgutils).alloca_once_value(builder, zero) for _ in starts]
        with code.parts(builder.extract_value(keys.shape, 2)) as (first, inside):
            factor = code.load(query, first, inside)
            for start, total in zip(starts, totals, strict=True):
                key = code.load(start, first, inside)
                builder.store(plus_product(builder, builder.load(total), factor, key), total)
        sums = _folded(builder, [builder.load(total) for total in totals])
        builder.store(sums, code.vector_at(code.element(weights, token, at)), align=4)
        return context.get_dummy_value()

    return types.void(queries, token, head, keys, key_head, seen, at, weights), write


def _folded(builder: Any, vectors: list[Any]) -> Any:
    """One vector of the sums of as many vectors as it has lanes: neighbours are added until one is left of each."""
    lanes = ir.VectorType(ir.IntType(32), LANES)
    even, odd = (ir.Constant(lanes, list(range(first, 2 * LANES, 2))) for first in (0, 1))
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [
            builder.fadd(builder.shuffle_vector(*pair, even), builder.shuffle_vector(*pair, odd)) for pair in pairs
        ]
    return vectors[0]


def _declare_mix(
    _: Any, values: Any, value_head: Any, seen: Any, at: Any, weights: Any, outputs: Any, token: Any
) -> tuple[Any, Any]:
    """outputs[token] += the values of seen[token, at : at + LANES] by their weights."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _HeadCode(context, builder, signature, arguments)
        values, seen, weights, outputs = (code.array(place) for place in (0, 2, 4, 5))
        _, value_head, _, at, _, _, token = arguments
        output = code.element(outputs, token)
        starts = code.seen_starts(values, value_head, code.element(seen, token, at))
        first_weight = code.element(weights, token, at)
        factors = [
            spread(builder, builder.load(builder.gep(first_weight, [code.number(lane)])), code.vector)
            for lane in range(LANES)
        ]
        with code.parts(builder.extract_value(values.shape, 2)) as (first, inside):
            sums = [code.load(output, first, inside), *[ir.Constant(code.vector, None)] * 3]
            for lane, (start, factor) in enumerate(zip(starts, factors, strict=True)):
                sums[lane % 4] = plus_product(builder, sums[lane % 4], factor, code.load(start, first, inside))
            code.store(
                builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3])), output, first, inside
            )
        return context.get_dummy_value()

    return types.void(values, value_head, seen, at, weights, outputs, token), write


_score: Any = intrinsic(_declare_score)
_mix: Any = intrinsic(_declare_mix)


@compiled(fastmath=CONTRACTED)  # reordered, code from the cache and code just compiled had sums in orders of their own
def _soften(weights: Any, token: int, count: int, scale: float) -> None:
    """weights[token] = softmax of the first count of them, scaled; the others are 0."""
    most = weights[token, 0]
    for at in range(count):
        most = max(most, weights[token, at])
    for at in range(count):
        weights[token, at] = exp((weights[token, at] - most) * scale)
    total = ZERO
    for at in range(count):
        total += weights[token, at]
    for at in range(count):
        weights[token, at] /= total
    weights[token, count:] = ZERO


@compiled(fastmath=CONTRACTED)
def attend_head(
    queries: Any,
    keys: Any,
    values: Any,
    head: int,
    key_head: int,
    seen: Any,
    counts: Any,
    scale: Any,
    weights: Any,
    mixed: Any,
) -> None:
    """mixed (n, head size) = attention of a head of queries (n, heads, head size), every token to what it sees.
    There has to be room for weights (n, most keys seen)."""
    most = seen.shape[1]
    mixed[:] = ZERO
    for at in range(0, most, LANES):
        for token in range(len(queries)):
            if at < counts[token]:
                _score(queries, token, head, keys, key_head, seen, at, weights)
    for token in range(len(queries)):
        _soften(weights, token, min(counts[token], most), scale)
    for at in range(0, most, LANES):
        for token in range(len(queries)):
            if at < counts[token]:
                _mix(values, key_head, seen, at, weights, mixed, token)
