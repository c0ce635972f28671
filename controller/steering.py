"""The operator's hand on the wheel: which policy decides, and the switch that stops all speculation."""

from collections.abc import Mapping
from enum import Enum

from controller.request import Pins
from router_models.plan import Plan, no_speculation
from router_models.policy import Policy, RoundContext, RoundOutcome, TextScores
from speculation.errors import UnknownNameError


class DecisionMode(Enum):
    """How a decision came about; only ONLINE decisions carry a propensity that can be used to weigh them."""

    ONLINE = "the policy chose"
    FORCED = "the request forced it"
    FALLBACK = "the choice could not be carried out"
    KILLED = "the kill switch was engaged"


class Steering:
    """Which policy decides where a request names none.

    Attributes:
        policies: Every policy by name.
        policy: Name of the one in charge.
        kill_switch: Whether nothing is speculated.
    """

    def __init__(self, policies: Mapping[str, Policy], policy: str) -> None:
        self.policies = policies
        self.kill_switch = False
        self.policy = self._known(policy)

    def set_policy(self, name: str) -> str:
        """Put another policy in charge; returns the previous one's name.

        Raises:
            UnknownNameError: No policy is called that.
        """
        previous, self.policy = self.policy, self._known(name)
        return previous

    def set_kill_switch(self, engaged: bool) -> bool:
        """Stop or allow all speculation, from the next round on; returns whether it was stopped."""
        was_engaged, self.kill_switch = self.kill_switch, engaged
        return was_engaged

    def for_request(self, pins: Pins) -> "SteeredPolicy":
        """The policy that one request will use to its end.

        Raises:
            UnknownNameError: The request names a policy that does not exist.
        """
        return SteeredPolicy(self, self.policies[self._known(pins.policy or self.policy)], pins)

    def _known(self, name: str) -> str:
        if name not in self.policies:
            raise UnknownNameError("policy", name, self.policies)
        return name


class SteeredPolicy:
    """A policy under the operator's kill switch and the caller's pins.

    Attributes:
        mode: How the last plan came about.
    """

    def __init__(self, steering: Steering, policy: Policy, pins: Pins) -> None:
        self._steering = steering
        self._policy = policy
        self._pins = pins
        self.mode = DecisionMode.ONLINE

    @property
    def name(self) -> str:
        """The policy's own name."""
        return self._policy.name

    def plan(self, context: RoundContext) -> Plan:
        """The policy's plan, unless operator or caller forbid to speculate."""
        if self._steering.kill_switch:
            self.mode = DecisionMode.KILLED
            return no_speculation("the kill switch is engaged")
        self.mode = DecisionMode.FORCED if self._pins.force else DecisionMode.ONLINE
        if self._pins.off:
            return no_speculation("the request forbids speculation")
        return self._policy.plan(context)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """What happened is true whoever chose it."""
        self._policy.learn(context, plan, outcome)

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        """Whom the policy wants to read the prompt; nobody where nothing will be drafted."""
        return () if self._steering.kill_switch or self._pins.off else self._policy.readers(context)

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        """What would have happened is true, too."""
        self._policy.learn_scores(context, scores)
