"""The policies that learn nothing: the controls that every learner must beat."""

from dataclasses import dataclass, replace

from router_models.limits import run_now
from router_models.plan import CHAIN_OF_4, Combination, Plan, no_speculation
from router_models.policy import Policy, RoundContext
from speculation.tree import MAX_NODES, TreeShape


@dataclass(frozen=True)
class NonePolicy(Policy):
    """Plain decoding, always, and a round for every token."""

    name: str = "none"

    def plan(self, context: RoundContext) -> Plan:
        """No drafters."""
        return no_speculation("the policy never speculates")


@dataclass(frozen=True)
class RunsPolicy(Policy):
    """Plain decoding, always, in runs as long as they may be: the target goes on by itself where nobody drafts."""

    name: str = "runs"

    def plan(self, context: RoundContext) -> Plan:
        """No drafters."""
        return no_speculation("the policy never speculates", run=run_now(context))


@dataclass(frozen=True, kw_only=True)
class StaticPolicy(Policy):
    """One drafter and one shape, always: what most serving systems offer.

    Attributes:
        drafter: The drafter to use; None, or one that is not on offer, means the first that is.
        shape: The tree it drafts.
    """

    name: str = "static"
    drafter: str | None = None
    shape: TreeShape = CHAIN_OF_4

    def plan(self, context: RoundContext) -> Plan:
        """The configured drafter, or the first on offer."""
        if not context.drafters:
            return no_speculation("no drafter is on offer")
        configured = self.drafter in context.drafters
        drafter = self.drafter if configured and self.drafter is not None else context.drafters[0]
        why = "the configured drafter" if configured else "the first drafter on offer"
        return Plan(drafters=(drafter,), shape=context.pinned_shape or self.shape, explanation=why)


@dataclass(frozen=True, kw_only=True)
class ConfidencePolicy(Policy):
    """Every drafter drafts; the tree of higher mean path confidence is verified.

    Source: TAPS, arXiv:2603.27027, step-level confidence routing. With two drafters it doubles the draft cost and
    leaves the verification cost unchanged.
    """

    name: str = "confidence"
    shape: TreeShape = CHAIN_OF_4

    def plan(self, context: RoundContext) -> Plan:
        """All drafters on offer."""
        if not context.drafters:
            return no_speculation("no drafter is on offer")
        return Plan(
            drafters=context.drafters,
            shape=context.pinned_shape or self.shape,
            combination=Combination.MOST_CONFIDENT,
            explanation="every drafter drafts, the most confident tree is verified",
        )


@dataclass(frozen=True, kw_only=True)
class MergedPolicy(Policy):
    """Every drafter drafts and all their trees are verified at once.

    Attributes:
        deduplicate: False lays the trees side by side, each with its full budget and doubles computed twice, as TAPS
            does (arXiv:2603.27027, merged-tree verification). True makes them one trie that shares one budget.
    """

    name: str = "merged"
    shape: TreeShape = CHAIN_OF_4
    deduplicate: bool = False

    def plan(self, context: RoundContext) -> Plan:
        """All drafters on offer."""
        if not context.drafters:
            return no_speculation("no drafter is on offer")
        shape = context.pinned_shape or self.shape
        if self.deduplicate:
            return Plan(
                drafters=context.drafters,
                shape=shape,
                combination=Combination.MERGED,
                verify_budget=shape.budget,
                explanation="every drafter drafts, one trie of their trees is verified within one budget",
            )
        affordable = max(1, MAX_NODES // len(context.drafters))
        return Plan(
            drafters=context.drafters[:MAX_NODES],
            shape=replace(shape, budget=min(shape.budget, affordable)),
            combination=Combination.SIDE_BY_SIDE,
            explanation="every drafter drafts, all their trees are verified side by side",
        )
