"""What one request has cost and brought so far."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter_ns

from controller.generation import Round
from router_models.plan import Plan
from router_models.policy import RoundContext, RoundTimings


@dataclass(slots=True)
class Account:
    """Sums over the rounds of a request.

    Attributes:
        first_plan: The first round's.
        last_context: What the policy knew in the last round.
        drafted_by: Drafters that drafted in any of them.
        per_step_drafted: Nodes verified in each round.
        per_step_accepted: Of these, accepted.
        completion_tokens: Tokens emitted.
        first_tokens: Of these, by the first round.
        near_ties: Emitted tokens that rounding could have swapped.
        timings: Sums over the rounds.
        queue_ns: From the call until it had a place.
        begun: Whether it had one.
        time_to_first_token_ns: From the call to the first round's end; 0 before.
    """

    clock_ns: Callable[[], int] = perf_counter_ns
    first_plan: Plan | None = None
    last_context: RoundContext | None = None
    drafted_by: set[str] = field(default_factory=set)
    per_step_drafted: list[int] = field(default_factory=list)
    per_step_accepted: list[int] = field(default_factory=list)
    completion_tokens: int = 0
    first_tokens: int = 0
    near_ties: int = 0
    timings: RoundTimings = field(default_factory=RoundTimings)
    queue_ns: int = 0
    begun: bool = False
    time_to_first_token_ns: int = 0
    _started_ns: int = 0

    def __post_init__(self) -> None:
        self._started_ns = self.clock_ns()

    @property
    def total_ns(self) -> int:
        """Since the call."""
        return self.clock_ns() - self._started_ns

    def begin(self) -> None:
        """It has a place."""
        self.begun, self.queue_ns = True, self.total_ns

    def add(self, done: Round) -> None:
        """Count a round."""
        self.first_plan = self.first_plan or done.plan
        self.last_context = done.context
        self.drafted_by |= done.outcome.drafts.keys()
        self.time_to_first_token_ns = self.time_to_first_token_ns or self.total_ns
        self.per_step_drafted.append(len(done.outcome.tree))
        self.per_step_accepted.append(done.outcome.verdict.num_accepted)
        self.completion_tokens += len(done.emitted)
        self.first_tokens = self.first_tokens or len(done.emitted)
        self.near_ties += done.outcome.verdict.near_ties
        self.timings = _sum(self.timings, done.outcome.timings)


def _sum(one: RoundTimings, other: RoundTimings) -> RoundTimings:
    return RoundTimings(
        draft_ns=one.draft_ns + other.draft_ns,
        verify_ns=one.verify_ns + other.verify_ns,
        round_ns=one.round_ns + other.round_ns,
        draft_worker_ns=one.draft_worker_ns + other.draft_worker_ns,
        verify_worker_ns=one.verify_worker_ns + other.verify_worker_ns,
    )
