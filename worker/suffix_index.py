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


END = -1
"""What follows a text that is over: no token."""


class Match(NamedTuple):
    """An occurrence of the end of a text, in itself or in another one.

    Attributes:
        text: Where.
        place: Of the token that followed.
        length: Tokens before it that agree, LONGEST at most; what counts less than the text itself says fewer.
    """

    text: Sequence[int]
    place: int
    length: float

    def token(self, path: Sequence[int]) -> int:
        """What followed the end and a path behind it: what repeats itself may overlap with its own copy."""
        place = self.place + len(path)
        beyond = place - len(self.text)
        return self.text[place] if beyond < 0 else path[beyond]


class SuffixIndex:
    """A text, or several with END behind each, and the places of every short run in it.

    Args:
        grams: Lengths of the runs that are looked up, the longest first.

    Attributes:
        token_ids: The text.
    """

    def __init__(self, grams: Sequence[int] = GRAMS) -> None:
        self.token_ids: list[int] = []
        self._grams = grams
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
            for size in self._grams if token != END else ():
                if size <= len(text):
                    self._places.setdefault(tuple(text[-size:]), []).append(len(text))
            text.append(token)

    def matches(self, text: Sequence[int] | None = None) -> list[Match]:
        """Where the end of a text, of this one if none is given, occurred with a token behind it, the latest first."""
        text = self.token_ids if text is None else text
        for size in self._grams:
            places = self._places.get(tuple(text[-size:]))
            if places and size <= len(text):
                return [self._match(text, place) for place in places[: -MOST_MATCHES - 1 : -1]]
        return []

    def _match(self, text: Sequence[int], place: int) -> Match:
        """How far the tokens before a place equal the last ones of a text."""
        mine, length = self.token_ids, 0
        longest = min(place, len(text), LONGEST)
        while length < longest and mine[place - 1 - length] == text[-1 - length]:
            length += 1
        return Match(mine, place, length)


def candidates(matches: Sequence[Match], path: Sequence[int] = ()) -> list[tuple[int, float]]:
    """What may follow a text and a path behind it: tokens and their chances, the likeliest first.

    The longest agreements have the first say; what they leave open goes to the next longest, and so on.

    Args:
        matches: Where its end occurred, and the path followed.
        path: Tokens of a tree down to the node in question.
    """
    by_length: dict[float, list[int]] = {}
    for match in matches:
        if (token := match.token(path)) != END:
            by_length.setdefault(match.length, []).append(token)
    chances: dict[int, float] = {}
    left = 1.0
    for length, tokens in sorted(by_length.items(), reverse=True):
        certain = left * certainty(length + len(path))
        for token in tokens:
            chances[token] = chances.get(token, 0.0) + certain / len(tokens)
        left -= certain
    # A sum of many shares may be rounded to more than the whole.
    ranked = ((token, min(chance, 1.0)) for token, chance in chances.items())
    return sorted(ranked, key=lambda candidate: -candidate[1])


def that_go_on(matches: Sequence[Match], path: Sequence[int]) -> list[Match]:
    """Of the places where all but the last token of a path followed, those where that one did, too."""
    return [match for match in matches if match.token(path[:-1]) == path[-1]]


def certainty(length: float) -> float:
    """The chance that what agrees for so many tokens agrees for one more."""
    odds: float = (min(length, LONGEST) / HALF_SURE) ** GROWTH
    return odds / (1.0 + odds)
