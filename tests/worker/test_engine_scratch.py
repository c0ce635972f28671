"""The scratch: who descends from whom among uncommitted tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation.errors import InvalidTreeError
from speculation.tree import ROOT
from worker.scratch import EMPTY, Scratch


@st.composite
def forests(draw: st.DrawFn) -> list[int]:
    size = draw(st.integers(1, 40))
    return [draw(st.integers(ROOT, node - 1)) for node in range(size)]


def ancestors(parents: list[int], node: int) -> set[int]:
    return set() if node == ROOT else {node} | ancestors(parents, parents[node])


@given(forests(), st.data())
def test_ancestry_and_depth_follow_the_parents_however_the_forest_was_sent(
    parents: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(parents)))

    scratch = EMPTY.grown(cut, parents[:cut]).grown(len(parents) - cut, parents[cut:])

    lineages = [ancestors(parents, node) for node in range(len(parents))]
    expected = np.array([[key in lineage for key in range(len(parents))] for lineage in lineages])
    assert (scratch.ancestry(cut) == expected[cut:]).all()
    assert list(scratch.depths) == [len(lineage) - 1 for lineage in lineages]


@pytest.mark.parametrize("parents", [None, [ROOT, 0, 1]], ids=["implied", "spelt out"])
def test_a_chain_is_known_as_one(parents: list[int] | None) -> None:
    assert EMPTY.grown(3, parents) == Scratch(parents=range(-1, 2), depths=range(3))


def test_a_long_chain_costs_no_memory_per_pair_of_tokens() -> None:
    scratch = EMPTY.grown(1_000_000).grown(1)

    assert scratch.is_chain
    assert scratch.path(None) == range(1_000_001)


def test_growing_leaves_the_old_scratch_as_it_was() -> None:
    scratch = EMPTY.grown(2, [ROOT, ROOT])

    scratch.grown(1, [1])

    assert len(scratch) == 2


@given(forests(), st.data())
def test_every_lineage_can_be_kept(parents: list[int], data: st.DataObject) -> None:
    node = data.draw(st.integers(ROOT, len(parents) - 1))
    lineage = sorted(ancestors(parents, node))

    assert list(EMPTY.grown(len(parents), parents).path(lineage)) == lineage


def test_siblings_cannot_both_be_kept() -> None:
    with pytest.raises(InvalidTreeError, match="cannot keep both"):
        EMPTY.grown(3, [ROOT, 0, 0]).path([0, 1, 2])
