"""Text comes in whole characters, and stop strings are found wherever tokens and rounds cut them."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from controller.text import REPLACEMENT, AnswerText, IncrementalDecoder, StopScanner, Tokenizer
from speculation.errors import InvalidRequestError

LINES = [
    "The quick brown fox jumps over the lazy dog, twice.",
    "def f(x):\n    return x + 1  # 注释 コメント 주석",
    "naïve café: e\u0301 a\u0308 o\u0302 n\u0303, 你好世界, 👩‍👩‍👧‍👦 🚀🚀 🇩🇪 \U0001f9d1\U0001f3fd‍\U0001f4bb",
]


def byte_level_tokenizer() -> PreTrainedTokenizerFast:
    """Trained on a few lines: rare characters stay spread over several tokens."""
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<end>"],
        show_progress=False,
    )
    raw.train_from_iterator(LINES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<end>")
    fast.chat_template = (
        "{% for m in messages %}{% if m.role == 'judge' %}{{ raise_exception('no judges') }}{% endif %}"
        "{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    return fast


TOKENIZER = Tokenizer(byte_level_tokenizer())
TOKEN_IDS = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40)
TEXTS = st.text(st.sampled_from("ab é你👩‍🚀\u0301\n"), max_size=30)


def tokenizer_folder(folder: Path) -> Path:
    """The tokenizer, as a model's folder holds it."""
    byte_level_tokenizer().save_pretrained(folder)
    return folder


def encoded(text: str) -> list[int]:
    return list(asyncio.run(TOKENIZER.encode(text)))


@given(TEXTS)
def test_joined_deltas_are_the_text(text: str) -> None:
    answer = AnswerText(TOKENIZER, prompt=encoded("So: "), stops=())

    pieces = []
    for token in encoded(text):
        answer.push(token)
        pieces.append(answer.take(finished=False))
    pieces.append(answer.take(finished=True))

    assert "".join(pieces) == text


@given(TOKEN_IDS, TOKEN_IDS)
def test_joined_deltas_are_the_decoded_tokens_even_of_nonsense(prompt: list[int], token_ids: list[int]) -> None:
    """Any token may follow any other when sampling is hot; broken bytes read as the decoder reads them."""
    decoder = IncrementalDecoder(TOKENIZER, prompt)

    pieces = [decoder.push(token) for token in token_ids]
    pieces.append(decoder.finish())

    assert "".join(pieces) == TOKENIZER.decode(token_ids)


@given(st.lists(TOKEN_IDS.filter(len), max_size=8))
def test_a_round_s_text_does_not_depend_on_whether_its_tokens_are_read_at_once(rounds: list[list[int]]) -> None:
    at_once, one_by_one = IncrementalDecoder(TOKENIZER), IncrementalDecoder(TOKENIZER)

    for tokens in rounds:
        assert at_once.push_all(tokens) == "".join(map(one_by_one.push, tokens))
    assert at_once.finish() == one_by_one.finish()


@given(TEXTS)
def test_no_delta_ends_within_a_character(text: str) -> None:
    decoder = IncrementalDecoder(TOKENIZER)

    pieces = [decoder.push(token) for token in encoded(text)]

    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_special_tokens_are_not_text() -> None:
    (end,) = TOKENIZER.end_token_ids
    answer = AnswerText(TOKENIZER, prompt=(), stops=())

    for token in [*encoded("yes"), end]:
        answer.push(token)

    assert answer.take(finished=True) == "yes"


@given(st.text(st.sampled_from("ab \n_"), max_size=30))
def test_spelled_tokens_joined_are_the_text(text: str) -> None:
    assert "".join(TOKENIZER.spell(token) for token in encoded(text)) == text


def test_a_piece_of_a_character_is_spelled_so() -> None:
    assert REPLACEMENT in {TOKENIZER.spell(token) for token in encoded("🇩🇪")}


def test_a_token_is_spelled_as_it_reads_within_a_text() -> None:
    """SentencePiece drops the space before the first word of a text; a token is not the first word of anything."""
    raw = RawTokenizer(models.Unigram([("<unk>", 0.0), ("\u2581", -3.0), ("\u2581the", -1.0), ("a", -2.0)], unk_id=0))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()
    raw.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=raw))

    assert tokenizer.decode([2]) == "the"
    assert tokenizer.spell(2) == " the"


def test_special_tokens_are_spelled_by_their_names() -> None:
    (end,) = TOKENIZER.end_token_ids

    assert TOKENIZER.spell(end) == "<end>"


def first_stop(text: str, stops: list[str]) -> tuple[str, str]:
    """The rule, character by character: the first to be complete, and of those the longest."""
    for end in range(1, len(text) + 1):
        if complete := [stop for stop in stops if text[:end].endswith(stop)]:
            longest = max(complete, key=len)
            return text[: end - len(longest)], longest
    return text, ""


@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=4, unique=True),
)
def test_a_stop_is_found_however_the_text_is_cut(pieces: list[str], stops: list[str]) -> None:
    scanner = StopScanner(stops)

    given_text = "".join(scanner.push(piece) for piece in pieces)
    given_text += scanner.finish()

    assert (given_text, scanner.matched) == first_stop("".join(pieces), stops)


@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=4))
def test_nothing_is_given_that_may_become_a_stop(text: str, stops: list[str]) -> None:
    scanner = StopScanner(stops)

    given_text = "".join(scanner.push(character) for character in text)

    assert scanner.matched or not any(
        given_text.endswith(stop[:length]) and text.endswith(stop[:length])
        for stop in stops
        for length in range(1, len(stop))
    )


def test_a_stop_may_span_tokens() -> None:
    answer = AnswerText(TOKENIZER, prompt=(), stops=("世界",))

    ends = [answer.push(token) for token in encoded("你好世界, 再见")]

    assert ends.index(True) < len(ends) - 1
    assert answer.take(finished=True) == "你好"
    assert answer.matched_stop == "世界"


def test_a_conversation_is_rendered_with_the_models_template() -> None:
    ids = asyncio.run(TOKENIZER.encode_chat([("user", "hi")]))

    assert TOKENIZER.decode(ids) == "user: hi\nassistant:"


@pytest.mark.parametrize(
    ("messages", "problem"), [pytest.param([("judge", "guilty")], "no judges", id="the template refuses a role")]
)
def test_what_a_template_refuses_is_the_callers_error(messages: list[tuple[str, str]], problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem):
        asyncio.run(TOKENIZER.encode_chat(messages))
