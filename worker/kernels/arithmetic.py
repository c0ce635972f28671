"""What a compiler may do with sums, and an exponential that it can vectorise."""

from typing import Any

import numpy as np

from speculation.compiled import compiled

REORDERED = frozenset({"reassoc", "contract", "arcp", "nsz"})
"""What sums need to be vectorised. Not `nnan` and `ninf`: what is no number stays none."""

CONTRACTED = frozenset({"contract"})
"""Not reordered; none at all would be the caller's, which are."""

ZERO, ONE = np.float32(0.0), np.float32(1.0)


@compiled(fastmath=CONTRACTED)  # reordered, the rounding by adding and subtracting a large number would be left out
def exp(x: Any) -> Any:
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
    power = power * rest * rest + rest + ONE
    return power * np.int32((shifted.view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)
