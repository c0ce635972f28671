"""What a decoder layer computes and what a verdict rests on, compiled by numba: torch's calls cost as much as the sums
of a small forward.

Each row is computed by itself in a fixed order, and attention reads the keys that a token sees in the order of its
text, so that a row's bits do not depend on the other rows of a forward.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import boolean, float32, float64, int64, types, void
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from speculation.compiled import compiled

Rows = NDArray[np.float32]
Panels = NDArray[np.float32]

LANES = 16 if get_host_cpu_features().get("avx512f") else 8
"""Numbers in a register of the processor."""

WIDTH = 64 if LANES == 16 else 16
"""Outputs of a panel: with as many sums for each of MOST_ROWS rows, the registers of the processor are nearly full."""

MOST_ROWS = 6
"""Rows of which sums are made at once."""

REORDERED = frozenset({"reassoc", "contract", "arcp", "nsz"})
"""What sums need to be vectorised. Not `nnan` and `ninf`: what is no number stays none."""

CONTRACTED = frozenset({"contract"})
"""Not reordered; none at all would be the caller's, which are."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)

_vector, _rows, _table = float32[::1], float32[:, ::1], float32[:, :, ::1]
_places = int64[:, ::1]


@compiled(fastmath=CONTRACTED)  # reordered, the rounding by adding and subtracting a large number would be left out
def _exp(x: Any) -> Any:
    """e to the x, within two units in the last place, x being cut to [-87, 88]. Source: Cephes, expf."""
    bounded = max(min(x, np.float32(88.0)), np.float32(-87.0))
    shifted = np.float32(bounded * np.float32(1.44269504) + np.float32(12582912.0))
    exponent = shifted - np.float32(12582912.0)
    rest = bounded - exponent * np.float32(0.693359375) + exponent * np.float32(2.12194440e-4)
    power = np.float32(1.9875691500e-4) * rest + np.float32(1.3981999507e-3)
    power = power * rest + np.float32(8.3334519073e-3)
    power = power * rest + np.float32(4.1665795894e-2)
    power = power * rest + np.float32(1.6666665459e-1)
    power = power * rest + np.float32(5.0000001201e-1)
    power = power * rest * rest + rest + _ONE
    return power * np.int32((shifted.view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)


@compiled(void(_rows, _vector, float32, _rows), fastmath=REORDERED)
def normalise(rows: Rows, weight: Rows, eps: float, normed: Rows) -> None:
    """Root mean square norm of (n, channels). Source: Zhang and Sennrich 2019, arXiv:1910.07467."""
    size = rows.shape[1]
    for row in range(len(rows)):
        squares = _ZERO
        for i in range(size):
            squares += rows[row, i] * rows[row, i]
        factor = _ONE / math.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            normed[row, i] = rows[row, i] * factor * weight[i]


@compiled(void(_rows, _rows), fastmath=REORDERED)
def add(rows: Rows, other: Rows) -> None:
    """Add (n, channels) to rows in place."""
    for row in range(len(rows)):
        for i in range(rows.shape[1]):
            rows[row, i] += other[row, i]


@compiled(void(_rows, _rows, float32), fastmath=REORDERED)
def normalise_heads(joined: Rows, weights: Rows, eps: float) -> None:
    """Root mean square norm of the first heads of each row, in place; weights are (heads, head size)."""
    num_heads, size = weights.shape
    heads = joined.reshape(len(joined), -1, size)
    for row in range(len(joined)):
        for head in range(num_heads):
            squares = _ZERO
            for i in range(size):
                squares += heads[row, head, i] * heads[row, head, i]
            factor = _ONE / math.sqrt(squares / np.float32(size) + eps)
            for i in range(size):
                heads[row, head, i] = heads[row, head, i] * factor * weights[head, i]


@compiled(void(_rows, _rows), fastmath=REORDERED)
def gate(gate_up: Rows, gated: Rows) -> None:
    """silu(gate) * up, for rows (n, 2 * hidden units) with gates first."""
    size = gated.shape[1]
    halves = gate_up.reshape(len(gate_up), 2, size)
    for row in range(len(gated)):
        for i in range(size):
            gated[row, i] = halves[row, 0, i] / (_ONE + _exp(-halves[row, 0, i])) * halves[row, 1, i]


# Products: LLVM makes no tile of sums in registers of Python's loops, so it is told here, in its own words.


class _VectorCode:
    """Writes what is done with vectors of so many numbers, in the code of an intrinsic."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any, *, size: int) -> None:
        self._context, self._builder, self._kinds, self._arguments = context, builder, signature.args, arguments
        self.vector = ir.VectorType(ir.FloatType(), size)

    def array(self, place: int) -> Any:
        """An argument that is one."""
        return self._context.make_array(self._kinds[place])(self._context, self._builder, self._arguments[place])

    def vector_at(self, pointer: Any) -> Any:
        """The vector that begins with this number."""
        return self._builder.bitcast(pointer, self.vector.as_pointer())


def _declare_add_products(_: Any, rows: Any, first: Any, count: Any, panel: Any, sums: Any) -> tuple[Any, Any]:
    """The innermost loop: sums (count, WIDTH) of rows (n, in), from the first one on, times a panel (1 + in, WIDTH).

    count is a constant: the sums stay in registers, and a panel's row is loaded once for all of them.
    """
    return types.void(rows, first, count, panel, sums), _writer_of(count.literal_value)


def _writer_of(count: int) -> Callable[..., Any]:
    """What writes the code of the innermost loop."""
    build = cast(Any, cgutils)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def row_of(data: Any, index: Any, size: Any) -> Any:
            return builder.gep(data, [builder.mul(index, size)])

        code = _VectorCode(context, builder, signature, arguments, size=WIDTH)
        rows, panel, sums = (code.array(place) for place in (0, 3, 4))
        depth = builder.extract_value(rows.shape, 1)
        number = depth.type
        inputs = [row_of(rows.data, builder.add(arguments[1], number(row)), depth) for row in range(count)]
        biases = builder.load(code.vector_at(panel.data), align=4)
        totals = [build.alloca_once_value(builder, biases) for _ in range(count)]
        with build.for_range(builder, depth) as loop:
            at = row_of(panel.data, builder.add(loop.index, number(1)), number(WIDTH))
            weights = builder.load(code.vector_at(at), align=4)
            for row, total in zip(inputs, totals, strict=True):
                factor = _spread(builder, builder.load(builder.gep(row, [loop.index])), code.vector)
                builder.store(_plus_product(builder, builder.load(total), factor, weights), total)
        for place, total in enumerate(totals):
            at = row_of(sums.data, number(place), number(WIDTH))
            builder.store(builder.load(total), code.vector_at(at), align=4)
        return context.get_dummy_value()

    return write


def _plus_product(builder: Any, total: Any, factor: Any, other: Any) -> Any:
    """total + factor * other, rounded once where the processor can."""
    return builder.fadd(total, builder.fmul(factor, other, flags=("contract",)), flags=("contract",))


def _spread(builder: Any, number: Any, wide: ir.VectorType) -> Any:
    """A vector of one number."""
    none = ir.Constant(wide, ir.Undefined)
    first = builder.insert_element(none, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(ir.IntType(32), wide.count), None))


_add_products: Any = intrinsic(prefer_literal=True)(_declare_add_products)


@compiled()
def _add_products_of(rows: Any, first: int, count: int, panel: Any, sums: Any) -> None:
    """See `_declare_add_products`; count is 1 to MOST_ROWS."""
    if count == 1:
        _add_products(rows, first, 1, panel, sums)
    elif count == 2:
        _add_products(rows, first, 2, panel, sums)
    elif count == 3:
        _add_products(rows, first, 3, panel, sums)
    elif count == 4:
        _add_products(rows, first, 4, panel, sums)
    elif count == 5:
        _add_products(rows, first, 5, panel, sums)
    else:
        _add_products(rows, first, 6, panel, sums)


@compiled(void(_rows, _table, _rows), nogil=True)
def multiply(rows: Rows, panels: Panels, products: Rows) -> None:
    """Rows (n, in) times the weights in panels (out / WIDTH, 1 + in, WIDTH), and the bias added: (n, out).

    Rows come in groups of nearly equal size, which read a panel in turn while it lies in the nearest cache.
    """
    num_rows, num_outputs = products.shape
    num_groups = (num_rows + MOST_ROWS - 1) // MOST_ROWS
    sums = np.empty((MOST_ROWS, WIDTH), np.float32)
    for index in range(len(panels)):
        at = index * WIDTH
        first = 0
        for group in range(num_groups):
            stop = num_rows * (group + 1) // num_groups
            _add_products_of(rows, first, stop - first, panels[index], sums)
            for row in range(first, stop):
                for i in range(min(WIDTH, num_outputs - at)):
                    products[row, at + i] = sums[row - first, i]
            first = stop


@compiled(void(int64[::1], _table, _rows))
def look_up(columns: NDArray[np.int64], panels: Panels, rows: Rows) -> None:
    """The weights (n, in) of some outputs."""
    for row in range(len(columns)):
        index, lane = columns[row] // WIDTH, columns[row] % WIDTH
        for i in range(rows.shape[1]):
            rows[row, i] = panels[index, 1 + i, lane]


@compiled(void(_rows, _table, int64[:, ::1], _table, _table), fastmath=REORDERED)
def place(joined: Rows, rotation: Rows, places: NDArray[np.int64], keys: Rows, values: Rows) -> None:
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
                x, y = halves[token, head, 0, i], halves[token, head, 1, i]
                cos, sin = rotation[position, 0, i], rotation[position, 1, i]
                halves[token, head, 0, i] = x * cos - y * sin
                halves[token, head, 1, i] = y * cos + x * sin
        for head in range(num_keys):
            for i in range(size):
                keys[row, head, i] = heads[token, num_rotated - num_keys + head, i]
                values[row, head, i] = heads[token, num_rotated + head, i]


@compiled(void(_places, boolean[:, ::1], int64, _places, int64[::1]))
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


# Attention reads LANES keys, and then values, for one token after another, so that they come from the nearest cache.
# LLVM would look for overlaps of arrays before every such loop of Python's.


class _HeadCode(_VectorCode):
    """The same for vectors of a head, of LANES numbers each, the last one cut to the head's size."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        super().__init__(context, builder, signature, arguments, size=LANES)
        self._cgutils, self.number = cast(Any, cgutils), ir.IntType(64)
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
            left = _spread(self._builder, self._builder.sub(size, first), lanes.type)
            yield first, self._builder.icmp_signed(">", left, lanes)

    def load(self, start: Any, first: Any, inside: Any) -> Any:
        """A vector; outside of the head it is 0."""
        kind = ir.FunctionType(self.vector, [self.vector.as_pointer(), ir.IntType(32), self._mask, self.vector])
        return self._masked(
            "load", kind, self._at(start, first), ir.IntType(32)(4), inside, ir.Constant(self.vector, None)
        )

    def store(self, vector: Any, start: Any, first: Any, inside: Any) -> None:
        """What of it is inside of the head."""
        kind = ir.FunctionType(ir.VoidType(), [self.vector, self.vector.as_pointer(), ir.IntType(32), self._mask])
        self._masked("store", kind, vector, self._at(start, first), ir.IntType(32)(4), inside)

    def _at(self, start: Any, first: Any) -> Any:
        return self.vector_at(self._builder.gep(start, [first]))

    def _masked(self, name: str, kind: Any, *arguments: Any) -> Any:
        function = self._cgutils.get_or_insert_function(
            self._builder.module, kind, f"llvm.masked.{name}.v{LANES}f32.p0"
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
                builder.store(_plus_product(builder, builder.load(total), factor, key), total)
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
    _: Any, values: Any, value_head: Any, seen: Any, at: Any, weights: Any, outputs: Any, token: Any, head: Any
) -> tuple[Any, Any]:
    """outputs[token, head] += the values of seen[token, at : at + LANES] by their weights."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _HeadCode(context, builder, signature, arguments)
        values, seen, weights, outputs = (code.array(place) for place in (0, 2, 4, 5))
        _, value_head, _, at, _, _, token, head = arguments
        output = code.element(outputs, token, head)
        starts = code.seen_starts(values, value_head, code.element(seen, token, at))
        first_weight = code.element(weights, token, at)
        factors = [
            _spread(builder, builder.load(builder.gep(first_weight, [code.number(lane)])), code.vector)
            for lane in range(LANES)
        ]
        with code.parts(builder.extract_value(values.shape, 2)) as (first, inside):
            sums = [code.load(output, first, inside), *[ir.Constant(code.vector, None)] * 3]
            for lane, (start, factor) in enumerate(zip(starts, factors, strict=True)):
                sums[lane % 4] = _plus_product(builder, sums[lane % 4], factor, code.load(start, first, inside))
            code.store(
                builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3])), output, first, inside
            )
        return context.get_dummy_value()

    return types.void(values, value_head, seen, at, weights, outputs, token, head), write


_score: Any = intrinsic(_declare_score)
_mix: Any = intrinsic(_declare_mix)


@compiled(fastmath=REORDERED)
def _soften(weights: Any, token: int, count: int, scale: float) -> None:
    """weights[token] = softmax of the first count of them, scaled; the others are 0."""
    most = weights[token, 0]
    for at in range(count):
        most = max(most, weights[token, at])
    total = _ZERO
    for at in range(count):
        weight = _exp((weights[token, at] - most) * scale)
        weights[token, at] = weight
        total += weight
    for at in range(count):
        weights[token, at] /= total
    weights[token, count:] = _ZERO


@compiled(void(_rows, _table, _table, _places, int64[::1], float32, _rows), fastmath=REORDERED)
def attend(
    joined: Rows,
    keys: Rows,
    values: Rows,
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
    scale: float,
    attended: Rows,
) -> None:
    """Attention of every token to what it sees.

    Args:
        joined: As `place` leaves it.
        keys: See `place`.
        values: See `place`.
        seen: See `see`.
        counts: See `see`.
        scale: Factor on the dot products.
        attended: (n, query heads by head size), written.
    """
    _, num_keys, size = keys.shape
    num_queries = attended.shape[1] // size
    group = num_queries // num_keys
    queries = joined.reshape(len(joined), -1, size)
    outputs = attended.reshape(len(joined), num_queries, size)
    weights = np.empty(seen.shape, np.float32)
    attended[:] = _ZERO
    for head in range(num_queries):
        for at in range(0, seen.shape[1], LANES):
            for token in range(len(joined)):
                if at < counts[token]:
                    _score(queries, token, head, keys, head // group, seen, at, weights)
        for token in range(len(joined)):
            _soften(weights, token, counts[token], scale)
        for at in range(0, seen.shape[1], LANES):
            for token in range(len(joined)):
                if at < counts[token]:
                    _mix(values, head // group, seen, at, weights, outputs, token, head)


@compiled(
    void(
        _rows,
        _table,
        _places,
        _places,
        int64[::1],
        _rows,
        float32,
        _rows,
        _table,
        _table,
        _table,
        _table,
        _table,
        _table,
        float32,
    ),
    fastmath=REORDERED,
    nogil=True,
)
def decode(
    rows: Rows,
    rotation: Rows,
    places: NDArray[np.int64],
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
    norms: Rows,
    eps: float,
    head_norms: Rows,
    query_key_value: Panels,
    output: Panels,
    gate_up: Panels,
    down: Panels,
    keys: Rows,
    values: Rows,
    scale: float,
) -> None:
    """One decoder layer, over rows (n, channels), in place.

    Args:
        rows: What the layer before left.
        rotation: See `place`.
        places: See `place`.
        seen: See `see`.
        counts: See `see`.
        norms: (2, channels), before attention and before the feed-forward.
        eps: Of all norms.
        head_norms: (heads with a norm, head size); (0, 0) for none.
        query_key_value: See `multiply`.
        output: See `multiply`.
        gate_up: See `multiply`.
        down: See `multiply`.
        keys: See `place`.
        values: See `place`.
        scale: See `attend`.
    """
    _, num_keys, size = keys.shape
    attended = np.empty((len(rows), output.shape[1] - 1), np.float32)
    joined = np.empty((len(rows), attended.shape[1] + 2 * num_keys * size), np.float32)
    gated = np.empty((len(rows), down.shape[1] - 1), np.float32)
    units = np.empty((len(rows), 2 * gated.shape[1]), np.float32)
    changes = np.empty_like(rows)

    normalise(rows, norms[0], eps, changes)
    multiply(changes, query_key_value, joined)
    normalise_heads(joined, head_norms, eps)
    place(joined, rotation, places, keys, values)
    attend(joined, keys, values, seen, counts, scale, attended)
    multiply(attended, output, changes)
    add(rows, changes)
    normalise(rows, norms[1], eps, changes)
    multiply(changes, gate_up, units)
    gate(units, gated)
    multiply(gated, down, changes)
    add(rows, changes)


@compiled(fastmath=CONTRACTED)
def _best(row: Any) -> tuple[int, float]:
    """Where the highest number is, the first of equals, and by how much the next is lower. As for torch, what is no
    number is higher than all that are."""
    place, best, second = 0, -np.inf, -np.inf
    for i in range(len(row)):
        if not row[i] <= second:
            if math.isnan(row[i]):
                return i, np.nan
            if row[i] > best:
                place, best, second = i, row[i], best
            else:
                second = row[i]
    return place, best - second


@compiled(fastmath=CONTRACTED)  # to the last bit what torch makes of them
def _warm(row: Any, temperature: float, warmed: Any) -> None:
    """Divide by a temperature what a row is below its highest number; by 0, leave it as it is."""
    highest = row[_best(row)[0]]
    for i in range(len(row)):
        warmed[i] = (row[i] - highest) / temperature if temperature else row[i]


@compiled(fastmath=REORDERED)
def _spread_and_total(row: Any) -> tuple[float, float]:
    """Standard deviation of a row, and the logarithm of the sum of its exponentials."""
    size, highest = np.float32(len(row)), row[_best(row)[0]]
    distances, total = _ZERO, _ZERO
    for i in range(len(row)):
        distances += row[i] - highest
        total += _exp(row[i] - highest)
    mean = highest + distances / size
    squares = _ZERO
    for i in range(len(row)):
        squares += (row[i] - mean) * (row[i] - mean)
    return math.sqrt(squares / (size - _ONE)), np.float64(highest) + math.log(np.float64(total))


@compiled(
    void(
        _rows,
        _rows,
        float32,
        float64[:, ::1],
        float64,
        int64[:, ::1],
        int64[:, ::1],
        float64[:, ::1],
    ),
    fastmath=REORDERED,
)
def weigh(
    logits: Rows,
    scores: Rows,
    temperature: float,
    noise: NDArray[np.float64],
    rounding: float,
    nodes: NDArray[np.int64],
    choices: NDArray[np.int64],
    chances: NDArray[np.float64],
) -> None:
    """What `worker.evidence` tells of a tree.

    Args:
        logits: (n, vocab), at the root and after each node.
        scores: (n, vocab), what tokens are chosen by, before temperature and noise.
        temperature: That is still to be applied; 0 for none.
        noise: (n, vocab), added at last; (0, vocab) for none.
        rounding: How far rounding may move the difference of two scores, in standard deviations of the logits.
        nodes: (2, n - 1), the parents of the nodes, -1 for the root, and their tokens.
        choices: (2, n), written: chosen, near.
        chances: (2, n), written: logprobs, and node_probs with that of the root, 1, before them.
    """
    count, size = logits.shape
    final = np.empty(size, np.float64)
    totals = np.empty(count, np.float64)
    for row in range(count):
        _warm(scores[row], temperature, final)
        if len(noise):
            for i in range(size):
                final[i] += noise[row, i]
        choices[0, row], margin = _best(final)
        deviation, totals[row] = _spread_and_total(logits[row])
        choices[1, row] = margin < rounding * deviation
        chances[0, row] = logits[row, choices[0, row]] - totals[row]
    chances[1, 0] = 1.0
    for node in range(count - 1):
        parent = 1 + nodes[0, node]
        chances[1, 1 + node] = math.exp(logits[parent, nodes[1, node]] - totals[parent])
