"""The published bandits find what is fastest, follow where they claim to, and state how likely each choice was."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare

from router_models.baselines.arms import MOST_DRAFTERS
from router_models.baselines.context_free import Exp3Policy, UcbPolicy
from router_models.baselines.contextual import (
    ContextualBandit,
    EnsembleThompsonPolicy,
    LinUcbPolicy,
    SquareCbPolicy,
)
from router_models.baselines.reward import FIRST_MEASUREMENTS, MEASURE_EVERY, MOST_GAIN, Baseline
from router_models.fixed import NonePolicy, StaticPolicy
from router_models.model_state import ModelState
from router_models.plan import Plan, no_speculation, plain_by_order
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings
from router_models.recent import Recent
from speculation.errors import InvalidModelStateError
from speculation.tree import EMPTY_TREE, TreeShape
from speculation.verdict import Verdict
from tests.router_models.world import NS_PER_MS, World

GOOD = np.array([0.85, 0.4, 0.2, 0.1])
FAIR = np.array([0.5, 0.3, 0.2, 0.1])
BAD = np.array([0.03, 0.02, 0.02, 0.02])
DRAFTERS = {"bad": BAD, "fair": FAIR, "good": GOOD}

SHAPES = (
    TreeShape(depth=1, branching=1, budget=1),
    TreeShape(depth=4, branching=1, budget=4),
    TreeShape(depth=8, branching=1, budget=8),
)

Bandit = ContextualBandit | UcbPolicy | Exp3Policy
CONTEXTUAL = (LinUcbPolicy, EnsembleThompsonPolicy, SquareCbPolicy)
RANDOMISED = (EnsembleThompsonPolicy, SquareCbPolicy, Exp3Policy)

contextual = pytest.mark.parametrize("bandit", CONTEXTUAL, ids=lambda bandit: bandit.name)


def a_round(number: int = 1, **details: object) -> RoundContext:
    """A round of some request."""
    context = RoundContext(
        request_id="request", round=number, drafters=tuple(DRAFTERS), prompt_tokens=20, emitted_tokens=9,
        remaining_tokens=50,
    )  # fmt: skip
    return replace(context, **details)  # type: ignore[arg-type]


def took(tokens: int, ms: float) -> RoundOutcome:
    """What came of a round, as far as its speed goes."""
    verdict = Verdict(accepted=tuple(range(tokens - 1)), token_ids=(7,) * tokens, logprobs=(-1.0,) * tokens)
    return RoundOutcome(
        drafts={}, tree=EMPTY_TREE, verdict=verdict, timings=RoundTimings(round_ns=round(ms * NS_PER_MS))
    )


PLAIN = no_speculation("")
DRAFTED = Plan(drafters=("good",), explanation="")


def measured(plain_ms: float) -> Baseline:
    """A baseline that knows the pace of plain decoding."""
    baseline = Baseline()
    for _ in range(FIRST_MEASUREMENTS):
        baseline.gain(a_round(), PLAIN, took(1, plain_ms))
    return baseline


def speed_of_best_fixed(hazards: Mapping[str, np.ndarray], shapes: Sequence[TreeShape] = SHAPES) -> float:
    """Tokens per millisecond of the best drafter and shape, were they known; only the better drafters are tried."""
    return max(
        World(hazards, seed=50).serve(StaticPolicy(drafter=drafter, shape=shape), requests=15).tokens_per_ms
        for drafter in sorted(hazards, key=lambda name: -hazards[name][0])[:1]
        for shape in shapes
    )


@pytest.fixture(scope="module")
def best_speed() -> float:
    return speed_of_best_fixed(DRAFTERS)


def test_faster_than_plain_decoding_is_a_gain_and_slower_a_loss() -> None:
    baseline = measured(plain_ms=20)

    assert baseline.gain(a_round(), DRAFTED, took(3, 30)) == pytest.approx(1.0)
    assert baseline.gain(a_round(), DRAFTED, took(1, 40)) == pytest.approx(-0.5)
    assert baseline.gain(a_round(), DRAFTED, took(60, 20)) == MOST_GAIN
    assert baseline.gain(a_round(), PLAIN, took(1, 90)) == 0.0


def test_more_accepted_tokens_in_a_slower_round_are_no_gain() -> None:
    baseline = measured(plain_ms=20)

    short, long = took(3, 25), took(4, 50)

    assert baseline.gain(a_round(), DRAFTED, short) > baseline.gain(a_round(), DRAFTED, long)  # type: ignore[operator]


def test_mean_gains_rank_arms_as_their_speeds_do() -> None:
    """One arm always brings 2 tokens, the other 1 or 4, and is faster in all; its mean logarithm is the lower one."""
    baseline = measured(plain_ms=20)
    steady, varied = [took(2, 30), took(2, 30)], [took(1, 32), took(4, 32)]

    gains = [
        np.mean([baseline.gain(a_round(), DRAFTED, outcome) for outcome in outcomes]) for outcomes in (steady, varied)
    ]

    assert gains[1] > gains[0]


def test_nothing_is_learnt_from_a_prompt_being_read_nor_before_the_pace_is_known() -> None:
    assert measured(20).gain(a_round(0), DRAFTED, took(3, 900)) is None
    assert Baseline().gain(a_round(), DRAFTED, took(3, 30)) is None


def test_the_pace_is_measured_at_first_and_rarely_afterwards_for_each_load() -> None:
    baseline = Baseline()
    asked = []
    for number in range(1, 2 * MEASURE_EVERY + 2):
        asked.append(baseline.due(a_round(number)))
        baseline.gain(a_round(number), PLAIN if asked[-1] else DRAFTED, took(2, 30))

    assert asked[:FIRST_MEASUREMENTS] == [True] * FIRST_MEASUREMENTS
    assert sum(asked[FIRST_MEASUREMENTS:]) == 1
    assert baseline.due(a_round(requests_in_flight=16))


@pytest.mark.parametrize(
    ("bandit", "requests"),
    [(LinUcbPolicy, 40), (EnsembleThompsonPolicy, 40), (SquareCbPolicy, 40), (UcbPolicy, 40), (Exp3Policy, 120)],
    ids=lambda value: getattr(value, "name", None),
)
def test_it_finds_the_best_arm(bandit: Callable[..., Bandit], requests: int, best_speed: float) -> None:
    """About twenty rounds a request, ten arms; EXP3 guards against an adversary and takes its time."""
    policy, world = bandit(shapes=SHAPES, seed=1), World(DRAFTERS, seed=1)
    world.serve(policy, requests=requests)

    settled = world.serve(policy, requests=20, first=requests)

    assert settled.tokens_per_ms > 0.85 * best_speed
    assert Counter(plan.drafters for plan in settled.plans).most_common(1)[0][0] == ("good",)


@contextual
def test_with_useless_drafters_it_decodes_plainly(bandit: Callable[..., Bandit]) -> None:
    useless = {"bad": BAD, "worse": BAD / 2}
    policy, world = bandit(shapes=SHAPES), World(useless, seed=2)
    world.serve(policy, requests=15)

    settled = world.serve(policy, requests=10, first=15)
    plain = World(useless, seed=2).serve(NonePolicy(), requests=10)

    assert settled.plain_rounds > 0.5 * settled.rounds
    assert settled.tokens_per_ms > 0.93 * plain.tokens_per_ms


@contextual
def test_it_follows_when_the_good_drafter_turns_bad(bandit: Callable[..., Bandit], best_speed: float) -> None:
    policy, world = bandit(shapes=SHAPES), World(DRAFTERS, seed=3)
    world.serve(policy, requests=20)

    world.hazards = {"bad": GOOD, "fair": FAIR, "good": BAD}
    world.serve(policy, requests=45, first=20)
    settled = world.serve(policy, requests=15, first=65)

    assert settled.tokens_per_ms > 0.85 * best_speed


@pytest.mark.parametrize("bandit", [*CONTEXTUAL, UcbPolicy, Exp3Policy], ids=lambda bandit: bandit.name)
def test_a_new_drafter_is_explored(bandit: Callable[..., Bandit]) -> None:
    policy, world = bandit(shapes=SHAPES), World({"bad": BAD, "fair": FAIR}, seed=4)
    world.serve(policy, requests=15)

    world.hazards = {"bad": BAD, "fair": FAIR, "new": GOOD}
    tally = world.serve(policy, requests=30, first=15)

    played = Counter(plan.drafters for plan in tally.plans)
    assert played["new",] > played["bad",]


@contextual
def test_tasks_get_the_drafters_that_serve_them(bandit: Callable[..., Bandit]) -> None:
    policy = bandit(shapes=SHAPES[1:2])
    code, prose = World({"a": GOOD, "b": BAD}, seed=5), World({"a": BAD, "b": GOOD}, seed=6)
    for turn in range(20):
        code.serve(policy, requests=1, first=2 * turn, task="code")
        prose.serve(policy, requests=1, first=2 * turn + 1, task="prose")

    plans = [
        code.serve(policy, requests=4, first=100, task="code"),
        prose.serve(policy, requests=4, first=110, task="prose"),
    ]

    for tally, drafter in zip(plans, ("a", "b"), strict=True):
        assert Counter(plan.drafters for plan in tally.plans)[drafter,] > 0.7 * tally.rounds


@pytest.mark.parametrize("bandit", RANDOMISED, ids=lambda bandit: bandit.name)
@pytest.mark.parametrize("requests", [0, 12])
def test_propensities_are_the_chances_of_the_choices(bandit: Callable[..., Bandit], requests: int) -> None:
    """Over many requests in the same situation each arm comes up as often as its plans say."""
    policy = bandit(shapes=SHAPES, seed=7)
    for _ in range(FIRST_MEASUREMENTS):
        policy.learn(a_round(), PLAIN, took(1, 26))
    World(DRAFTERS, seed=7).serve(policy, requests=requests)

    plans = [policy.plan(a_round(request_id=f"another {number}")) for number in range(3000)]

    seen = Counter((plan.drafters, plan.shape if plan.speculates else None) for plan in plans)
    stated = {(plan.drafters, plan.shape if plan.speculates else None): plan.propensity for plan in plans}
    expected = {arm: propensity * len(plans) for arm, propensity in stated.items()}
    common = [arm for arm in seen if expected[arm] >= 5]
    rest = [len(plans) - sum(counts[arm] for arm in common) for counts in (seen, expected)]
    observed_counts = np.array([*(seen[arm] for arm in common), rest[0]], dtype=float)
    expected_counts = np.array([*(expected[arm] for arm in common), max(rest[1], 0.0)])
    kept = expected_counts > 1e-9
    assert len(common) > 1
    assert observed_counts[~kept].sum() == 0
    assert chisquare(observed_counts[kept], expected_counts[kept]).pvalue > 0.001


@pytest.mark.parametrize("bandit", [LinUcbPolicy, UcbPolicy], ids=lambda bandit: bandit.name)
def test_optimists_are_certain(bandit: Callable[..., Bandit]) -> None:
    tally = World(DRAFTERS, seed=8).serve(bandit(shapes=SHAPES), requests=3)

    assert {plan.propensity for plan in tally.plans} == {1.0}


@pytest.mark.parametrize("bandit", [*CONTEXTUAL, UcbPolicy, Exp3Policy], ids=lambda bandit: bandit.name)
def test_the_same_history_gives_the_same_plans(bandit: Callable[..., Bandit]) -> None:
    tallies = [World(DRAFTERS, seed=9).serve(bandit(shapes=SHAPES, seed=3), requests=4) for _ in range(2)]

    assert tallies[0] == tallies[1]


@pytest.mark.parametrize("bandit", [*CONTEXTUAL, UcbPolicy, Exp3Policy], ids=lambda bandit: bandit.name)
def test_more_drafters_than_it_can_tell_apart_are_no_harm(bandit: Callable[..., Bandit]) -> None:
    policy: Policy = bandit(shapes=SHAPES)
    for _ in range(FIRST_MEASUREMENTS):
        policy.learn(a_round(), PLAIN, took(1, 20))
    for first in range(0, 5 * MOST_DRAFTERS, MOST_DRAFTERS - 3):
        context = a_round(drafters=tuple(f"drafter {first + place}" for place in range(MOST_DRAFTERS + 5)))
        plan = policy.plan(context)
        assert set(plan.drafters) <= set(context.drafters)
        policy.learn(context, Plan(drafters=context.drafters[-1:], shape=SHAPES[0], explanation=""), took(2, 30))
    if isinstance(policy, ContextualBandit):
        assert len(policy.state().labels["drafters"]) == MOST_DRAFTERS


@pytest.mark.parametrize("bandit", [*CONTEXTUAL, UcbPolicy, Exp3Policy], ids=lambda bandit: bandit.name)
@pytest.mark.parametrize(
    ("plan", "circumstances"),
    [
        pytest.param(plain_by_order(""), {}, id="the operator wanted it plain"),
        pytest.param(PLAIN, {"drafters": ()}, id="no drafter was on offer"),
        pytest.param(PLAIN, {"remaining_tokens": 1}, id="the last token needs no draft"),
    ],
)
def test_a_round_without_a_choice_tells_the_pace_and_nothing_else(
    bandit: Callable[..., Bandit], plan: Plan, circumstances: Mapping[str, object]
) -> None:
    """However many there are, such as under the kill switch, what was learnt stays, and does not age."""
    policy, twin = bandit(shapes=SHAPES), bandit(shapes=SHAPES)
    for one in (policy, twin):
        World(DRAFTERS, seed=14).serve(one, requests=5)

    for _ in range(200):
        policy.learn(a_round(**circumstances), plan, took(1, 25))
        twin.follow(a_round(**circumstances), plan, took(1, 25))

    afterwards = [a_round(number) for number in range(1, 20)]
    assert [policy.plan(context) for context in afterwards] == [twin.plan(context) for context in afterwards]
    if isinstance(policy, ContextualBandit) and isinstance(twin, ContextualBandit):
        assert policy.state().to_bytes() == twin.state().to_bytes()


def test_a_table_forgets_what_was_used_longest_ago() -> None:
    table: Recent[str, int] = Recent(2)
    for key in ("a", "b", "a", "c"):
        table.use(key, int)

    assert list(table) == ["a", "c"]


@contextual
def test_what_was_learnt_goes_on_elsewhere(bandit: Callable[..., ContextualBandit]) -> None:
    taught, heir = bandit(shapes=SHAPES), bandit(shapes=SHAPES)
    World(DRAFTERS, seed=11).serve(taught, requests=10)

    heir.restore(ModelState.from_bytes(taught.state().to_bytes()))

    tally = World(DRAFTERS, seed=12).serve(heir, requests=8)
    assert Counter(plan.drafters for plan in tally.plans).most_common(1)[0][0] == ("good",)
    assert Counter(plan.drafters for plan in tally.plans)["bad",] < 0.1 * tally.rounds


def spoilt(state: ModelState, **arrays: np.ndarray) -> ModelState:
    return replace(state, arrays={**state.arrays, **arrays})


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda state: replace(state, policy="planner"), id="of another policy"),
        pytest.param(lambda state: replace(state, arrays={}), id="without numbers"),
        pytest.param(lambda state: replace(state, labels={**state.labels, "drafters": [["a", 5]]}), id="misplaced"),
        pytest.param(lambda state: spoilt(state, moments=state.arrays["moments"][1:]), id="too short"),
        pytest.param(lambda state: spoilt(state, precision=-state.arrays["precision"]), id="negative"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil: Callable[[ModelState], ModelState]) -> None:
    policy = SquareCbPolicy(shapes=SHAPES)
    World(DRAFTERS, seed=13).serve(policy, requests=2)
    before = policy.state().to_bytes()

    with pytest.raises(InvalidModelStateError):
        policy.restore(spoil(policy.state()))

    assert policy.state().to_bytes() == before
