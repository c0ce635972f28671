"""Laws of plans."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router_models.fixed import ConfidencePolicy, MergedPolicy, NonePolicy, StaticPolicy
from router_models.plan import CHAIN_OF_4, Combination, Plan, no_speculation
from router_models.policy import RoundContext
from speculation.tree import EMPTY_TREE, MAX_NODES, TreeShape, chain, merge, most_confident, side_by_side
from tests.strategies import trees

CONTEXT = RoundContext(
    request_id="r", round=0, drafters=("code", "docs"), prompt_tokens=9, emitted_tokens=0, remaining_tokens=50
)


def plan(combination: Combination = Combination.MERGED, verify_budget: int = MAX_NODES) -> Plan:
    """A plan of two drafters."""
    return Plan(
        drafters=("code", "docs"), combination=combination, verify_budget=verify_budget, explanation="a test says so"
    )


@given(trees(), trees())
def test_trees_are_combined_as_the_plan_says(one, other) -> None:
    assert plan(Combination.MERGED).combine([one, other]) == merge([one, other])
    assert plan(Combination.SIDE_BY_SIDE).combine([one, other]) == side_by_side([one, other])
    assert plan(Combination.MOST_CONFIDENT).combine([one, other]) == most_confident([one, other])


@pytest.mark.parametrize("combination", list(Combination))
def test_if_no_drafter_answers_nothing_is_verified_but_the_root(combination: Combination) -> None:
    assert plan(combination).combine([]) == EMPTY_TREE


@pytest.mark.parametrize("combination", list(Combination))
@given(one=trees(), other=trees(), budget=st.integers(0, 5))
def test_a_verify_budget_bounds_every_combination(combination: Combination, one, other, budget: int) -> None:
    assert len(plan(combination, verify_budget=budget).combine([one, other])) <= budget


@given(st.integers(1, 100), st.integers(1, 64))
def test_no_level_is_drafted_that_the_request_cannot_use(remaining: int, depth: int) -> None:
    shape = TreeShape(depth=depth, branching=1, budget=64)

    useful = replace(plan(), shape=shape).within(remaining)

    assert not useful.speculates or useful.shape.depth == min(depth, remaining - 1)
    assert useful.speculates == (remaining > 1)


def test_plain_decoding_drafts_nothing() -> None:
    assert not no_speculation("why").speculates
    assert not NonePolicy().plan(CONTEXT).speculates


def test_static_uses_its_drafter_or_else_the_first_on_offer() -> None:
    assert StaticPolicy(drafter="docs").plan(CONTEXT).drafters == ("docs",)
    assert StaticPolicy(drafter="gone").plan(CONTEXT).drafters == ("code",)
    assert StaticPolicy().plan(CONTEXT).drafters == ("code",)


def test_confidence_verifies_the_tree_of_higher_mean_path_confidence() -> None:
    """TAPS: the mean over a tree's nodes of the product of confidences down to each."""
    sure, unsure = chain([1, 2], [0.9, 0.9]), chain([3, 4], [0.95, 0.1])

    assert ConfidencePolicy().plan(CONTEXT).combine([unsure, sure]) == sure


def test_merged_lays_full_trees_side_by_side() -> None:
    """TAPS: no doubles are removed and no budget is split."""
    tree = chain([1, 2, 3, 4])

    assert len(MergedPolicy().plan(CONTEXT).combine([tree, tree])) == 8


def test_merged_trie_removes_doubles_and_keeps_one_budget() -> None:
    policy = MergedPolicy(deduplicate=True, shape=CHAIN_OF_4)
    one, other = chain([1, 2, 3, 4], [0.9] * 4), chain([1, 2, 5, 6], [0.8] * 4)

    combined = policy.plan(CONTEXT).combine([one, other])

    assert len(combined) == CHAIN_OF_4.budget
    assert combined.tokens_on_path(1) == (1, 2)


def test_many_drafters_share_the_largest_tree_there_may_be() -> None:
    many = replace(CONTEXT, drafters=tuple(f"d{n}" for n in range(8)))
    policy = MergedPolicy(shape=TreeShape(depth=5, branching=8, budget=60))

    assert policy.plan(many).shape.budget * 8 <= MAX_NODES
