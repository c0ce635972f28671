"""What every policy promises, those to come included: add a policy to the catalogue and it is held to this."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router_models.catalogue import all_policies
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings
from speculation.acceptance import walk
from speculation.tree import MAX_NODES, TokenTree, TreeShape, prune
from speculation.verdict import Verdict
from tests.strategies import trees

DRAFTERS = ("code", "docs", "math")

every_policy = pytest.mark.parametrize("name", list(all_policies()))
some_examples = settings(max_examples=30)
"""Of each law for each policy: hundreds for each law."""


def fresh(name: str) -> Policy:
    """A policy that has learnt nothing yet."""
    return all_policies()[name]


shapes = st.builds(TreeShape, depth=st.integers(1, 64), branching=st.integers(1, 64), budget=st.integers(1, MAX_NODES))


@st.composite
def contexts(draw: st.DrawFn) -> RoundContext:
    """Any round of any request."""
    drafters = tuple(draw(st.lists(st.sampled_from(DRAFTERS), unique=True)))
    return RoundContext(
        request_id=draw(st.text(max_size=4)),
        round=draw(st.integers(0, 100)),
        drafters=drafters,
        pinned_shape=draw(st.none() | shapes),
        task=draw(st.sampled_from(["", "code", "never seen"])),
        tenant=draw(st.sampled_from(["", "acme"])),
        prompt_tokens=draw(st.integers(1, 10_000)),
        emitted_tokens=draw(st.integers(0, 10_000)),
        remaining_tokens=draw(st.integers(1, 10_000)),
        temperature=draw(st.floats(0, 2)),
        prompt_surprisal={drafter: draw(st.floats(0, 12)) for drafter in drafters if draw(st.booleans())},
        requests_in_flight=draw(st.integers(1, 64)),
    )


@st.composite
def outcomes(draw: st.DrawFn, plan: Plan) -> RoundOutcome:
    """Anything that may come of a plan, missing drafters and all."""
    drafts: Mapping[str, TokenTree] = {
        drafter: prune(draw(trees()), plan.shape.budget) for drafter in plan.drafters if draw(st.booleans())
    }
    tree = plan.combine(list(drafts.values()))
    result = walk(tree, draw(st.integers(0, 5)), [draw(st.integers(0, 5)) for _ in range(len(tree))])
    emitted = (*(tree.token_ids[node] for node in result.accepted), result.extra_token)
    verdict = Verdict(
        accepted=result.accepted,
        token_ids=emitted,
        logprobs=(-1.0,) * len(emitted),
        node_probs=(0.5,) * len(tree),
    )
    nanoseconds = st.integers(0, 10**10)
    timings = RoundTimings(draft_ns=draw(nanoseconds), verify_ns=draw(nanoseconds), round_ns=draw(nanoseconds))
    return RoundOutcome(drafts=drafts, tree=tree, verdict=verdict, timings=timings)


@every_policy
def test_it_goes_by_the_name_in_the_catalogue(name: str) -> None:
    assert fresh(name).name == name


@every_policy
@some_examples
@given(st.data())
def test_it_only_names_drafters_on_offer_and_none_twice(name: str, data: st.DataObject) -> None:
    context = data.draw(contexts())

    plan = fresh(name).plan(context)

    assert set(plan.drafters) <= set(context.drafters)
    assert len(set(plan.drafters)) == len(plan.drafters)


@every_policy
@some_examples
@given(st.data())
def test_it_obeys_a_pinned_shape(name: str, data: st.DataObject) -> None:
    """Depth and branching to the letter; the budget is an upper bound that several drafters may have to share."""
    pinned = data.draw(shapes)

    plan = fresh(name).plan(replace(data.draw(contexts()), pinned_shape=pinned))

    if plan.speculates:
        assert (plan.shape.depth, plan.shape.branching) == (pinned.depth, pinned.branching)
        assert plan.shape.budget <= pinned.budget


@every_policy
@some_examples
@given(st.data())
def test_it_states_a_propensity_and_a_reason(name: str, data: st.DataObject) -> None:
    plan = fresh(name).plan(data.draw(contexts()))

    assert 0.0 < plan.propensity <= 1.0
    assert plan.explanation


@every_policy
@some_examples
@given(st.data())
def test_what_it_combines_is_a_tree_within_its_verify_budget(name: str, data: st.DataObject) -> None:
    context = data.draw(contexts())
    plan = fresh(name).plan(context)
    drafts = [prune(data.draw(trees()), plan.shape.budget) for _ in plan.drafters]

    assert len(plan.combine(drafts)) <= plan.verify_budget


@every_policy
@some_examples
@given(st.data())
def test_it_learns_from_any_outcome_and_goes_on_planning(name: str, data: st.DataObject) -> None:
    policy = fresh(name)
    for _ in range(3):
        context = data.draw(contexts())
        plan = policy.plan(context).within(context.remaining_tokens)
        policy.learn(context, plan, data.draw(outcomes(plan)))


@every_policy
def test_without_drafters_it_does_not_speculate(name: str) -> None:
    context = RoundContext(request_id="r", round=0, drafters=(), prompt_tokens=1, emitted_tokens=0, remaining_tokens=9)

    assert not fresh(name).plan(context).speculates
