"""What a verdict rests on: of every row its best token, by how much, and its chance."""

import math
from typing import Any

import numpy as np
from numba import float32, float64, int64, void
from numpy.typing import NDArray

from speculation.compiled import compiled
from worker.kernels.arithmetic import CONTRACTED, ONE, REORDERED, ZERO, exp
from worker.kernels.formats import Rows


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
    distances, total = ZERO, ZERO
    for i in range(len(row)):
        distances += row[i] - highest
        total += exp(row[i] - highest)
    mean = highest + distances / size
    squares = ZERO
    for i in range(len(row)):
        squares += (row[i] - mean) * (row[i] - mean)
    return math.sqrt(squares / (size - ONE)), np.float64(highest) + math.log(np.float64(total))


@compiled(
    void(
        float32[:, ::1],
        float32[:, ::1],
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
