"""What a plan may be at most: the operator's limits and the caller's pins hold whatever a policy plans."""

from dataclasses import replace
from functools import lru_cache

from router_models.plan import Combination, Plan
from router_models.policy import RoundContext
from speculation.tree import MAX_DEPTH, MAX_NODES, TreeShape


def enforced(plan: Plan, context: RoundContext) -> Plan:
    """The plan, cut to what the context allows; one that keeps to it comes back as it is."""
    drafters = tuple(name for name in plan.drafters if name in context.drafters)
    if plan.run > context.most_run:
        plan = replace(plan, run=context.most_run)
    if not drafters:
        return replace(plan, drafters=()) if plan.drafters else plan
    choices = _offered(_choices(context), context.most_depth, context.most_nodes)
    shape = _nearest(_cut(plan.shape, context.most_depth, context.most_nodes), choices)
    if plan.combination is Combination.SIDE_BY_SIDE:
        # Side by side nothing is shared: together the trees must still be one that can be verified.
        shape = replace(shape, budget=min(shape.budget, max(1, MAX_NODES // len(drafters))))
    at_most = min(plan.verify_budget, shape.budget * len(drafters))
    verify_budget = plan.verify_budget if at_most <= context.most_nodes else context.most_nodes
    if (drafters, shape, verify_budget) == (plan.drafters, plan.shape, plan.verify_budget):
        return plan
    return replace(plan, drafters=drafters, shape=shape, verify_budget=verify_budget)


def longest_run(context: RoundContext) -> int:
    """Tokens that a run can have: what the operator allows and the request can still use."""
    return min(context.most_run, max(context.remaining_tokens - 1, 0))


def run_now(context: RoundContext) -> int:
    """The same in this round: a caller is told his first token at once."""
    return longest_run(context) if context.emitted_tokens else 0


def offered(shapes: tuple[TreeShape, ...], context: RoundContext) -> tuple[TreeShape, ...]:
    """What is left of a policy's menu, or of what operator and caller put in its place: every plan that keeps to these
    comes out of `enforced` as it went in."""
    if not _choices(context) and context.most_nodes >= MAX_NODES and context.most_depth >= MAX_DEPTH:
        return shapes
    return _offered(_choices(context) or shapes, context.most_depth, context.most_nodes)


@lru_cache(maxsize=256)
def _offered(shapes: tuple[TreeShape, ...], depth: int, nodes: int) -> tuple[TreeShape, ...]:
    return tuple(dict.fromkeys(_cut(shape, depth, nodes) for shape in shapes))


def is_one_of(shape: TreeShape, choices: tuple[TreeShape, ...]) -> bool:
    """Whether a shape counts as one of these: depth and branching to the letter, all else an upper bound.

    Several drafters may have to share a budget, and a tree may end earlier where its drafter does not believe in it.
    """
    return any(
        (shape.depth, shape.branching) == (choice.depth, choice.branching)
        and shape.budget <= choice.budget
        and shape.least_confidence >= choice.least_confidence
        for choice in choices
    )


def _choices(context: RoundContext) -> tuple[TreeShape, ...]:
    """The shapes there are to choose from; none: any."""
    return (context.pinned_shape,) if context.pinned_shape is not None else context.allowed_shapes


def _nearest(shape: TreeShape, choices: tuple[TreeShape, ...]) -> TreeShape:
    """The shape itself if it may be chosen, else the one that costs most nearly the same."""
    if not choices or is_one_of(shape, choices):
        return shape
    return min(choices, key=lambda choice: (abs(choice.budget - shape.budget), abs(choice.depth - shape.depth)))


def _cut(shape: TreeShape, depth: int, nodes: int) -> TreeShape:
    if shape.depth <= depth and shape.budget <= nodes:
        return shape
    return replace(shape, depth=min(shape.depth, depth), budget=min(shape.budget, nodes))
