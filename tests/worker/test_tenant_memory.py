"""What is remembered of a tenant: as much as may be, the newest, each text once, and for nobody else."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.suffix_index import LONGEST, MOST_MATCHES, Match, candidates, that_go_on
from worker.tenant_memory import GRAMS, WORTH, TenantMemory

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
SALTS = st.sampled_from(["acme", "acme ", "ACME", "bolt"])
LEAST = min(GRAMS)


def plenty() -> TenantMemory:
    return TenantMemory(tokens=1 << 20, tenants=16)


def followers(matches: Sequence[Match]) -> set[int]:
    return {match.token(()) for match in matches}


def said_after(texts: Sequence[Sequence[int]], end: Sequence[int]) -> set[int]:
    """What followed in any of the texts where the last tokens of this one stood, plainly."""
    last = list(end[-LEAST:])
    return {
        text[place]
        for text in texts
        for place in range(LEAST, len(text))
        if len(last) == LEAST and list(text[place - LEAST : place]) == last
    }


@given(st.lists(TEXTS, max_size=6), TEXTS)
def test_whatever_is_said_was_said_by_one_text_behind_the_same_tokens(texts: list[list[int]], end: list[int]) -> None:
    memory = plenty()
    for text in texts:
        memory.remember("acme", text)

    matches = memory.matches("acme", end)

    told = said_after(texts, end)
    assert followers(matches) <= told
    assert bool(matches) == bool(told)
    assert all(match.length >= WORTH * LEAST for match in matches)


@given(st.lists(TEXTS, min_size=1, max_size=6), TEXTS)
def test_a_path_never_leads_from_one_text_into_another(texts: list[list[int]], end: list[int]) -> None:
    memory, path = plenty(), list[int]()
    for text in texts:
        memory.remember("acme", text)
    matches = memory.matches("acme", end)

    while follow := candidates(matches, path):
        path.append(follow[0][0])
        matches = that_go_on(matches, path)

    said = [*end[-LEAST:], *path]
    assert not path or any(said == text[at : at + len(said)] for text in texts for at in range(len(text)))


@given(st.lists(st.tuples(SALTS, TEXTS), max_size=12), SALTS, TEXTS)
def test_nothing_crosses_from_one_salt_to_another(
    sessions: list[tuple[str, list[int]]], salt: str, end: list[int]
) -> None:
    """The memory of many tenants tells each exactly what a memory of that tenant alone would tell."""
    shared, alone = plenty(), plenty()
    for whose, text in sessions:
        shared.remember(whose, text)
        shared.matches(whose, text)
        if whose == salt:
            alone.remember(salt, text)

    told, by_itself = shared.matches(salt, end), alone.matches(salt, end)

    assert [(match.place, match.length) for match in told] == [(match.place, match.length) for match in by_itself]
    assert [list(match.text) for match in told] == [list(match.text) for match in by_itself]


@given(st.lists(st.tuples(SALTS, TEXTS), max_size=12), st.integers(0, 60), st.integers(1, 3))
def test_no_more_is_held_than_may_be(sessions: list[tuple[str, list[int]]], tokens: int, tenants: int) -> None:
    memory = TenantMemory(tokens=tokens, tenants=tenants)

    for salt, text in sessions:
        memory.remember(salt, text)
        assert memory.num_tokens <= tokens * tenants
        assert len(memory.tenants) <= tenants
        assert all(len(match.text) <= tokens // 2 for match in memory.matches(salt, text))


@given(TEXTS)
def test_of_requests_without_a_tenant_and_with_no_room_nothing_is_remembered(text: list[int]) -> None:
    nobody, nothing = plenty(), TenantMemory(tokens=0, tenants=4)

    nobody.remember("", text)
    nothing.remember("acme", text)

    assert nobody.num_tokens == nothing.num_tokens == 0
    assert nobody.matches("", text) == nothing.matches("acme", text) == []


def test_what_is_oldest_goes_first() -> None:
    memory = TenantMemory(tokens=40, tenants=1)
    texts = [list(range(start, start + 9)) for start in range(0, 50, 10)]

    for text in texts:
        memory.remember("acme", text)

    known = [bool(memory.matches("acme", text[:4])) for text in texts]
    assert known == [False, False, True, True, True]


def test_of_a_text_longer_than_its_room_the_end_is_remembered() -> None:
    memory = TenantMemory(tokens=40, tenants=1)

    memory.remember("acme", range(100))

    assert memory.num_tokens == 20
    assert memory.matches("acme", range(80)) == []
    assert followers(memory.matches("acme", range(90))) == {90}


def test_the_tenant_that_was_not_heard_of_for_longest_is_forgotten() -> None:
    memory = TenantMemory(tokens=100, tenants=2)
    text = [1, 2, 3, 4]

    memory.remember("acme", text)
    memory.remember("bolt", text)
    memory.matches("acme", text)
    memory.remember("coil", text)

    assert memory.tenants == ("acme", "coil")


def test_a_text_that_goes_on_is_not_held_twice() -> None:
    memory, text = plenty(), [token * 7 % 101 for token in range(100)]

    memory.remember("acme", text[:60])
    memory.remember("acme", text[:60])
    memory.remember("acme", text)
    memory.remember("acme", text[:80])

    assert memory.num_tokens == 61 + LONGEST + 40 + 1
    for end in range(LEAST, 100):
        told = memory.matches("acme", text[:end])
        assert text[end] in followers(told)
        assert max(match.length for match in told) == WORTH * min(end, LONGEST)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6), st.integers(LEAST, 79))
def test_what_is_left_out_as_known_is_still_said(turns: list[tuple[list[int], list[int]]], end: int) -> None:
    """Texts that share their beginnings, as those of a conversation do, are told as if each were held whole."""
    memory, texts = plenty(), list[list[int]]()
    for prompt, answer in turns:
        for text in (prompt, prompt + answer):
            memory.remember("acme", text)
            texts.append(text)

    for text in texts:
        matches = memory.matches("acme", text[:end])
        assert end >= len(text) or len(matches) == MOST_MATCHES or text[end] in followers(matches)


@pytest.mark.parametrize("size", GRAMS)
def test_what_agrees_for_too_few_tokens_says_nothing(size: int) -> None:
    memory = plenty()
    memory.remember("acme", [*range(10, 10 + size), 99])

    assert followers(memory.matches("acme", [5, *range(10, 10 + size)])) == {99}
    assert memory.matches("acme", range(10 + size - LEAST + 1, 10 + size)) == []
