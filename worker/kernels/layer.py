"""Decoder layers: norms, the gate and sums, and between them products and attention that threads share."""

import math
from typing import Any

import numpy as np
from numba import float32, int64, void
from numpy.typing import NDArray

from speculation.compiled import compiled
from worker.kernels.arithmetic import ONE, REORDERED, ZERO, exp
from worker.kernels.attention import place
from worker.kernels.formats import Panels, Rows, Sums, in_each_format, kept, number, rounded
from worker.kernels.memory import array_at, floats_at, panels_at, rows_at
from worker.kernels.sharing import attend, multiply_together


@in_each_format(lambda of: void(of.rows, float32[::1], float32, of.rows), fastmath=REORDERED)
def normalise(rows: Rows, weight: Sums, eps: float, normed: Rows) -> None:
    """Root mean square norm of (n, channels). Source: Zhang and Sennrich 2019, arXiv:1910.07467."""
    size = rows.shape[1]
    for row in range(len(rows)):
        squares = ZERO
        for i in range(size):
            squares += number(rows[row, i]) * number(rows[row, i])
        factor = ONE / math.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            normed[row, i] = kept(rounded(number(rows[row, i]) * factor, rows) * weight[i], rows)


@in_each_format(lambda of: void(of.rows, of.rows), fastmath=REORDERED)
def add(rows: Rows, other: Rows) -> None:
    """Add (n, channels) to rows in place."""
    for row in range(len(rows)):
        for i in range(rows.shape[1]):
            rows[row, i] = kept(number(rows[row, i]) + number(other[row, i]), rows)


@in_each_format(lambda of: void(of.rows, float32[:, ::1], float32), fastmath=REORDERED)
def normalise_heads(joined: Rows, weights: Sums, eps: float) -> None:
    """Root mean square norm of the first heads of each row, in place; weights are (heads, head size)."""
    num_heads, size = weights.shape
    heads = joined.reshape(len(joined), -1, size)
    for row in range(len(joined)):
        for head in range(num_heads):
            squares = ZERO
            for i in range(size):
                squares += number(heads[row, head, i]) * number(heads[row, head, i])
            factor = ONE / math.sqrt(squares / np.float32(size) + eps)
            for i in range(size):
                normed = rounded(number(heads[row, head, i]) * factor, heads)
                heads[row, head, i] = kept(normed * weights[head, i], heads)


@in_each_format(lambda of: void(of.rows, of.rows), fastmath=REORDERED)
def gate(gate_up: Rows, gated: Rows) -> None:
    """silu(gate) * up, for rows (n, 2 * hidden units) with gates first."""
    size = gated.shape[1]
    halves = gate_up.reshape(len(gate_up), 2, size)
    for row in range(len(gated)):
        for i in range(size):
            x = number(halves[row, 0, i])
            silu = rounded(x / (ONE + exp(-x)), gated)
            gated[row, i] = kept(silu * number(halves[row, 1, i]), gated)


@compiled()
def _cut(room: Any, first: int, count: int, size: int) -> tuple[int, Any]:
    """Rows of a size from somewhere on, and where they end."""
    last = first + count * size
    return last, room[first:last].reshape(count, size)


def _of_a_forward(of: Any) -> tuple[Any, ...]:
    """Types of what is the same for all its layers: from rows to room."""
    numbers, table = int64[::1], int64[:, ::1]
    return of.rows, float32[:, :, ::1], table, table, numbers, numbers, float32[:, ::1], of.row


