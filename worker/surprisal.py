"""How surprised a drafter is by the end of a prompt; the least surprised one is usually the right specialist."""

from collections.abc import Sequence

from torch import Tensor

WINDOW = 256
"""Prompt tokens at the end that count."""


class PromptSurprisal:
    """Mean negative log-likelihood of the last tokens of a prompt, gathered while the prompt is read.

    Args:
        prompt_length: Tokens of the prompt; the first one is given, so a prompt of one token has no surprisal.
    """

    def __init__(self, prompt_length: int) -> None:
        self._window = range(max(1, prompt_length - WINDOW), prompt_length)
        self._nats: dict[int, float] = {}

    @property
    def pending(self) -> bool:
        """Whether tokens of the window are still to be read."""
        return len(self._nats) < len(self._window)

    @property
    def value(self) -> float | None:
        """Nats a token; None while pending, and for a prompt of one token."""
        return None if self.pending or not self._nats else sum(self._nats.values()) / len(self._nats)

    @property
    def first_position(self) -> int:
        """Where the model must be heard first: before this place tokens need not be run for the surprisal's sake."""
        return self._window.start - 1

    def wanted(self, start: int, stop: int) -> list[int]:
        """Which of the positions start to stop - 1 predict a token of the window."""
        return [place - 1 for place in self._window if start < place <= stop]

    def add(self, positions: Sequence[int], logits: Tensor, token_ids: Sequence[int]) -> None:
        """Score the token after each position.

        Args:
            positions: (n,), from `wanted`.
            logits: (n, vocab), what the model says after each.
            token_ids: The sequence.
        """
        if positions:
            log_probs = logits.float().log_softmax(dim=-1)
            next_ids = [token_ids[position + 1] for position in positions]
            nats = (-log_probs[range(len(next_ids)), next_ids]).tolist()
            self._nats.update((position + 1, nat) for position, nat in zip(positions, nats, strict=True))

    def forget_from(self, length: int) -> None:
        """Drop what was gathered from this position on: other tokens will stand there."""
        if length < self._window.stop:
            self._nats = {position: nats for position, nats in self._nats.items() if position < length}
