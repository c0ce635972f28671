"""The noise that makes sampling reproducible: standard Gumbel, keyed by (seed, position, token).

A token at absolute position t is argmax over v of log pi(v) + G(seed, t, v). The generator is Philox4x32-10 (Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), counter-based and stateless, so any process can compute the
noise of any position at any time. Every operation below is integer arithmetic that NumPy and torch do alike: one piece
of code serves both, and the integers are the same bit for bit.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORDS_PER_BLOCK = 4
LOW_32 = 0xFFFFFFFF

Array = Any
"""An int64 array of NumPy or torch; both wrap around on overflow and shift arithmetically."""


def philox4x32(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Ten rounds of Philox.

    Args:
        counter: Four int64 arrays of one shape (or that broadcast), each holding 32-bit words.
        key: Two 32-bit words.

    Returns:
        Four int64 arrays of 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & LOW_32, (k1 + KEY_STEPS[1]) & LOW_32
    return c0, c1, c2, c3


def _multiply(words: Array, multiplier: int) -> tuple[Array, Array]:
    """High and low 32 bits of a 32 x 32 bit product.

    The product wraps around as a signed 64-bit number, but its bits are right; masking after the arithmetic shift
    drops the copied sign.
    """
    product = words * multiplier
    return (product >> 32) & LOW_32, product & LOW_32


def key_of_seed(seed: int) -> tuple[int, int]:
    """A 64-bit seed as two Philox key words."""
    return seed & LOW_32, (seed >> 32) & LOW_32


def noise_words(seed: int, positions: NDArray[np.int64], vocab_size: int) -> NDArray[np.int64]:
    """The 32-bit words behind the noise.

    Args:
        seed: 0 to 2**64 - 1.
        positions: (n,), absolute positions in the sequence.
        vocab_size: Number of tokens; token v uses word v % 4 of block v // 4.

    Returns:
        (n, vocab_size) int64, each in [0, 2**32).
    """
    blocks = np.arange(-(-vocab_size // WORDS_PER_BLOCK), dtype=np.int64)[None, :]
    at = np.asarray(positions, dtype=np.int64)[:, None]
    words = philox4x32(_counter(blocks, at), key_of_seed(seed))
    return np.stack(words, axis=-1).reshape(at.shape[0], -1)[:, :vocab_size]


def noise_words_torch(seed: int, positions: "torch.Tensor", vocab_size: int) -> "torch.Tensor":
    """`noise_words` as torch int64 on the device of `positions`."""
    import torch

    blocks = torch.arange(-(-vocab_size // WORDS_PER_BLOCK), dtype=torch.int64, device=positions.device)[None, :]
    at = positions.to(torch.int64)[:, None]
    words = philox4x32(_counter(blocks, at), key_of_seed(seed))
    return torch.stack(words, dim=-1).reshape(at.shape[0], -1)[:, :vocab_size]


def _counter(blocks: Array, positions: Array) -> tuple[Array, Array, Array, Array]:
    every_block, every_position = blocks + positions * 0, positions + blocks * 0
    return every_block, every_position & LOW_32, (every_position >> 32) & LOW_32, every_block * 0


def gumbel_noise(seed: int, positions: NDArray[np.int64], vocab_size: int) -> NDArray[np.float64]:
    """Standard Gumbel noise, (n, vocab_size) float64; arguments as for `noise_words`."""
    uniform = (noise_words(seed, positions, vocab_size) + 0.5) * 2.0**-32
    return np.asarray(-np.log(-np.log(uniform)))


def gumbel_noise_torch(seed: int, positions: "torch.Tensor", vocab_size: int) -> "torch.Tensor":
    """`gumbel_noise` as torch float64, equal but for the last bits of the logarithm."""
    uniform = (noise_words_torch(seed, positions, vocab_size).double() + 0.5) * 2.0**-32
    return -(-uniform.log()).log()
