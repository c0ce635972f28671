"""The one protocol behind which every way of choosing stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from router_models.model_state import ModelState
from router_models.plan import RUN, Plan
from speculation.profile import ForwardProfile
from speculation.tree import MAX_DEPTH, MAX_NODES, TokenTree, TreeShape
from speculation.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """What a policy knows when it plans a round.

    Attributes:
        request_id: The request; all its rounds share it.
        round: 0 for the first.
        drafters: Drafters on offer now, in the fleet's order: healthy, and allowed for this request.
        pinned_shape: The shape that the caller insists on, if any.
        task: The caller's label, or empty.
        tenant: The caller's label, or empty.
        prompt_tokens: Length of the prompt.
        emitted_tokens: Tokens emitted so far.
        remaining_tokens: Tokens that may still be emitted.
        temperature: 0 for greedy decoding.
        prompt_surprisal: Nats per token of the end of the prompt, by drafter that has read it.
        requests_in_flight: Requests that this controller serves now, this one included.
        allowed_shapes: The shapes that the operator allows; none: any.
        most_nodes: Most nodes that the operator lets a round verify.
        most_depth: Most levels that he lets it draft.
        most_run: Most tokens that he lets the target decode without a round of their own.
        exploration: Share of its exploration that a policy is allowed, 0 to 1; at 0 it does what it thinks best.
        elapsed_ms: Since the request's first round began.
        latency_objective_ms: A token, at most, if the operator has his way; 0: he did not say.
        drafter_profiles: What the forwards of each drafter took when it started, where it was measured; told with the
            first round. Not in the log: a few rounds outweigh it.
        target_profile: The same of the target.
    """

    request_id: str
    round: int
    drafters: tuple[str, ...]
    pinned_shape: TreeShape | None = None
    task: str = ""
    tenant: str = ""
    prompt_tokens: int
    emitted_tokens: int
    remaining_tokens: int
    temperature: float = 0.0
    prompt_surprisal: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    requests_in_flight: int = 1
    allowed_shapes: tuple[TreeShape, ...] = ()
    most_nodes: int = MAX_NODES
    most_depth: int = MAX_DEPTH
    most_run: int = RUN
    exploration: float = 1.0
    elapsed_ms: float = 0.0
    latency_objective_ms: float = 0.0
    drafter_profiles: Mapping[str, ForwardProfile] = field(default_factory=lambda: MappingProxyType({}))
    target_profile: ForwardProfile | None = None

    @property
    def late(self) -> bool:
        """Whether the request is slower than the operator's objective."""
        return 0.0 < self.latency_objective_ms * self.emitted_tokens < self.elapsed_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTimings:
    """Where a round spent its time, in nanoseconds, as the controller saw it and as the workers report it.

    Attributes:
        draft_ns: From the first draft call to the last reply.
        verify_ns: From the verify call to its reply.
        round_ns: The whole round.
        draft_worker_ns: What the slowest drafter reports as its own.
        verify_worker_ns: What the target worker reports as its own.
    """

    draft_ns: int = 0
    verify_ns: int = 0
    round_ns: int = 0
    draft_worker_ns: int = 0
    verify_worker_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Silence:
    """A drafter without a model that had nothing to say: the round was planned again without it.

    Attributes:
        drafter: Which one.
        least_confidence: Of the shape that it was asked for.
        took_ns: From the call to its answer; in no part of the round's timings, only in the whole.
    """

    drafter: str
    least_confidence: float
    took_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutcome:
    """What came of a plan.

    Attributes:
        drafts: The tree that each drafter answered with; a drafter that did not answer is missing.
        tree: The tree that was verified.
        verdict: What the target said.
        timings: What it cost.
        foreseen: Drafters whose tree was there before it was asked for: what it took is not in the timings.
        silences: Of drafters that were asked before the plan was made; the plan's context is without them.
    """

    drafts: Mapping[str, TokenTree]
    tree: TokenTree
    verdict: Verdict
    timings: RoundTimings
    foreseen: tuple[str, ...] = ()
    silences: tuple[Silence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextScores:
    """How one drafter would have drafted a text that is known now, token by token (a teacher-forced pass).

    Attributes:
        ranks: Place of each token among the drafter's candidates, 1 the first.
        confidences: The drafter's confidence in it.
    """

    ranks: tuple[int, ...]
    confidences: tuple[float, ...]

    def fit(self, length: int) -> bool:
        """Whether they can be of a text of so many tokens."""
        return (
            len(self.ranks) == len(self.confidences) == length
            and all(rank >= 1 for rank in self.ranks)
            and all(0.0 <= confidence <= 1.0 for confidence in self.confidences)
        )


class Policy(Protocol):
    """Chooses a plan for each round and may learn from what came of it.

    All methods are called from one thread and return within microseconds; neither blocks nor raises for any context.
    A policy only names drafters on offer, obeys a pinned shape, and states its exact propensity. It may, but need not,
    know the operator's limits: `enforced` cuts its plan to them, and what it then learns from is the plan as cut.
    Every policy passes tests/router_models/test_policy_contract.py.
    """

    @property
    def name(self) -> str:
        """The name by which requests and operators call it."""

    def plan(self, context: RoundContext) -> Plan:
        """What the next round should do."""

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Take in what came of it."""
        return

    def follow(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Take note of a round of a request under way where nothing may be learnt (mode frozen)."""
        return

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        """Drafters that should read the prompt before the first plan, so that their surprisal is known then."""
        return ()

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        """Take in how drafters that did not draft would have drafted a finished answer; `context` is of its end."""
        return


@runtime_checkable
class LearningPolicy(Policy, Protocol):
    """A policy whose learning can be written down, shared and taken up by another process.

    Attributes:
        learns_across_requests: True at first. While it is false, `learn` teaches only what concerns the request under
            way and `learn_scores` nothing: somebody else learns from all requests, and brings it by `restore`.
    """

    learns_across_requests: bool

    def state(self) -> ModelState:
        """What it has learnt, across requests."""

    def restore(self, state: ModelState) -> None:
        """Go on from a state in place of what it has learnt; what it knows of running requests stays.

        Raises:
            InvalidModelStateError: The state is of another policy, or does not fit.
        """
