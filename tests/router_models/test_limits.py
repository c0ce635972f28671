"""Laws of limits: whatever a policy plans, what is carried out is allowed."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from router_models.limits import enforced, is_one_of
from router_models.plan import Combination, Plan
from router_models.policy import RoundContext
from speculation.tree import MAX_BRANCHING, MAX_DEPTH, MAX_NODES, TokenTree, TreeShape
from speculation.verdict import MAX_RUN

NAMES = ("code", "docs", "math", "json")
CONTEXT = RoundContext(request_id="r", round=0, drafters=NAMES, prompt_tokens=9, emitted_tokens=0, remaining_tokens=50)

shapes = st.builds(
    TreeShape,
    depth=st.integers(1, MAX_DEPTH),
    branching=st.integers(1, MAX_BRANCHING),
    budget=st.integers(1, MAX_NODES),
    least_confidence=st.floats(0, 1),
)
drafters = st.lists(st.sampled_from(NAMES), unique=True).map(tuple)
plans = st.builds(
    Plan,
    drafters=drafters,
    shape=shapes,
    combination=st.sampled_from(Combination),
    verify_budget=st.integers(1, MAX_NODES),
    propensity=st.floats(0.1, 1),
    explanation=st.just("a test says so"),
    run=st.integers(0, MAX_RUN),
)
contexts = st.builds(
    RoundContext,
    request_id=st.just("r"),
    round=st.just(0),
    drafters=drafters,
    pinned_shape=st.none() | shapes,
    prompt_tokens=st.just(9),
    emitted_tokens=st.just(0),
    remaining_tokens=st.just(50),
    allowed_shapes=st.lists(shapes, max_size=3).map(tuple),
    most_nodes=st.integers(1, MAX_NODES),
    most_depth=st.integers(1, MAX_DEPTH),
    most_run=st.integers(0, MAX_RUN),
)


def bushy(nodes: int) -> TokenTree:
    """As many nodes as were asked for, all of them below the root."""
    return TokenTree(token_ids=tuple(range(nodes)), parents=(-1,) * nodes, confidences=(0.5,) * nodes)


@given(plans, contexts)
def test_nothing_is_carried_out_that_the_context_forbids(plan: Plan, context: RoundContext) -> None:
    carried_out = enforced(plan, context)

    assert set(carried_out.drafters) <= set(context.drafters)
    assert carried_out.run == min(plan.run, context.most_run)
    if carried_out.speculates:
        assert carried_out.shape.depth <= context.most_depth
        assert carried_out.shape.budget <= context.most_nodes


@given(plans, contexts)
def test_no_more_nodes_are_verified_than_allowed_however_trees_are_combined(plan: Plan, context: RoundContext) -> None:
    carried_out = enforced(plan, context)
    trees = [bushy(carried_out.shape.budget) for _ in carried_out.drafters]

    assert len(carried_out.combine(trees)) <= min(context.most_nodes, plan.verify_budget)


@given(plans, contexts)
def test_a_shape_is_the_pinned_one_or_an_allowed_one_as_far_as_the_limits_reach(
    plan: Plan, context: RoundContext
) -> None:
    carried_out = enforced(plan, context)
    choices = (context.pinned_shape,) if context.pinned_shape is not None else context.allowed_shapes
    cut = tuple(
        replace(one, depth=min(one.depth, context.most_depth), budget=min(one.budget, context.most_nodes))
        for one in choices
    )

    assert not carried_out.speculates or not choices or is_one_of(carried_out.shape, cut)


@given(plans, contexts)
def test_a_plan_that_keeps_to_the_limits_is_left_as_it_is(plan: Plan, context: RoundContext) -> None:
    obedient = enforced(plan, context)

    assert enforced(obedient, context) == obedient


@given(plans)
def test_without_limits_no_plan_is_changed(plan: Plan) -> None:
    free = replace(CONTEXT, most_run=MAX_RUN)
    side_by_side = plan.combination is Combination.SIDE_BY_SIDE

    assert enforced(plan, free) == plan or (side_by_side and plan.shape.budget * len(plan.drafters) > MAX_NODES)


def test_a_shape_that_is_not_allowed_becomes_the_one_of_nearest_cost() -> None:
    small, large = TreeShape(depth=2, branching=1, budget=2), TreeShape(depth=8, branching=4, budget=32)
    context = replace(CONTEXT, allowed_shapes=(small, large))
    wish = Plan(drafters=("code",), shape=TreeShape(depth=6, branching=4, budget=24), explanation="a test says so")

    assert enforced(wish, context).shape == large
    assert enforced(replace(wish, shape=TreeShape(depth=4, branching=1, budget=4)), context).shape == small
