"""A sequence is the one true copy: its hashes, its contexts and the rules by which it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.sequence import FinishReason, Sequence
from speculation.prefix import EMPTY_PREFIX, extend_hash

TOKENS = st.lists(st.integers(0, 50_000), min_size=1, max_size=40)


@given(TOKENS, TOKENS, st.data())
def test_any_context_carries_the_hash_of_all_before_it(
    prompt: list[int], answer: list[int], data: st.DataObject
) -> None:
    sequence = Sequence(prompt, max_new_tokens=100)
    sequence.extend(answer)
    start = data.draw(st.integers(0, len(sequence)))

    context = sequence.context(start)

    assert context.prefix_hash == extend_hash(EMPTY_PREFIX, (prompt + answer)[:start])
    assert list(context.token_ids) == (prompt + answer)[start:]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(1, 30), st.data())
def test_where_an_answer_ends_does_not_depend_on_how_rounds_cut_it(
    answer: list[int], most: int, data: st.DataObject
) -> None:
    whole, cut = (Sequence([1], max_new_tokens=most, stop_token_ids=frozenset((3,))) for _ in range(2))
    whole.extend(answer)

    rest = answer
    while rest:
        length = data.draw(st.integers(1, len(rest)))
        cut.extend(rest[:length])
        rest = rest[length:]

    assert (cut.token_ids, cut.finish_reason) == (whole.token_ids, whole.finish_reason)


@pytest.mark.parametrize(
    ("emitted", "kept", "reason"),
    [
        pytest.param([5, 6], (5, 6), None, id="nothing ends it"),
        pytest.param([5, 9, 6], (5, 9), FinishReason.STOP, id="after a stop token the verdict is cut"),
        pytest.param([5, 6, 7, 8], (5, 6, 7), FinishReason.LENGTH, id="after the last token, too"),
        pytest.param([5, 6, 9, 8], (5, 6, 9), FinishReason.STOP, id="a stop in the last place is a stop"),
        pytest.param([4, 6], (4,), FinishReason.STOP, id="the text may end it"),
    ],
)
def test_the_rules_of_the_end(emitted: list[int], kept: tuple[int, ...], reason: FinishReason | None) -> None:
    sequence = Sequence([1], max_new_tokens=3, stop_token_ids=frozenset((9,)), ends_answer=lambda token: token == 4)

    assert sequence.extend(emitted) == kept
    assert sequence.finish_reason is reason


def test_a_stop_token_is_not_shown_to_the_text() -> None:
    seen: list[int] = []
    sequence = Sequence(
        [1], max_new_tokens=9, stop_token_ids=frozenset((9,)), ends_answer=lambda token: bool(seen.append(token))
    )

    sequence.extend([5, 9])

    assert seen == [5]
