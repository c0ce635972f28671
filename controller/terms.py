"""On which terms the operator lets a request be served: what the configuration says, as values the loop can use."""

from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from controller.request import Pins
from router_models.limits import is_one_of
from router_models.plan import RUN
from router_models.policy import RoundContext
from speculation.errors import NotAllowedError
from speculation.tree import MAX_DEPTH, MAX_NODES, TreeShape


class Mode(StrEnum):
    """How much say a policy has."""

    OFF = "off"
    """None: plain decoding."""
    OBSERVE = "observe"
    """It plans and its plans are logged, but plain decoding is served."""
    APPLY = "apply"
    """Its plans are carried out, and it learns."""
    FROZEN = "frozen"
    """Its plans are carried out, and it learns nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftPin:
    """The one drafter and the one tree that may be used."""

    drafter: str
    shape: TreeShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the operator allows one request.

    Attributes:
        source: Which part of the configuration says so: "router", or "router.rules.0" for the first rule.
        policy: Who decides where the request names nobody; empty: the policy in charge.
        mode: How much say the policy has.
        allowed_drafters: Only these; none: any.
        denied_drafters: Not these.
        allowed_shapes: Only these; none: any.
        max_nodes: Most nodes verified in a round.
        max_depth: Most levels drafted.
        max_run: Most tokens decoded without a round of their own.
        pin: One drafter and one tree; plain decoding stays the policy's to choose.
        exploration: Share of its exploration that the policy is allowed.
        scoring_share: Share of finished requests whose answers drafters score.
        latency_objective_ms: A token, at most; 0: none. A request that is slower yields nothing to those beside it.
    """

    source: str = "router"
    policy: str = ""
    mode: Mode = Mode.APPLY
    allowed_drafters: tuple[str, ...] = ()
    denied_drafters: tuple[str, ...] = ()
    allowed_shapes: tuple[TreeShape, ...] = ()
    max_nodes: int = MAX_NODES
    max_depth: int = MAX_DEPTH
    max_run: int = RUN
    pin: DraftPin | None = None
    exploration: float = 1.0
    scoring_share: float = 0.0
    latency_objective_ms: float = 0.0

    def permit(self, drafter: str) -> bool:
        """Whether that drafter may be used."""
        if self.pin is not None and drafter != self.pin.drafter:
            return False
        return drafter not in self.denied_drafters and (not self.allowed_drafters or drafter in self.allowed_drafters)

    def problem_of(self, shape: TreeShape) -> str:
        """Why that tree may not be drafted, in words; empty if it may."""
        if shape.depth > self.max_depth:
            return f"depth {shape.depth} is more than {self.max_depth}"
        if shape.budget > self.max_nodes:
            return f"budget {shape.budget} is more than {self.max_nodes} nodes"
        choices = (self.pin.shape,) if self.pin is not None else self.allowed_shapes
        if choices and not is_one_of(shape, choices):
            return f"is none of {', '.join(f'{one.depth}x{one.branching}x{one.budget}' for one in choices)}"
        return ""

    def check(self, pins: Pins) -> None:
        """Hold a caller's pins against the terms.

        Raises:
            NotAllowedError: They ask for a drafter or a tree that the operator does not allow.
        """
        for name in pins.drafters:
            if not self.permit(name):
                raise NotAllowedError("speculation.drafters", f"{name!r} is not allowed", self.source)
        if pins.shape is not None and (problem := self.problem_of(pins.shape)):
            raise NotAllowedError("speculation.shape", problem, self.source)

    def narrowed(self, context: RoundContext, pins: Pins) -> RoundContext:
        """What caller and operator leave of a context. Where they disagree by now, the operator has the last word."""
        asked = pins.drafters
        shape = pins.shape if pins.shape is None or not self.problem_of(pins.shape) else None
        return replace(
            context,
            drafters=tuple(name for name in context.drafters if self.permit(name) and (not asked or name in asked)),
            pinned_shape=self.pin.shape if self.pin is not None else shape,
            allowed_shapes=self.allowed_shapes,
            most_nodes=self.max_nodes,
            most_depth=self.max_depth,
            most_run=self.max_run,
            exploration=self.exploration,
            latency_objective_ms=self.latency_objective_ms,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Terms for the requests whose labels match both patterns (`fnmatch`, case matters); None matches any label."""

    terms: Terms
    task: str | None = None
    tenant: str | None = None

    def matches(self, *, task: str, tenant: str) -> bool:
        """Whether the rule is about a request with these labels."""
        labels = ((task, self.task), (tenant, self.tenant))
        return all(pattern is None or fnmatchcase(label, pattern) for label, pattern in labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """All that one state of the configuration says about the router.

    Attributes:
        policy: Who is in charge.
        kill_switch: Whether nothing is speculated.
        default: Terms of requests that no rule is about.
        rules: The first that matches holds, whole; it inherits nothing from those after it.
        config_hash: Of the whole configuration, for the decision log.
    """

    policy: str
    kill_switch: bool = False
    default: Terms = Terms()
    rules: tuple[Rule, ...] = ()
    config_hash: str = ""

    def terms_for(self, *, task: str, tenant: str) -> Terms:
        """The terms of a request with these labels."""
        matching = (rule.terms for rule in self.rules if rule.matches(task=task, tenant=tenant))
        return next(matching, self.default)
