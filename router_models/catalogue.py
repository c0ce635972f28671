"""Every policy by its name."""

from collections.abc import Mapping

from router_models.baselines.context_free import Exp3Policy, UcbPolicy
from router_models.baselines.contextual import EnsembleThompsonPolicy, LinUcbPolicy, SquareCbPolicy
from router_models.baselines.specdec import SpecDecPolicy
from router_models.baselines.task_classifier import TaskClassifierPolicy
from router_models.fixed import ConfidencePolicy, MergedPolicy, NonePolicy, RunsPolicy, StaticPolicy
from router_models.plan import CHAIN_OF_4
from router_models.planner import PlannerPolicy
from router_models.policy import Policy
from speculation.tree import TreeShape


def all_policies(*, shape: TreeShape = CHAIN_OF_4, drafter: str | None = None) -> Mapping[str, Policy]:
    """One of each policy.

    Args:
        shape: The tree that policies without a better idea draft.
        drafter: The drafter of `static` and `specdec++`.
    """
    policies: tuple[Policy, ...] = (
        NonePolicy(),
        RunsPolicy(),
        StaticPolicy(shape=shape, drafter=drafter),
        ConfidencePolicy(shape=shape),
        MergedPolicy(shape=shape),
        MergedPolicy(name="merged-trie", shape=shape, deduplicate=True),
        UcbPolicy(),
        Exp3Policy(),
        LinUcbPolicy(),
        EnsembleThompsonPolicy(),
        SquareCbPolicy(),
        SpecDecPolicy(drafter=drafter),
        TaskClassifierPolicy(shape=shape),
        PlannerPolicy(),
    )
    return {policy.name: policy for policy in policies}
