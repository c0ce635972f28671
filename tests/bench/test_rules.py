"""Rejection sampling, as others have it, keeps the target's distribution; each rule is compared at its best."""

import numpy as np
import pytest

from bench.rejection import RejectionPeer, accepted_candidate
from bench.rules import NODES, REJECTION_TREES, rule_figures
from forerun.models import model_folder
from forerun.workload import Task, tasks

TARGET = np.array([0.5, 0.3, 0.15, 0.05])
DRAFTER = np.array([0.1, 0.6, 0.2, 0.1])
DRAWS = 20_000


@pytest.mark.parametrize("candidates", [0, 1, 3])
def test_what_is_emitted_follows_the_target_whoever_drafted(candidates: int) -> None:
    rng = np.random.default_rng(7)

    drawn = [accepted_candidate(TARGET, DRAFTER, candidates, rng)[0] for _ in range(DRAWS)]

    assert np.bincount(drawn, minlength=4) / DRAWS == pytest.approx(TARGET, abs=0.015)


def test_one_candidate_is_taken_as_often_as_theory_says_and_more_are_taken_more_often() -> None:
    rng = np.random.default_rng(8)

    taken = [
        np.mean([accepted_candidate(TARGET, DRAFTER, candidates, rng)[1] for _ in range(DRAWS)])
        for candidates in (0, 1, 3)
    ]

    assert taken[0] == 0.0
    assert taken[1] == pytest.approx(np.minimum(TARGET, DRAFTER).sum(), abs=0.015)
    # A second and third candidate are taken if they are the token that is left, which the drafter draws once in ten.
    assert taken[2] == pytest.approx(0.6 + 0.4 * (1 - 0.9**2), abs=0.015)


def test_a_drafter_that_is_the_target_is_always_taken() -> None:
    rng = np.random.default_rng(9)

    assert all(accepted_candidate(TARGET, TARGET, 1, rng)[1] for _ in range(500))


def test_a_round_brings_one_token_more_than_it_has_levels_at_most() -> None:
    peer = RejectionPeer(model_folder("zoo:target"), model_folder("zoo:target"))
    (prompt,) = (entry.prompt for entry in tasks(("docs",), 1))

    assert peer.tokens_a_round(prompt, (1,) * 3, max_new_tokens=16, seed=1) == pytest.approx(4.0)
    assert peer.tokens_a_round(prompt, (), max_new_tokens=5, seed=1) == pytest.approx(1.0)


def test_no_tree_has_more_nodes_than_ours() -> None:
    assert all(np.cumprod(levels).sum() <= NODES for levels in REJECTION_TREES.values())


def test_a_rule_stands_for_its_best_tree() -> None:
    prompts = [Task("code", number, "") for number in range(4)]
    lengths = {
        "coupled, 16 deep, 1 wide": dict.fromkeys(prompts, 7.0),
        "coupled, 5 deep, 4 wide": dict.fromkeys(prompts, 5.5),
        "coupled": dict.fromkeys(prompts, 6.0),
        "uncoupled": dict.fromkeys(prompts, 3.0),
        "rejection, a chain of 16": dict.fromkeys(prompts, 4.0),
        "rejection, 4 chains of 4": dict.fromkeys(prompts, 5.0),
    }

    figures = {figure.name: figure for figure in rule_figures(lengths, seed=1)}

    assert figures["rules.coupled_over_uncoupled"].value == pytest.approx(2.0)
    assert figures["rules.coupled_over_rejection"].value == pytest.approx(1.4)
    assert figures["rules.coupled_at_best.code"].unit == "tokens, coupled, 16 deep, 1 wide"
    assert figures["rules.rejection_at_best.code"].unit == "tokens, rejection, 4 chains of 4"
