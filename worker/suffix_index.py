"""Where the end of a text occurred before: what followed there is likely to follow again.

Prompt lookup (Saxena 2023) takes the continuation of one earlier occurrence; SuffixDecoding (Oliaro et al. 2025,
arXiv:2411.04975) makes a tree of all of them, by how often each was seen. Here the length of what agrees counts, too:
the longer, the surer.
"""

from collections.abc import Sequence
from typing import NamedTuple

GRAMS = (8, 3, 1)
"""Lengths of the runs whose places are kept; the longest of which there is an earlier place is looked up."""

LONGEST = 32
"""Tokens by which an agreement is measured; what agrees further is no surer."""

MOST_MATCHES = 64
"""Earlier places looked at, the latest first: a frequent token has thousands."""

HALF_SURE, GROWTH = 1.75, 1.5
"""An agreement of HALF_SURE tokens goes on in half of all cases, one of n with odds of (n / HALF_SURE)**GROWTH: fitted
to our zoo's answers to tuning prompts (docs/log.md, "Drafters without a model")."""


class Match(NamedTuple):
    """An earlier occurrence.

    Attributes:
        place: Of the token that followed.
        length: Tokens before it that agree, LONGEST at most.
    """

    place: int
    length: int


class SuffixIndex:
    """A text and the places of every short run in it.

    Attributes:
        token_ids: The text.
    """

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self._places: dict[tuple[int, ...], list[int]] = {}

    def follow(self, token_ids: Sequence[int]) -> None:
        """Become the index of this text: a longer one is only added to."""
        held = len(self.token_ids)
        if self.token_ids != list(token_ids[:held]):
            self.token_ids.clear()
            self._places.clear()
            held = 0
        self.append(token_ids[held:])

    def append(self, token_ids: Sequence[int]) -> None:
        """Add tokens at the end."""
        text = self.token_ids
        for token in token_ids:
            text.append(token)
            for size in GRAMS:
                if size <= len(text):
                    self._places.setdefault(tuple(text[-size:]), []).append(len(text))

    def matches(self) -> list[Match]:
        """Where the end of the text occurred before, the latest first."""
        for size in GRAMS:
            earlier = self._places.get(tuple(self.token_ids[-size:]), ())[:-1]
            if earlier and size <= len(self.token_ids):
                return [Match(place, self._agreement(place)) for place in earlier[: -MOST_MATCHES - 1 : -1]]
        return []

    def token_at(self, place: int, path: Sequence[int]) -> int:
        """Of the text with a path behind it: what repeats itself may overlap with its own copy."""
        beyond = place - len(self.token_ids)
        return self.token_ids[place] if beyond < 0 else path[beyond]

    def _agreement(self, place: int) -> int:
        """Tokens before a place that equal the last ones of the text."""
        text, length = self.token_ids, 0
        while length < min(place, LONGEST) and text[place - 1 - length] == text[-1 - length]:
            length += 1
        return length


def candidates(index: SuffixIndex, matches: Sequence[Match], path: Sequence[int] = ()) -> list[tuple[int, float]]:
    """What may follow the text and a path behind it: tokens and their chances, the likeliest first.

    The longest agreements have the first say; what they leave open goes to the next longest, and so on.

    Args:
        index: Of the text.
        matches: Earlier places of its end, where the path followed.
        path: Tokens of a tree down to the node in question.
    """
    chances: dict[int, float] = {}
    left = 1.0
    for length in sorted({match.length for match in matches}, reverse=True):
        places = [match.place + len(path) for match in matches if match.length == length]
        certain = left * certainty(length + len(path))
        for place in places:
            token = index.token_at(place, path)
            chances[token] = chances.get(token, 0.0) + certain / len(places)
        left -= certain
    # A sum of many shares may be rounded to more than the whole.
    ranked = ((token, min(chance, 1.0)) for token, chance in chances.items())
    return sorted(ranked, key=lambda candidate: -candidate[1])


def that_go_on(index: SuffixIndex, matches: Sequence[Match], path: Sequence[int]) -> list[Match]:
    """Of the places where all but the last token of a path followed, those where that one did, too."""
    step = len(path) - 1
    return [match for match in matches if index.token_at(match.place + step, path) == path[step]]


def certainty(length: int) -> float:
    """The chance that what agrees for so many tokens agrees for one more."""
    odds: float = (min(length, LONGEST) / HALF_SURE) ** GROWTH
    return odds / (1.0 + odds)
