"""The operator's hand on the wheel: which policy decides, what it may choose, and the switch that stops it all."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from enum import Enum
from time import perf_counter_ns

from controller.request import Pins
from controller.terms import Mode, Orders
from router_models.limits import enforced
from router_models.plan import Plan, plain_by_order
from router_models.policy import LearningPolicy, Policy, RoundContext, RoundOutcome, TextScores
from speculation.errors import UnknownNameError
from speculation.metrics import Histogram

PLAN_S = (0.00005, 0.0001, 0.0002, 0.0004, 0.0008, 0.0016, 0.0032, 0.0064, 0.0128)


class DecisionMode(Enum):
    """How a decision came about; only ONLINE decisions carry a propensity that can be used to weigh them."""

    ONLINE = "the policy chose"
    FORCED = "the request or the operator forced it"
    FALLBACK = "the choice could not be carried out"
    KILLED = "the kill switch was engaged"
    OBSERVED = "the policy was only asked"


class Steering:
    """Which policy decides where neither request nor rule names one, and on which terms.

    Attributes:
        policies: Every policy by name.
        policy: Name of the one in charge.
        orders: What the configuration says.
        killed_by_hand: Whether the kill switch was engaged by call, whatever the configuration says.
        model_version: Names the version that a policy's learning went on from; empty for none.
        plan_time: Seconds that policies took for a plan.
    """

    def __init__(self, policies: Mapping[str, Policy], policy: str) -> None:
        self.policies = policies
        self.policy = self._known(policy)
        self.orders = Orders(policy=policy)
        self.killed_by_hand = False
        self.model_version: Callable[[str], str] = lambda policy: ""
        self.plan_time = Histogram(PLAN_S)

    @property
    def kill_switch(self) -> bool:
        """Whether nothing is speculated: configuration and hand can each engage it, and only release their own."""
        return self.killed_by_hand or self.orders.kill_switch

    def apply(self, orders: Orders) -> None:
        """Obey another configuration, from every request's next round on.

        A policy that was put in charge by hand stays there until the configuration names another than before.
        """
        if orders.policy != self.orders.policy:
            self.policy = self._known(orders.policy)
        self.orders = orders

    def set_policy(self, name: str) -> str:
        """Put another policy in charge; returns the previous one's name.

        Raises:
            UnknownNameError: No policy is called that.
        """
        previous, self.policy = self.policy, self._known(name)
        return previous

    def set_kill_switch(self, engaged: bool) -> bool:
        """Stop or allow all speculation, from the next round on; returns whether it was stopped."""
        was_engaged, self.killed_by_hand = self.kill_switch, engaged
        return was_engaged

    def for_request(self, pins: Pins, *, task: str = "", tenant: str = "") -> "SteeredPolicy":
        """The policy that one request will use to its end.

        Raises:
            UnknownNameError: The request names a policy that does not exist.
            NotAllowedError: The request asks for what the operator does not allow.
        """
        terms = self.orders.terms_for(task=task, tenant=tenant)
        terms.check(pins)
        policy = self.policies[self._known(pins.policy or terms.policy or self.policy)]
        return SteeredPolicy(self, policy, pins, task=task, tenant=tenant)

    def _known(self, name: str) -> str:
        if name not in self.policies:
            raise UnknownNameError("policy", name, self.policies)
        return name


class SteeredPolicy:
    """A policy on the operator's terms, as they are now, and under the caller's pins.

    Attributes:
        terms: What the operator allows this request in this round.
        mode: How the last plan came about.
        proposal: What the policy would have done, where it was only asked.
    """

    def __init__(self, steering: Steering, policy: Policy, pins: Pins, *, task: str, tenant: str) -> None:
        self._steering = steering
        self._policy = policy
        self._pins = pins
        self._task, self._tenant = task, tenant
        self._orders = steering.orders
        self.terms = self._orders.terms_for(task=task, tenant=tenant)
        self.mode = DecisionMode.ONLINE
        self.proposal: Plan | None = None

    @property
    def name(self) -> str:
        """The policy's own name."""
        return self._policy.name

    @property
    def learns(self) -> bool:
        """Whether the policy learns anything across requests."""
        return isinstance(self._policy, LearningPolicy)

    @property
    def config_hash(self) -> str:
        """Of the configuration that this round obeys."""
        return self._orders.config_hash

    def allow(self, context: RoundContext) -> RoundContext:
        """What operator and caller leave of a context. A round begins here, on the terms of this moment."""
        if self._orders is not self._steering.orders:
            self._orders = self._steering.orders
            self.terms = self._orders.terms_for(task=self._task, tenant=self._tenant)
        return self.terms.narrowed(context, self._pins)

    def plan(self, context: RoundContext) -> Plan:
        """The policy's plan, unless operator or caller forbid to speculate; `allow` has made the context."""
        self.proposal = None
        if self._steering.kill_switch:
            return self._plain(DecisionMode.KILLED, "the kill switch is engaged")
        if self._pins.off:
            return self._plain(DecisionMode.FORCED, "the request forbids speculation")
        if self.terms.mode is Mode.OFF:
            return self._plain(DecisionMode.FORCED, f"{self.terms.source}.mode is off")
        started_ns = perf_counter_ns()
        proposed = self._policy.plan(context)
        self._steering.plan_time.observe((perf_counter_ns() - started_ns) / 1e9)
        plan = enforced(proposed, context).within(context.remaining_tokens)
        # A plan that was cut may be what is left of several: its propensity says nothing any more.
        forced = self._pins.force or self.terms.pin is not None or plan != proposed
        if version := self._steering.model_version(self.name):
            plan = replace(plan, model_version=version)
        if self.terms.mode is Mode.OBSERVE:
            self.proposal = plan
            return self._plain(DecisionMode.OBSERVED, f"{self.terms.source}.mode is observe")
        self.mode = DecisionMode.FORCED if forced else DecisionMode.ONLINE
        return plan

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """What happened is true whoever chose it."""
        if self.terms.mode is Mode.FROZEN:
            self._policy.follow(context, plan, outcome)
        else:
            self._policy.learn(context, plan, outcome)

    def follow(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """What concerns the request under way."""
        self._policy.follow(context, plan, outcome)

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        """Whom the policy wants to read the prompt; nobody where nothing will be drafted."""
        allowed = self.allow(context)
        if self._steering.kill_switch or self._pins.off or self.terms.mode is Mode.OFF:
            return ()
        return tuple(name for name in self._policy.readers(allowed) if name in allowed.drafters)

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        """What would have happened is true, too."""
        if self.terms.mode is not Mode.FROZEN:
            self._policy.learn_scores(context, scores)

    def _plain(self, mode: DecisionMode, why: str) -> Plan:
        self.mode = mode
        return plain_by_order(why)
