"""The prefix hash and the tokenizer's fingerprint tell different things apart."""

from hypothesis import given
from hypothesis import strategies as st

from speculation.fingerprint import tokenizer_fingerprint
from speculation.prefix import EMPTY_PREFIX, extend_hash

tokens = st.lists(st.integers(0, 200_000), max_size=20)


@given(tokens, tokens)
def test_hashing_in_pieces_is_hashing_at_once(first: list[int], second: list[int]) -> None:
    assert extend_hash(extend_hash(EMPTY_PREFIX, first), second) == extend_hash(EMPTY_PREFIX, first + second)


@given(tokens, tokens)
def test_different_prefixes_have_different_hashes(one: list[int], other: list[int]) -> None:
    assert (extend_hash(EMPTY_PREFIX, one) == extend_hash(EMPTY_PREFIX, other)) == (one == other)


@given(tokens)
def test_a_hash_fits_its_field(prefix: list[int]) -> None:
    assert 0 <= extend_hash(EMPTY_PREFIX, prefix) < 2**64


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 100), max_size=5))
def test_a_fingerprint_does_not_depend_on_the_order_of_the_vocabulary(vocabulary: dict[str, int]) -> None:
    ordered = dict(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])))
    reverse = dict(reversed(ordered.items()))

    assert tokenizer_fingerprint(ordered) == tokenizer_fingerprint(reverse)


def test_swapping_two_tokens_changes_the_fingerprint() -> None:
    assert tokenizer_fingerprint({"a": 0, "b": 1}) != tokenizer_fingerprint({"a": 1, "b": 0})
