"""What a decoder layer computes, compiled for this processor by numba: for few rows the calls cost more than the sums.

Each row is computed by itself in a fixed order, and attention reads the keys that a token sees in the order of its
text, so that a row's bits do not depend on the other rows of a forward.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import boolean, float32, int64, types, void
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from speculation.compiled import compiled

Rows = NDArray[np.float32]
Panels = NDArray[np.float32]

WIDTH = 64 if "avx512f" in get_host_cpu_features() else 16
"""Outputs of a panel: with as many sums for each of MOST_ROWS rows, the registers of the processor are nearly full."""

MOST_ROWS = 6
"""Rows of which sums are made at once."""

REORDERED = frozenset({"reassoc", "contract", "arcp", "nsz"})
"""What sums need to be vectorised. Not `nnan` and `ninf`: what is no number stays none."""

CONTRACTED = frozenset({"contract"})
"""Not reordered; none at all would be the caller's, which are."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)

_vector, _rows, _table = float32[::1], float32[:, ::1], float32[:, :, ::1]


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


def _declare_add_products(_: Any, rows: Any, first: Any, count: Any, panel: Any, sums: Any) -> tuple[Any, Any]:
    """The innermost loop: sums (count, WIDTH) of rows (n, in), from the first one on, times a panel (1 + in, WIDTH).

    count is a constant: the sums stay in registers, and a panel's row is loaded once for all of them.
    """
    return types.void(rows, first, count, panel, sums), _writer_of(count.literal_value)


def _writer_of(count: int) -> Callable[..., Any]:
    """What writes the code of the innermost loop."""
    wide, build = ir.VectorType(ir.FloatType(), WIDTH), cast(Any, cgutils)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(place: int) -> Any:
            return context.make_array(signature.args[place])(context, builder, arguments[place])

        def row_of(data: Any, index: Any, size: Any) -> Any:
            return builder.gep(data, [builder.mul(index, size)])

        def vector_at(pointer: Any) -> Any:
            return builder.bitcast(pointer, wide.as_pointer())

        rows, panel, sums = array(0), array(3), array(4)
        depth = builder.extract_value(rows.shape, 1)
        number = depth.type
        inputs = [row_of(rows.data, builder.add(arguments[1], number(row)), depth) for row in range(count)]
        biases = builder.load(vector_at(panel.data), align=4)
        totals = [build.alloca_once_value(builder, biases) for _ in range(count)]
        with build.for_range(builder, depth) as loop:
            at = row_of(panel.data, builder.add(loop.index, number(1)), number(WIDTH))
            weights = builder.load(vector_at(at), align=4)
            for row, total in zip(inputs, totals, strict=True):
                factor = _spread(builder, builder.load(builder.gep(row, [loop.index])), wide)
                product = builder.fmul(factor, weights, flags=("contract",))
                builder.store(builder.fadd(product, builder.load(total), flags=("contract",)), total)
        for place, total in enumerate(totals):
            at = row_of(sums.data, number(place), number(WIDTH))
            builder.store(builder.load(total), vector_at(at), align=4)
        return context.get_dummy_value()

    return write


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


@compiled(fastmath=REORDERED)
def _see(first_row: int, committed: int, related: Any, token: int, seen: Any) -> int:
    """List the pool rows that a token looks at; returns how many they are."""
    for i in range(committed):
        seen[i] = first_row + i
    count = committed
    for node in range(related.shape[1]):
        if related[token, node]:
            seen[count] = first_row + committed + node
            count += 1
    return count


# The next two index instead of taking views, whose reference counts would cost more than a row of a head, and read four
# rows at a time, so that a query or a sum is loaded once for four.


