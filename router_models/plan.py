"""What can be chosen for a round: which drafters, which tree, and how several trees become one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from speculation.calibration import Calibration
from speculation.tree import MAX_NODES, TokenTree, TreeShape, merge, most_confident, prune, side_by_side

CHAIN_OF_4 = TreeShape(depth=4, branching=1, budget=4)
"""Cheap to draft and to verify anywhere: what a policy falls back to when nobody says more."""


RUN = 8
"""Tokens that are decoded without a round of their own where nobody says more: what a round costs beside its forward is
spread over nine, and whoever waits for a token waits for few others."""


class Combination(Enum):
    """How the trees of several drafters become the one that is verified."""

    MOST_CONFIDENT = "most confident"
    """The tree of highest mean path confidence alone (TAPS, confidence routing)."""
    SIDE_BY_SIDE = "side by side"
    """All trees under one root, doubles and all (TAPS, merged trees)."""
    MERGED = "merged"
    """One trie without doubles, pruned to one budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one round will do.

    Attributes:
        drafters: Names of the drafters that draft; none means plain decoding.
        shape: The tree that each of them drafts.
        combination: How their trees become one.
        verify_budget: Most nodes verified.
        propensity: Probability in (0, 1] with which the policy makes this choice in this context; 0 for plain decoding
            on somebody else's order.
        explanation: Why, in words.
        model_version: Version of the learnt model behind the choice; empty if there is none.
        calibrations: What makes chances of a drafter's confidences; a drafter that is missing has its own word.
        run: Tokens that the target may decode after its verdict, each by a forward and without a round.
    """

    drafters: tuple[str, ...]
    shape: TreeShape = CHAIN_OF_4
    combination: Combination = Combination.MERGED
    verify_budget: int = MAX_NODES
    propensity: float = 1.0
    explanation: str
    model_version: str = ""
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    run: int = 0

    @property
    def speculates(self) -> bool:
        """Whether anything is drafted."""
        return bool(self.drafters)

    def combine(self, trees: Sequence[TokenTree]) -> TokenTree:
        """The tree to verify, given what the drafters answered; missing answers are simply not in `trees`."""
        if self.combination is Combination.MERGED:
            return merge(trees, self.verify_budget)
        if self.combination is Combination.SIDE_BY_SIDE:
            return prune(side_by_side(trees), self.verify_budget)
        return prune(most_confident(trees), self.verify_budget)

    def within(self, remaining_tokens: int) -> "Plan":
        """The same plan without what the request can no longer use.

        A round emits one token more than it accepts and runs on for, so the last token needs neither draft nor run.
        """
        useful = remaining_tokens - 1
        if useful <= 0:
            return replace(self, drafters=(), run=0)
        if useful >= max(self.shape.depth, self.run):
            return self
        shape = replace(self.shape, depth=min(self.shape.depth, useful))
        return replace(self, shape=shape, run=min(self.run, useful))


def is_propensity(chance: float, *, speculates: bool) -> bool:
    """Whether a plan may state this: a probability in (0, 1], or 0 where nobody chose (`plain_by_order`)."""
    return 0.0 < chance <= 1.0 or (chance == 0.0 and not speculates)


def no_speculation(explanation: str, *, run: int = 0) -> Plan:
    """Plain decoding, a token a round unless it may run on."""
    return Plan(drafters=(), run=run, explanation=explanation)


def plain_by_order(explanation: str) -> Plan:
    """Plain decoding because operator or caller want it so: no choice of the policy's."""
    return Plan(drafters=(), propensity=0.0, explanation=explanation)