@in_each_format(
    lambda of: void(
        *_of_a_forward(of),
        float32[:, ::1],
        float32,
        float32[:, ::1],
        int64,
        int64,
        of.panels,
        of.panels,
        of.panels,
        of.panels,
        of.table,
        of.table,
        float32,
    ),
    fastmath=REORDERED,
)
def decode_layer(
    rows: Rows,
    rotation: Sums,
    places: NDArray[np.int64],
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
    control: NDArray[np.int64],
    memory: Sums,
    room: NDArray[np.float32] | NDArray[np.uint16],
    norms: Sums,
    eps: float,
    head_norms: Sums,
    num_queries: int,
    num_units: int,
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
        control: See `assist`.
        memory: See `multiply_together` and `attend`.
        room: For what it makes of the rows in between; it stays.
        norms: (2, channels), before attention and before the feed-forward.
        eps: Of all norms.
        head_norms: (heads with a norm, head size); (0, 0) for none.
        num_queries: Query heads.
        num_units: Hidden units of the feed-forward.
        query_key_value: See `multiply`.
        output: See `multiply`.
        gate_up: See `multiply`.
        down: See `multiply`.
        keys: See `place`.
        values: See `place`.
        scale: See `attend`.
    """
    count, channels = rows.shape
    _, num_keys, size = keys.shape
    first, changes = _cut(room, 0, count, channels)
    first, joined = _cut(room, first, count, (num_queries + 2 * num_keys) * size)
    first, attended = _cut(room, first, count, num_queries * size)
    first, units = _cut(room, first, count, 2 * num_units)
    _, gated = _cut(room, first, count, num_units)

    normalise(rows, norms[0], eps, changes)
    multiply_together(changes, query_key_value, joined, control, memory)
    normalise_heads(joined, head_norms, eps)
    place(joined, rotation, places, keys, values)
    attend(joined, keys, values, seen, counts, scale, attended, control, memory)
    multiply_together(attended, output, changes, control, memory)
    add(rows, changes)
    normalise(rows, norms[1], eps, changes)
    multiply_together(changes, gate_up, units, control, memory)
    gate(units, gated)
    multiply_together(gated, down, changes, control, memory)
    add(rows, changes)


@compiled()
def _floats_of(array: Any) -> Any:
    """The numbers (n, m) that a table tells of."""
    return array_at(floats_at(array[0]), (array[1], array[2]))


@compiled()
def _panels_of(array: Any, like: Any) -> Any:
    """Panels that a table tells of, of weights for such numbers."""
    return array_at(panels_at(array[0], like), (array[1], array[2], array[3]))


@compiled()
def _table_of(array: Any, like: Any) -> Any:
    """Keys or values that a table tells of."""
    return array_at(rows_at(array[0], like), (array[1], array[2], array[3]))


@in_each_format(
    lambda of: void(
        *_of_a_forward(of),
        int64[:, :, ::1],
        int64[:, ::1],
        float32[:, ::1],
    ),
    nogil=True,
)
def decode(
    rows: Rows,
    rotation: Sums,
    places: NDArray[np.int64],
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
    control: NDArray[np.int64],
    memory: Sums,
    room: NDArray[np.float32] | NDArray[np.uint16],
    layers: NDArray[np.int64],
    sizes: NDArray[np.int64],
    factors: Sums,
) -> None:
    """All decoder layers, over rows (n, channels), in place: calls from Python take microseconds, each of them.

    Args:
        rows: Embeddings of the tokens.
        rotation: See `decode_layer`, as for all that is not said here.
        places: See there.
        seen: See there.
        counts: See there.
        control: See there.
        memory: See there.
        room: See there.
        layers: (layers, 8, 4), of norms, head_norms, query_key_value, output, gate_up, down, keys and values of each
            the address and the shape. They stay.
        sizes: (layers, 2), num_queries and num_units.
        factors: (layers, 2), eps and scale.
    """
    for index in range(len(layers)):
        layer = layers[index]
        decode_layer(
            rows,
            rotation,
            places,
            seen,
            counts,
            control,
            memory,
            room,
            _floats_of(layer[0]),
            factors[index, 0],
            _floats_of(layer[1]),
            sizes[index, 0],
            sizes[index, 1],
            _panels_of(layer[2], rows),
            _panels_of(layer[3], rows),
            _panels_of(layer[4], rows),
            _panels_of(layer[5], rows),
            _table_of(layer[6], rows),
            _table_of(layer[7], rows),
            factors[index, 1],
        )
