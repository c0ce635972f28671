"""The noise: published vectors, equality of NumPy and torch, and that it is noise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from speculation.noise import gumbel_noise, gumbel_noise_torch, noise_words, noise_words_torch, philox4x32

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        pytest.param((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8), id="zeros"),
        pytest.param((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD), id="ones"),
        pytest.param(
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
            id="digits of pi",
        ),
    ],
)
def test_philox_gives_the_published_vectors(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    """Known answers of the authors' library Random123 for philox4x32-10."""
    given_counter = tuple(np.array([word], dtype=np.int64) for word in counter)

    assert tuple(int(word[0]) for word in philox4x32(given_counter, key)) == words  # type: ignore[arg-type]


seeds = st.integers(0, 2**64 - 1)
positions = st.lists(st.integers(0, 2**40), min_size=1, max_size=5)


@given(seeds, positions, st.integers(1, 70))
def test_numpy_and_torch_agree_bit_for_bit(seed: int, at: list[int], vocab_size: int) -> None:
    by_numpy = noise_words(seed, np.array(at), vocab_size)

    assert by_numpy.shape == (len(at), vocab_size)
    np.testing.assert_array_equal(by_numpy, noise_words_torch(seed, torch.tensor(at), vocab_size).numpy())


@given(seeds, positions)
def test_gumbel_noise_of_numpy_and_torch_differs_by_rounding_only(seed: int, at: list[int]) -> None:
    np.testing.assert_allclose(
        gumbel_noise(seed, np.array(at), 33), gumbel_noise_torch(seed, torch.tensor(at), 33).numpy(), rtol=1e-12
    )


@given(seeds, positions, st.integers(1, 64), st.integers(1, 64))
def test_a_token_has_its_noise_whatever_the_vocabulary_and_company(
    seed: int, at: list[int], vocab_size: int, more: int
) -> None:
    alone = noise_words(seed, np.array(at[:1]), vocab_size)
    among_others = noise_words(seed, np.array(at), vocab_size + more)

    np.testing.assert_array_equal(alone[0], among_others[0, :vocab_size])


def test_the_noise_is_finite_at_the_ends_of_the_range() -> None:
    """The largest and smallest words become finite numbers: no token is certain or impossible by noise alone."""
    uniform = (np.array([0, ONES]) + 0.5) * 2.0**-32

    assert np.isfinite(-np.log(-np.log(uniform))).all()


def test_words_are_uniform() -> None:
    uniform = noise_words(7, np.arange(64), 4096).ravel() * 2.0**-32

    assert stats.kstest(uniform, "uniform").pvalue > 1e-3


def test_noise_is_standard_gumbel() -> None:
    assert stats.kstest(gumbel_noise(11, np.arange(32), 2048).ravel(), "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param((3, 10), (3, 11), id="neighbouring positions"),
        pytest.param((3, 10), (4, 10), id="neighbouring seeds"),
        pytest.param((3, 10), (3 + 2**32, 10), id="seeds that differ above 32 bits"),
        pytest.param((3, 10), (3, 10 + 2**32), id="positions that differ above 32 bits"),
    ],
)
def test_noise_is_independent_between(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = (noise_words(seed, np.array([at]), 40_000)[0] * 2.0**-32 for seed, at in (one, other))

    joint, _, _ = np.histogram2d(first, second, bins=8, range=[[0, 1], [0, 1]])
    assert stats.chisquare(joint.ravel()).pvalue > 1e-3


def test_noise_is_independent_between_neighbouring_tokens() -> None:
    words = noise_words(5, np.arange(20), 4096) * 2.0**-32

    joint, _, _ = np.histogram2d(words[:, :-1].ravel(), words[:, 1:].ravel(), bins=8, range=[[0, 1], [0, 1]])
    assert stats.chisquare(joint.ravel()).pvalue > 1e-3


def test_gumbel_max_samples_the_distribution() -> None:
    """argmax of log p + G over many positions has the frequencies p."""
    probs = np.array([0.5, 0.25, 0.15, 0.07, 0.03])

    chosen = (np.log(probs) + gumbel_noise(99, np.arange(20_000), 5)).argmax(axis=1)

    assert stats.chisquare(np.bincount(chosen, minlength=5), probs * 20_000).pvalue > 1e-3
