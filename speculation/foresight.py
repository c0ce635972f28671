"""Drafting ahead: what a drafter would propose after each of the likeliest verdicts on the tree under way.

Speculation on the outcome of speculation (SSD, Kumar et al. 2026, arXiv:2603.03251). It costs nothing where a drafter
would wait otherwise, and changes no token: a foreseen tree is the one that the drafter would propose then.
"""

from dataclasses import dataclass

from speculation.tree import TokenTree

MOST_OUTCOMES = 16
"""Outcomes of one verification that can be foreseen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen:
    """What follows if the target says this.

    Attributes:
        token_ids: What the target would emit, at least one token.
        tree: What the drafter proposes after them.
    """

    token_ids: tuple[int, ...]
    tree: TokenTree
