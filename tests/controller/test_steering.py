"""The operator has the last word, the caller the one before; the log says who had it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.request import Pins
from controller.steering import DecisionMode, SteeredPolicy, Steering
from controller.terms import DraftPin, Mode, Orders, Rule, Terms
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings, TextScores
from speculation.errors import NotAllowedError
from speculation.tree import EMPTY_TREE, TreeShape
from speculation.verdict import Verdict
from tests.controller.house import DRAFT, DRAFT_TOO, VERIFY, house, plain, run
from tests.router_models.test_limits import NAMES, drafters, plans, shapes

CHAIN = TreeShape(depth=4, branching=1, budget=4)
WISH = Plan(drafters=("code", "docs"), shape=CHAIN, propensity=0.5, explanation="it wishes so")
CONTEXT = RoundContext(request_id="r", round=0, drafters=NAMES, prompt_tokens=9, emitted_tokens=0, remaining_tokens=50)
OUTCOME = RoundOutcome(
    drafts={},
    tree=EMPTY_TREE,
    verdict=Verdict(accepted=(), token_ids=(1,), logprobs=(0.0,)),
    timings=RoundTimings(),
)


@dataclass
class Wilful(Policy):
    """Plans what it is told to, whatever the context, and counts what it learns."""

    wish: Plan = WISH
    name: str = "wilful"
    learnt: int = 0
    asked: list[RoundContext] = field(default_factory=list)

    def plan(self, context: RoundContext) -> Plan:
        self.asked.append(context)
        return self.wish

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        self.learnt += 1

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        return NAMES

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        self.learnt += 1


def steering(policy: Wilful, terms: Terms | None = None) -> Steering:
    """The hand on a policy, with these terms for everybody."""
    steering = Steering({policy.name: policy, "other": Wilful(name="other")}, policy.name)
    steering.apply(Orders(policy=policy.name, default=terms or Terms()))
    return steering


def one_round(steered: SteeredPolicy, context: RoundContext = CONTEXT) -> Plan:
    """What the loop would carry out."""
    allowed = steered.allow(context)
    plan = steered.plan(allowed)
    steered.learn(allowed, plan, OUTCOME)
    return plan


limits = st.builds(
    Terms,
    allowed_drafters=drafters,
    denied_drafters=drafters,
    allowed_shapes=st.lists(shapes, max_size=2).map(tuple),
    max_nodes=st.integers(1, 256),
    max_depth=st.integers(1, 64),
    pin=st.none() | st.builds(DraftPin, drafter=st.sampled_from(NAMES), shape=shapes),
)
pins = st.builds(Pins, drafters=drafters, shape=st.none() | shapes)


@given(plans, limits, pins)
def test_whatever_policy_and_caller_want_the_operator_s_terms_hold(wish: Plan, now: Terms, asked: Pins) -> None:
    """Those of this moment: when the request came, anything was allowed."""
    hand = steering(Wilful(wish))
    steered = hand.for_request(asked)
    hand.apply(Orders(policy="wilful", default=now))

    plan = one_round(steered)

    assert all(now.permit(name) for name in plan.drafters)
    assert not asked.drafters or set(plan.drafters) <= set(asked.drafters)
    if plan.speculates:
        assert plan.shape.depth <= now.max_depth
        assert plan.shape.budget <= now.max_nodes


@pytest.mark.parametrize(
    ("terms", "asked", "names"),
    [
        pytest.param(Terms(denied_drafters=("json",)), Pins(drafters=("code", "json")), "json", id="denied"),
        pytest.param(Terms(allowed_drafters=("code",)), Pins(drafters=("docs",)), "docs", id="not among the allowed"),
        pytest.param(Terms(max_depth=3), Pins(shape=CHAIN), "depth 4", id="too deep"),
        pytest.param(Terms(max_nodes=3), Pins(shape=CHAIN), "budget 4", id="too large"),
        pytest.param(Terms(allowed_shapes=(replace(CHAIN, depth=2),)), Pins(shape=CHAIN), "2x1x4", id="another shape"),
        pytest.param(Terms(pin=DraftPin(drafter="code", shape=CHAIN)), Pins(drafters=("docs",)), "docs", id="pinned"),
    ],
)
def test_a_caller_who_pins_what_is_not_allowed_is_told_so(terms: Terms, asked: Pins, names: str) -> None:
    with pytest.raises(NotAllowedError) as caught:
        steering(Wilful(), replace(terms, source="router.rules.3")).for_request(asked)

    assert caught.value.field.startswith("speculation.")
    assert names in str(caught.value)
    assert caught.value.metadata["rule"] == "router.rules.3"


def test_a_policy_is_told_what_it_may_do() -> None:
    terms = Terms(
        denied_drafters=("json",),
        allowed_shapes=(CHAIN,),
        max_nodes=9,
        max_depth=7,
        max_run=5,
        exploration=0.25,
        latency_objective_ms=30.0,
    )
    policy = Wilful()

    one_round(steering(policy, terms).for_request(Pins(drafters=("docs",), shape=CHAIN)))

    (told,) = policy.asked
    assert told.drafters == ("docs",)
    assert (told.pinned_shape, told.allowed_shapes) == (CHAIN, (CHAIN,))
    assert (told.most_nodes, told.most_depth, told.most_run) == (9, 7, 5)
    assert (told.exploration, told.latency_objective_ms) == (0.25, 30.0)


@pytest.mark.parametrize(
    ("terms", "asked", "mode", "speculates"),
    [
        pytest.param(Terms(), Pins(), DecisionMode.ONLINE, True, id="the policy chose"),
        pytest.param(Terms(mode=Mode.FROZEN), Pins(), DecisionMode.ONLINE, True, id="a frozen one, too"),
        pytest.param(Terms(mode=Mode.OFF), Pins(), DecisionMode.FORCED, False, id="off"),
        pytest.param(Terms(mode=Mode.OBSERVE), Pins(), DecisionMode.OBSERVED, False, id="observed"),
        pytest.param(
            Terms(mode=Mode.OBSERVE), Pins(shape=CHAIN), DecisionMode.OBSERVED, False, id="observed with pins"
        ),
        pytest.param(Terms(), Pins(shape=CHAIN), DecisionMode.FORCED, True, id="the caller pinned"),
        pytest.param(
            Terms(pin=DraftPin(drafter="code", shape=CHAIN)),
            Pins(),
            DecisionMode.FORCED,
            True,
            id="the operator pinned",
        ),
        pytest.param(Terms(max_nodes=2), Pins(), DecisionMode.FORCED, True, id="its plan was cut"),
        pytest.param(Terms(max_nodes=8), Pins(), DecisionMode.ONLINE, True, id="its plan kept to the limits"),
    ],
)
def test_the_mode_says_how_a_decision_came_about(
    terms: Terms, asked: Pins, mode: DecisionMode, speculates: bool
) -> None:
    steered = steering(Wilful(), terms).for_request(asked)

    plan = one_round(steered)

    assert steered.mode is mode
    assert plan.speculates is speculates
    assert bool(plan.propensity) is speculates, "only the policy can choose with a chance"


def test_an_observed_plan_is_kept_beside_the_one_that_is_served() -> None:
    steered = steering(Wilful(), Terms(mode=Mode.OBSERVE)).for_request(Pins())

    plan = one_round(steered)

    assert not plan.speculates
    assert steered.proposal == WISH


def test_a_plan_names_the_version_that_its_policy_goes_on_from() -> None:
    """Nothing else changes by it: the choice stays a free one."""
    steered = (hand := steering(Wilful())).for_request(Pins())
    hand.model_version = {"wilful": "7"}.__getitem__

    plan = one_round(steered)

    assert plan == replace(WISH, model_version="7")
    assert steered.mode is DecisionMode.ONLINE


def test_a_frozen_policy_learns_nothing() -> None:
    policy = Wilful()
    hand = steering(policy, Terms(mode=Mode.FROZEN))
    steered = hand.for_request(Pins())

    one_round(steered)
    steered.learn_scores(CONTEXT, {})
    assert policy.learnt == 0

    hand.apply(Orders(policy="wilful"))
    one_round(steered)
    steered.learn_scores(CONTEXT, {})
    assert policy.learnt == 2


def test_nobody_reads_a_prompt_in_vain() -> None:
    policy = Wilful()
    hand = steering(policy, Terms(denied_drafters=("json",)))

    assert hand.for_request(Pins()).readers(CONTEXT) == ("code", "docs", "math")
    assert hand.for_request(Pins(off=True)).readers(CONTEXT) == ()
    assert steering(policy, Terms(mode=Mode.OFF)).for_request(Pins()).readers(CONTEXT) == ()


def test_a_rule_s_policy_serves_where_the_request_names_none() -> None:
    hand = steering(Wilful())
    hand.apply(Orders(policy="wilful", rules=(Rule(terms=Terms(policy="other"), task="code"),)))

    assert hand.for_request(Pins(), task="code").name == "other"
    assert hand.for_request(Pins(policy="wilful"), task="code").name == "wilful"
    assert hand.for_request(Pins(), task="docs").name == "wilful"


def test_a_policy_put_in_charge_by_hand_stays_until_the_configuration_names_another() -> None:
    hand = steering(Wilful())
    hand.set_policy("other")

    hand.apply(Orders(policy="wilful", kill_switch=True))
    assert hand.policy == "other"

    hand.apply(Orders(policy="other"))
    hand.apply(Orders(policy="wilful"))
    assert hand.policy == "wilful"


def test_hand_and_configuration_release_only_their_own_kill_switch() -> None:
    hand = steering(Wilful())

    hand.apply(Orders(policy="wilful", kill_switch=True))
    hand.set_kill_switch(False)
    assert hand.kill_switch

    hand.set_kill_switch(True)
    hand.apply(Orders(policy="wilful"))
    assert hand.kill_switch

    hand.set_kill_switch(False)
    assert not hand.kill_switch


def test_a_request_outside_the_operator_s_limits_is_denied_by_name() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, rules=[{"tenant": "acme", "denied_drafters": ["beta"]}]) as home:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await home.answer(tenant="acme", speculation={"drafters": ["beta"]})
            other = await home.answer(tenant="other", speculation={"drafters": ["beta"]})
            free = await home.answer(tenant="acme", speculation={"policy": "merged"})

            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "router.rules.0" in str(caught.value.details())
            assert list(other.summary.decision.drafters) == ["beta"]
            assert list(free.summary.decision.drafters) == ["alpha"]
            assert other.token_ids == free.token_ids == plain()

    run(scenario())