@compiled(fastmath=REORDERED)
def _weigh(
    queries: Any, token: int, head: int, keys: Any, key_head: int, seen: Any, count: int, scale: float, weights: Any
) -> None:
    """weights[:count] = softmax of the scaled dot products of one query with the keys it sees."""
    size = keys.shape[2]
    whole = count - count % 4
    for at in range(0, whole, 4):
        row0, row1, row2, row3 = seen[at], seen[at + 1], seen[at + 2], seen[at + 3]
        sum0, sum1, sum2, sum3 = _ZERO, _ZERO, _ZERO, _ZERO
        for i in range(size):
            query = queries[token, head, i]
            sum0 += query * keys[row0, key_head, i]
            sum1 += query * keys[row1, key_head, i]
            sum2 += query * keys[row2, key_head, i]
            sum3 += query * keys[row3, key_head, i]
        weights[at], weights[at + 1], weights[at + 2], weights[at + 3] = sum0, sum1, sum2, sum3
    for at in range(whole, count):
        row0, sum0 = seen[at], _ZERO
        for i in range(size):
            sum0 += queries[token, head, i] * keys[row0, key_head, i]
        weights[at] = sum0
    most = weights[0]
    for at in range(count):
        most = max(most, weights[at])
    total = _ZERO
    for at in range(count):
        weight = _exp((weights[at] - most) * scale)
        weights[at] = weight
        total += weight
    for at in range(count):
        weights[at] /= total


@compiled(fastmath=REORDERED)
def _mix(
    values: Any, value_head: int, seen: Any, count: int, weights: Any, outputs: Any, token: int, head: int
) -> None:
    """Sum of the seen values by their weights."""
    size = values.shape[2]
    whole = count - count % 4
    for i in range(size):
        outputs[token, head, i] = _ZERO
    for at in range(0, whole, 4):
        row0, row1, row2, row3 = seen[at], seen[at + 1], seen[at + 2], seen[at + 3]
        weight0, weight1, weight2, weight3 = weights[at], weights[at + 1], weights[at + 2], weights[at + 3]
        for i in range(size):
            outputs[token, head, i] += (
                weight0 * values[row0, value_head, i] + weight1 * values[row1, value_head, i]
            ) + (weight2 * values[row2, value_head, i] + weight3 * values[row3, value_head, i])
    for at in range(whole, count):
        row0, weight0 = seen[at], weights[at]
        for i in range(size):
            outputs[token, head, i] += weight0 * values[row0, value_head, i]


@compiled(void(_rows, _table, _table, int64[:, ::1], boolean[:, ::1], float32, _rows), fastmath=REORDERED)
def attend(
    joined: Rows,
    keys: Rows,
    values: Rows,
    places: NDArray[np.int64],
    related: NDArray[np.bool_],
    scale: float,
    attended: Rows,
) -> None:
    """Attention of every token to its session's committed prefix and to its own path.

    Args:
        joined: As `place` leaves it.
        keys: See `place`.
        values: See `place`.
        places: See `place`.
        related: (n, longest scratch), the tokens of its session's scratch that each descends from, itself included.
        scale: Factor on the dot products.
        attended: (n, query heads by head size), written.
    """
    _, num_keys, size = keys.shape
    num_queries = attended.shape[1] // size
    group = num_queries // num_keys
    queries = joined.reshape(len(joined), -1, size)
    outputs = attended.reshape(len(joined), num_queries, size)
    most = places[:, 3].max() + related.shape[1]
    seen, weights = np.empty(most, np.int64), np.empty(most, np.float32)
    for token in range(len(joined)):
        count = _see(places[token, 2], places[token, 3], related, token, seen)
        for head in range(num_queries):
            _weigh(queries, token, head, keys, head // group, seen, count, scale, weights)
            _mix(values, head // group, seen, count, weights, outputs, token, head)


@compiled(
    void(
        _rows,
        _table,
        int64[:, ::1],
        boolean[:, ::1],
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
    related: NDArray[np.bool_],
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
        related: See `attend`.
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
    attend(joined, keys, values, places, related, scale, attended)
    multiply(attended, output, changes)
    add(rows, changes)
    normalise(rows, norms[1], eps, changes)
    multiply(changes, gate_up, units)
    gate(units, gated)
    multiply(gated, down, changes)
    add(rows, changes)
