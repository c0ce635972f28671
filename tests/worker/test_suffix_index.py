"""What a text has said before: found wherever it is, however the text grew."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.suffix_index import GRAMS, LONGEST, Match, SuffixIndex, candidates, certainty, that_go_on

TEXTS = st.lists(st.integers(0, 3), max_size=60)


def index_of(token_ids: list[int]) -> SuffixIndex:
    index = SuffixIndex()
    index.follow(token_ids)
    return index


@given(TEXTS)
def test_every_earlier_place_of_the_longest_run_is_found_with_its_agreement(text: list[int]) -> None:
    def agreement(place: int) -> int:
        return next(
            length for length in range(place + 1) if length == place or text[place - 1 - length] != text[-1 - length]
        )

    size = next((size for size in GRAMS if any(agreement(place) >= size for place in range(1, len(text)))), None)
    places = [place for place in range(len(text) - 1, 0, -1) if size is not None and agreement(place) >= size]

    assert index_of(text).matches() == [Match(text, place, min(agreement(place), LONGEST)) for place in places]


@given(TEXTS, TEXTS, TEXTS)
def test_a_text_that_grew_or_was_taken_back_is_indexed_like_a_new_one(
    start: list[int], one: list[int], other: list[int]
) -> None:
    index = index_of(start)
    index.follow(start + one)
    index.follow(start + other)

    assert index.token_ids == start + other
    assert index.matches() == index_of(start + other).matches()


def test_the_longer_agreement_has_the_first_say() -> None:
    """After 1 2 came 3, after 9 2 twice 4; the text ends with 1 2."""
    index = index_of([1, 2, 3, 0, 9, 2, 4, 0, 9, 2, 4, 0, 1, 2])

    (first, sure), (second, unsure) = candidates(index.matches())

    assert (first, second) == (3, 4)
    assert sure == pytest.approx(certainty(2))
    assert unsure == pytest.approx((1 - certainty(2)) * certainty(1))


def test_equally_long_agreements_share_by_how_often_each_was_seen() -> None:
    index = index_of([7, 1, 8, 1, 7, 1, 8, 1, 9, 1])

    chances = dict(candidates(index.matches()))

    assert chances[8] == pytest.approx(2 * chances[9])


def test_what_repeats_itself_goes_on_beyond_its_own_end() -> None:
    index = index_of([5, 6, 5, 6])
    path: list[int] = []
    matches = index.matches()

    for _ in range(7):
        path.append(candidates(matches, path)[0][0])
        matches = that_go_on(matches, path)

    assert path == [5, 6, 5, 6, 5, 6, 5]


def test_a_token_that_was_never_there_is_followed_by_nothing() -> None:
    assert index_of([1, 2, 1, 3]).matches() == []
    assert index_of([]).matches() == []
    assert candidates([]) == []


@given(st.integers(1, 100))
def test_longer_agreements_are_surer_and_none_is_certain(length: int) -> None:
    assert 0 < certainty(length) <= certainty(length + 1) < 1


@given(TEXTS)
def test_chances_together_are_no_more_than_one(text: list[int]) -> None:
    index = index_of(text)

    assert sum(chance for _, chance in candidates(index.matches())) <= 1 + 1e-12


def test_no_chance_is_rounded_to_more_than_one() -> None:
    """Many shares of many agreements, all for one token: a tree with such a chance would be refused."""
    for length in range(2, 100):
        index = index_of([5] * length)

        assert all(chance <= 1 for _, chance in candidates(index.matches()))
