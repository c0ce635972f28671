"""What the decision log holds of texts that are not to be remembered: the form of rounds, and none of their words."""

from collections.abc import Iterable
from typing import Any

Record = Any
"""A RoundRecord or OutcomeRecord."""


class Veil:
    """Replaces the tokens of one request's records by numbers that mean nothing.

    Within a round the same token gets the same number, so that trees can still be compared with one another and with
    what the target emitted: that is all that learning, replay and diagnosis ask of tokens. No number comes again in
    another round: a number that stood for the same word throughout could be guessed like a letter of a simple cipher.
    """

    def __init__(self) -> None:
        self._given = 0

    def over_round(self, record: Record) -> None:
        """Veil a RoundRecord."""
        numbers: dict[int, int] = {}
        trees = (record.tree, *(draft.tree for draft in record.drafts))
        for token_ids in (*(tree.token_ids for tree in trees), record.token_ids):
            token_ids[:] = self._numbered(token_ids, numbers)
        self._given += len(numbers)
        record.veiled = True

    def _numbered(self, token_ids: Iterable[int], numbers: dict[int, int]) -> list[int]:
        return [numbers.setdefault(token, self._given + len(numbers)) for token in token_ids]

    @staticmethod
    def over_outcome(record: Record) -> None:
        """Veil an OutcomeRecord. A bias names tokens, too."""
        record.ClearField("prompt_token_ids")
        record.ClearField("token_ids")
        record.sampling.ClearField("logit_bias")
        record.veiled = True
