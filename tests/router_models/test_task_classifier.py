"""TaskSpec: a classifier trained from the logs sends each prompt to the drafter that serves its kind fastest."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from router_models.baselines.task_classifier import PLAIN_DECODING, TaskClassifierPolicy, prompt_features, train
from router_models.model_state import ModelState
from router_models.policy import RoundContext
from speculation.errors import InvalidModelStateError
from speculation.tree import TreeShape

DRAFTERS = ("code", "docs", "math")


def request(
    surprisal: Mapping[str, float] | None = None, *, task: str = "", drafters: tuple[str, ...] = DRAFTERS
) -> RoundContext:
    """The first round of a request."""
    return RoundContext(
        request_id="r", round=0, drafters=drafters, task=task, prompt_tokens=100, emitted_tokens=0,
        remaining_tokens=64, prompt_surprisal=surprisal or {},
    )  # fmt: skip


def surprised(by: str, rng: np.random.Generator, *, excess: float = 0.4) -> dict[str, float]:
    """Surprisals at a prompt, the least that of the drafter at home in it, with some noise."""
    return {name: float(2.0 + (0.0 if name == by else excess) + rng.normal(0, 0.05)) for name in DRAFTERS}


def trained(best_of: Callable[[str], str], *, homes: tuple[str, ...] = DRAFTERS) -> TaskClassifierPolicy:
    """A policy trained on logs in which the drafter `best_of(home)` was best for the prompts of each home."""
    rng = np.random.default_rng(0)
    logged = [(home, request(surprised(home, rng))) for home in homes for _ in range(40)]
    rows = np.array([prompt_features(context, DRAFTERS) for _, context in logged])
    policy = TaskClassifierPolicy()
    policy.restore(train(rows, [best_of(home) for home, _ in logged], DRAFTERS))
    return policy


def chosen(policy: TaskClassifierPolicy, context: RoundContext) -> str:
    return (*policy.plan(context).drafters, PLAIN_DECODING)[0]


@pytest.mark.parametrize(
    ("context", "drafter"),
    [
        pytest.param(request(task="docs"), "docs", id="named like the task"),
        pytest.param(request({"code": 3.0, "math": 2.0}, task="poems"), "math", id="least surprised"),
        pytest.param(request(), "code", id="the first"),
    ],
)
def test_untrained_it_goes_by_rules(context: RoundContext, drafter: str) -> None:
    assert chosen(TaskClassifierPolicy(), context) == drafter


def test_trained_it_knows_prompts_it_has_not_seen() -> None:
    policy, rng = trained(lambda home: home), np.random.default_rng(1)

    for home in DRAFTERS * 20:
        assert chosen(policy, request(surprised(home, rng))) == home


def test_it_goes_by_what_was_fastest_and_not_by_a_name() -> None:
    """The logs say that prose of the docs kind is served fastest by math, and prompts of the math kind by nobody."""
    fastest = {"code": "code", "docs": "math", "math": PLAIN_DECODING}
    policy, rng = trained(fastest.__getitem__), np.random.default_rng(2)

    for home, best in fastest.items():
        assert chosen(policy, request(surprised(home, rng), task=home)) == best


def test_two_classes_are_told_apart_as_well() -> None:
    policy, rng = trained(lambda home: home, homes=("code", "math")), np.random.default_rng(3)

    assert [chosen(policy, request(surprised(home, rng))) for home in ("code", "math")] == ["code", "math"]


def test_a_drafter_that_has_gone_is_not_chosen() -> None:
    policy, rng = trained(lambda home: home), np.random.default_rng(4)

    assert chosen(policy, request(surprised("docs", rng), drafters=("code", "math"))) in ("code", "math")
    assert chosen(policy, request({"new": 2.0}, drafters=("new",))) == "new"


def test_a_pinned_shape_is_obeyed_and_the_drafter_stays() -> None:
    policy, rng = trained(lambda home: home), np.random.default_rng(5)
    context = request(surprised("math", rng))
    pinned = TreeShape(depth=2, branching=3, budget=6)

    plans = [policy.plan(replace(context, round=number, pinned_shape=pinned)) for number in range(3)]

    assert {(plan.drafters, plan.shape, plan.propensity) for plan in plans} == {(("math",), pinned, 1.0)}


def test_logs_with_one_best_drafter_teach_nothing() -> None:
    with pytest.raises(ValueError, match="same best drafter"):
        trained(lambda home: "code")


def test_what_was_trained_goes_on_elsewhere() -> None:
    policy, heir, rng = trained(lambda home: home), TaskClassifierPolicy(), np.random.default_rng(6)

    heir.restore(ModelState.from_bytes(policy.state().to_bytes()))

    contexts = [request(surprised(home, rng)) for home in DRAFTERS * 5]
    assert [heir.plan(context) for context in contexts] == [policy.plan(context) for context in contexts]


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda state: replace(state, policy="linucb"), id="of another policy"),
        pytest.param(lambda state: replace(state, labels={}), id="without names"),
        pytest.param(lambda state: replace(state, labels={**state.labels, "drafters": ["code"]}), id="too narrow"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(spoil: Callable[[ModelState], ModelState]) -> None:
    policy = trained(lambda home: home)

    with pytest.raises(InvalidModelStateError):
        policy.restore(spoil(policy.state()))
