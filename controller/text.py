"""Tokens to text as they come: whole characters only, and never a piece of a stop string."""

import asyncio
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from jinja2 import TemplateError

from speculation.errors import ConfigurationError, InvalidRequestError, ModelNotFoundError
from speculation.fingerprint import tokenizer_fingerprint

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for bytes that are not, or not yet, a character."""

CONTEXT_TOKENS = 4
"""Tokens before the answer that are decoded with it: some tokenizers treat the first token of a text otherwise."""


ANCHOR = "a"
"""Stands before a token that is spelled by itself."""

WINDOW_TOKENS = 16
"""Tokens that are decoded anew with each token before the window is moved on."""


class Decoder(Protocol):
    """Turns tokens into text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens, special ones left out."""


class Tokenizer:
    """The tokenizer of the target, as every part of the controller uses it.

    Attributes:
        vocab_size: One more than the largest token id.
        longest_token: Characters of the longest token: no text has fewer tokens than its length over this, but for
            tokenizers that leave out what they find superfluous, or make one token of all that they do not know.
        fingerprint: See speculation/fingerprint.py.
        end_token_ids: At which the model ends its answers.
    """

    def __init__(self, tokenizer: Any, end_token_ids: Iterable[int] = ()) -> None:
        vocabulary = tokenizer.get_vocab()
        self.vocab_size: int = max(vocabulary.values()) + 1
        self.longest_token: int = max(map(len, vocabulary))
        self.fingerprint = tokenizer_fingerprint(vocabulary)
        own_end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
        self.end_token_ids = frozenset((*own_end, *end_token_ids))
        self._tokenizer = tokenizer
        self._decode = _decoder_of(tokenizer)
        self._anchor = tokenizer.encode(ANCHOR, add_special_tokens=False)
        # One thread: an encoder that truncates changes its own state on first use, which two at once must not.
        self._encoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of these tokens, special ones left out."""
        return self._decode(token_ids, skip_special_tokens=True)

    def spell(self, token_id: int) -> str:
        """The text of one token within a text, a special one by its name; a piece of a character is REPLACEMENT."""
        # Alone it would read otherwise: some tokenizers drop the space before the first word.
        return self._read([*self._anchor, token_id]).removeprefix(self._read(self._anchor))

    def _read(self, token_ids: Sequence[int]) -> str:
        return self._decode(token_ids, skip_special_tokens=False)

    async def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of a prompt; in a thread of its own, since a long one takes a while."""
        return await self._in_thread(text, True)

    async def encode_chat(self, messages: Sequence[tuple[str, str]]) -> tuple[int, ...]:
        """Token ids of a conversation of (role, content), rendered with the model's own template.

        Raises:
            InvalidRequestError: There is no template, or it refuses these roles.
        """
        turns = [{"role": role, "content": content} for role, content in messages]
        if not self._tokenizer.chat_template:
            raise InvalidRequestError("chat", "the target's tokenizer has no chat template; send text or tokens")
        try:
            text = self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise InvalidRequestError("chat", f"the model's chat template refuses it: {error}") from error
        return await self._in_thread(text, False)

    async def _in_thread(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        def encode() -> tuple[int, ...]:
            return tuple(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))

        return await asyncio.get_running_loop().run_in_executor(self._encoding, encode)


def _decoder_of(tokenizer: Any) -> Callable[..., str]:
    """Reads tokens as this tokenizer does.

    Where transformers only wraps the tokenizers library, the wrapper is left out: it looks at every token once more,
    which is two thirds of the time.
    """
    from transformers import PreTrainedTokenizerFast as Wrapper

    kind = type(tokenizer)
    if isinstance(tokenizer, Wrapper) and (kind.decode, kind._decode) == (Wrapper.decode, Wrapper._decode):
        decode: Callable[..., str] = tokenizer.backend_tokenizer.decode
        return decode
    return partial(tokenizer.decode, clean_up_tokenization_spaces=False)


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a folder or a hub id, and the end tokens that its model's files name.

    Raises:
        ModelNotFoundError: Nothing usable is there.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(name, f"no tokenizer can be loaded: {error}") from error
    return Tokenizer(tokenizer, _end_tokens_of(name))


def _end_tokens_of(name: str) -> tuple[int, ...]:
    """What generation_config.json, or else config.json, names; a chat model often has more than one."""
    from transformers.utils.hub import cached_file

    for file in ("generation_config.json", "config.json"):
        try:
            path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        except OSError:
            continue
        if path is None:
            continue
        try:
            ends = json.loads(Path(path).read_text(encoding="utf-8")).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise ConfigurationError(str(path), f"cannot be read: {error}") from error
        if ends is not None:
            return tuple(ends) if isinstance(ends, list) else (ends,)
    return ()


class IncrementalDecoder:
    """Decodes one token at a time; what it gives, joined, is the text of all tokens.

    A character may be spread over several tokens, and how a token reads may depend on the one before. So a short window
    is decoded anew with each token, and its text is held back while it ends in an unfinished character.
    """

    def __init__(self, decoder: Decoder, context: Sequence[int] = ()) -> None:
        """
        Args:
            decoder: Of the target.
            context: The tokens just before; they give no text themselves.
        """
        self._decoder = decoder
        text = decoder.decode(context) if context else ""
        # Text that breaks off within a character is no firm ground to start from.
        grounded = bool(text) and not text.endswith(REPLACEMENT)
        self._given = list(context) if grounded else []
        self._given_text = text if grounded else ""
        self._held: list[int] = []

    def push(self, token: int) -> str:
        """The text that this token completes; often one word, sometimes nothing."""
        self._held.append(token)
        text = self._decoder.decode(self._given + self._held)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._given_text):
            return ""
        return self._give(text)

    def push_all(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete, read at once unless they end within a character."""
        held = len(self._held)
        self._held += token_ids[:-1]
        if fresh := self.push(token_ids[-1]):
            return fresh
        del self._held[held:]
        return "".join([self.push(token) for token in token_ids])

    def finish(self) -> str:
        """The text of what was held back, replacement characters and all."""
        return self._give(self._decoder.decode(self._given + self._held)) if self._held else ""

    def _give(self, text: str) -> str:
        fresh = text[len(self._given_text) :]
        self._given, self._given_text, self._held = self._given + self._held, text, []
        if len(self._given) > WINDOW_TOKENS:
            self._given = self._given[-CONTEXT_TOKENS:]
            self._given_text = self._decoder.decode(self._given)
        return fresh


