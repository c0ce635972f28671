"""What a decoder layer computes, compiled for this processor by numba: for few rows the calls cost more than the sums.

Each row is computed by itself in a fixed order, and attention reads the keys that a token sees in the order of its
text, so that a row's bits do not depend on the other rows of a forward; only `project`, which takes four rows at a
time, rounds otherwise for the last few.
"""

import math
from typing import Any

import numpy as np
from numba import boolean, float32, int64, void
from numpy.typing import NDArray

from speculation.compiled import compiled

Rows = NDArray[np.float32]

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


@compiled(void(_rows, _rows, _vector, _rows), fastmath=REORDERED)
def project(rows: Rows, weights: Rows, bias: Rows, projected: Rows) -> None:
    """Rows (n, in) times weights (out, in), and the bias (out,) added: (n, out)."""
    whole = len(rows) - len(rows) % 4
    for first in range(0, whole, 4):
        for out in range(len(weights)):
            sum0, sum1, sum2, sum3 = _ZERO, _ZERO, _ZERO, _ZERO
            for i in range(rows.shape[1]):
                weight = weights[out, i]
                sum0 += rows[first, i] * weight
                sum1 += rows[first + 1, i] * weight
                sum2 += rows[first + 2, i] * weight
                sum3 += rows[first + 3, i] * weight
            projected[first, out] = sum0 + bias[out]
            projected[first + 1, out] = sum1 + bias[out]
            projected[first + 2, out] = sum2 + bias[out]
            projected[first + 3, out] = sum3 + bias[out]
    for row in range(whole, len(rows)):
        for out in range(len(weights)):
            sum0 = _ZERO
            for i in range(rows.shape[1]):
                sum0 += rows[row, i] * weights[out, i]
            projected[row, out] = sum0 + bias[out]


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
