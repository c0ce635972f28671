"""SpecDec++: drafting stops where a rejection has become too likely, by calibrated confidence."""

import numpy as np
import pytest

from router_models.baselines.specdec import Power, SpecDecPolicy
from router_models.plan import Plan
from router_models.policy import RoundContext, RoundOutcome, RoundTimings
from speculation.tree import TreeShape, chain
from speculation.verdict import Verdict

CONTEXT = RoundContext(
    request_id="r", round=1, drafters=("a", "b"), prompt_tokens=9, emitted_tokens=9, remaining_tokens=99
)


def least_confidence(policy: SpecDecPolicy) -> float:
    return policy.plan(CONTEXT).shape.least_confidence


def teach(policy: SpecDecPolicy, drafter: str, *, power: float, rounds: int = 200) -> None:
    """Rounds of a drafter whose nodes are accepted with the chance confidence ** power."""
    rng = np.random.default_rng(1)
    for _ in range(rounds):
        confidences = rng.uniform(0.3, 0.95, size=6)
        accepted = int(np.cumprod(rng.random(6) < confidences**power).sum())
        tree = chain(range(6), confidences.tolist())
        emitted = (*range(accepted), 99)
        verdict = Verdict(accepted=tuple(range(accepted)), token_ids=emitted, logprobs=(-1.0,) * len(emitted))
        outcome = RoundOutcome(drafts={drafter: tree}, tree=tree, verdict=verdict, timings=RoundTimings())
        policy.learn(CONTEXT, Plan(drafters=(drafter,), explanation=""), outcome)


def test_with_calibrated_confidences_the_chain_ends_where_the_threshold_says() -> None:
    assert least_confidence(SpecDecPolicy(threshold=0.3)) == pytest.approx(0.7)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.5])
def test_it_learns_how_confidence_and_acceptance_go_together(power: float) -> None:
    policy = SpecDecPolicy(threshold=0.3)

    teach(policy, "a", power=power)

    assert least_confidence(policy) ** power == pytest.approx(0.7, abs=0.05)


def test_a_drafter_that_believes_too_much_is_stopped_earlier() -> None:
    overconfident, modest = SpecDecPolicy(), SpecDecPolicy()

    teach(overconfident, "a", power=3.0)
    teach(modest, "a", power=0.4)

    assert least_confidence(overconfident) > 0.7 > least_confidence(modest)


def test_drafters_are_calibrated_one_by_one() -> None:
    policy = SpecDecPolicy(drafter="a")

    teach(policy, "b", power=3.0)

    assert least_confidence(policy) == pytest.approx(0.7)


def test_a_change_is_followed() -> None:
    policy = SpecDecPolicy()

    teach(policy, "a", power=3.0, rounds=500)
    teach(policy, "a", power=0.5, rounds=1000)

    assert least_confidence(policy) ** 0.5 == pytest.approx(0.7, abs=0.05)


def test_a_pinned_shape_is_left_as_it_is() -> None:
    pinned = TreeShape(depth=3, branching=2, budget=5, least_confidence=0.1)
    context = RoundContext(
        request_id="r", round=1, drafters=("a",), prompt_tokens=9, emitted_tokens=9, remaining_tokens=99,
        pinned_shape=pinned,
    )  # fmt: skip

    assert SpecDecPolicy().plan(context).shape == pinned


def test_no_single_node_is_a_proof() -> None:
    power = Power()

    power.learn([(1.0, False), (0.0, True)])

    assert np.isfinite(power.mean)
