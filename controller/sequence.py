"""The one true copy of a request's tokens, and the rules by which it ends."""

from array import array
from collections.abc import Callable, Iterable
from enum import Enum

from speculation.prefix import EMPTY_PREFIX, Context, extend_hash


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """An end token, a stop token or a stop string."""
    LENGTH = "length"
    """As many tokens as were asked for."""


def _never(token: int) -> bool:
    return False


class Sequence:
    """Prompt and answer of one request; workers hold copies and may lose them.

    Attributes:
        token_ids: Prompt, then answer.
        prompt_length: Tokens of the prompt.
        finish_reason: Why the answer ended; None while it goes on.
    """

    def __init__(
        self,
        prompt: Iterable[int],
        *,
        max_new_tokens: int,
        stop_token_ids: frozenset[int] = frozenset(),
        ends_answer: Callable[[int], bool] = _never,
    ) -> None:
        """
        Args:
            prompt: At least one token.
            max_new_tokens: Most tokens of the answer.
            stop_token_ids: Tokens that end the answer and are not part of its text.
            ends_answer: Told every other token of the answer in turn; true if the answer ends with it.
        """
        self.token_ids: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._hashes = array("Q", (EMPTY_PREFIX,))
        self._stop_token_ids = stop_token_ids
        self._ends_answer = ends_answer
        for token in prompt:
            self._append(token)
        self.prompt_length = len(self)
        self._full_length = self.prompt_length + max_new_tokens

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def prefix_hash(self) -> int:
        """Over all its tokens."""
        return self._hashes[-1]

    @property
    def num_emitted(self) -> int:
        """Tokens of the answer so far."""
        return len(self) - self.prompt_length

    @property
    def remaining(self) -> int:
        """Tokens that may still be emitted."""
        return self._full_length - len(self)

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self.finish_reason is not None

    def context(self, start: int, end: int | None = None) -> Context:
        """Tokens [start, end) and the hash of all before them, as a worker is told them."""
        return Context(base_length=start, prefix_hash=self._hashes[start], token_ids=tuple(self.token_ids[start:end]))

    def extend(self, token_ids: Iterable[int]) -> tuple[int, ...]:
        """Append what was emitted, up to and including the token that ends the answer; returns what was appended.

        The rules look at one token at a time, so where an answer ends does not depend on how rounds cut it.
        """
        start = len(self)
        for token in token_ids:
            if self.finished:
                break
            self._append(token)
            if token in self._stop_token_ids or self._ends_answer(token):
                self.finish_reason = FinishReason.STOP
            elif self.remaining == 0:
                self.finish_reason = FinishReason.LENGTH
        return tuple(self.token_ids[start:])

    def _append(self, token: int) -> None:
        self.token_ids.append(token)
        self._hashes.append(extend_hash(self._hashes[-1], (token,)))