class StopScanner:
    """Finds the first stop string in a text that comes in pieces, and holds back what may become one.

    First is the one that ends first; of those that end together, the longest. So the answer does not depend on how the
    text was cut into pieces.

    Attributes:
        matched: The stop string that was found, or empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.matched = ""
        self._stops = tuple(sorted(stops, key=len, reverse=True))
        self._held = ""

    def push(self, piece: str) -> str:
        """The text that surely belongs to the answer now; nothing more once a stop was found."""
        if self.matched:
            return ""
        text = self._held + piece
        ends = [(start + len(stop), -len(stop), stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            end, _, self.matched = min(ends)
            self._held = ""
            return text[: end - len(self.matched)]
        held_length = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held_length :]
        return text[: len(text) - held_length]

    def finish(self) -> str:
        """What was held back and did not become a stop string after all."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that a stop string begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)


class AnswerText:
    """The text of one answer while it grows."""

    def __init__(self, decoder: Decoder, *, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self._decoder = IncrementalDecoder(decoder, prompt[-CONTEXT_TOKENS:])
        self._scanner = StopScanner(stops)
        self._may_stop = bool(stops)
        self._unread: list[int] = []
        self._ready: list[str] = []

    @property
    def matched_stop(self) -> str:
        """The stop string at which the answer ended, or empty."""
        return self._scanner.matched

    def push(self, token: int) -> bool:
        """Take in a token; true if it completed a stop string. Where there is none, tokens are read later, at once."""
        if not self._may_stop:
            self._unread.append(token)
            return False
        self._ready.append(self._scanner.push(self._decoder.push(token)))
        return bool(self._scanner.matched)

    def take(self, *, finished: bool) -> str:
        """The text that is ready and was not taken before; at the end, all of it."""
        if self._unread:
            self._ready.append(self._decoder.push_all(self._unread))
            self._unread = []
        if finished and not self._scanner.matched:
            self._ready.append(self._scanner.push(self._decoder.finish()))
            self._ready.append(self._scanner.finish())
        text, self._ready = "".join(self._ready), []
        return text
