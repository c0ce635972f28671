"""Counts what requests and their rounds come to, for operators: a few additions a round, read when somebody looks.

No text, no token and no request id is kept here. What callers choose freely (task, tenant, the tree they pin) is told
apart only up to a number that does not depend on them.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from controller.account import Account
from controller.generation import Round
from controller.records import Outcome
from controller.request import GenerationRequest
from controller.rounds_sum import NS, RoundsSum
from controller.steering import SteeredPolicy
from router_models.plan import Plan
from speculation.errors import ForerunError
from speculation.metrics import NONE, OTHER, Histogram, Labels, Names
from speculation.tree import MAX_DEPTH, TreeShape

MOST_ARMS = 400
"""Combinations of drafters, shape class, task and policy that are told apart."""

MOST_TENANTS = 64

DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
"""Of OpenTelemetry's conventions for generative AI, like the next; both begin lower there than most of these end."""

FIRST_TOKEN_S = (0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

TOKEN_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
"""The same, and below their 10 ms four more: that is where speculation is to bring a token."""

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)

ROUND_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56)


class Meter:
    """Everything counted about requests.

    Attributes:
        requests: Ended ones, by outcome, task, policy and tenant.
        refused: Requests turned away before they began, by reason.
        waiting: Requests whose first round is not there yet.
        durations: Seconds from call to end, by what went wrong.
        first_token: Seconds from call to the first round's end.
        per_token: Seconds a token after the first round, of answers that ended well.
        usage: Tokens a request, by "input" and "output".
        arms: By drafters, shape class, task and policy.
        decisions: Rounds by policy and how the decision came about.
        run_tokens: Tokens that the target decoded without a round of their own.
        drafts: Rounds with something to verify.
        drafted: Nodes verified.
        accepted: Rounds with something to verify, by how many tokens they kept.
        draft_time: Seconds a round, waiting for drafters; likewise the next two.
        verify_time: Waiting for the target.
        own_time: All the rest.
        foreseen_rounds: Rounds whose drafts were all there before they were asked for.
        silences: By drafter that had nothing to say.
        missing: By drafter that was asked and did not answer in time.
        failovers: Workers lost under a request, and drafters given up for a round.
        retold_tokens: Tokens that workers had to be told again.
        near_ties: Emitted tokens that rounding could have swapped.
    """

    def __init__(self, *, most_tasks: int, tenants: bool) -> None:
        """
        Args:
            most_tasks: Task labels told apart.
            tenants: Whether tenants are told apart at all.
        """
        self._tasks, self._tenants = Names(most_tasks), Names(MOST_TENANTS) if tenants else None
        self.requests: Counter[Labels] = Counter()
        self.refused: Counter[Labels] = Counter()
        self.waiting = 0
        self.durations: dict[Labels, Histogram] = {("",): Histogram(DURATION_S)}
        self.first_token, self.per_token = Histogram(FIRST_TOKEN_S), Histogram(TOKEN_S)
        self.usage: dict[Labels, Histogram] = {("input",): Histogram(TOKENS), ("output",): Histogram(TOKENS)}
        self.arms: dict[Labels, RoundsSum] = {}
        self.decisions: Counter[Labels] = Counter()
        self.run_tokens = self.drafts = self.drafted = 0
        self.accepted = [0] * (MAX_DEPTH + 1)
        self.draft_time, self.verify_time, self.own_time = Histogram(ROUND_S), Histogram(ROUND_S), Histogram(ROUND_S)
        self.foreseen_rounds = 0
        self.silences: Counter[Labels] = Counter()
        self.missing: Counter[Labels] = Counter()
        self.failovers = self.retold_tokens = self.near_ties = 0

    @contextmanager
    def admitting(self) -> Iterator["Admission"]:
        """Counts a request that is turned away by a deliberate error before it is admitted."""
        admission = Admission()
        try:
            yield admission
        except ForerunError as error:
            if not admission.granted:
                self.refused[error.reason,] += 1
            raise

    def open(self, request: GenerationRequest, policy: SteeredPolicy) -> "RequestMeter":
        """The meter of one request."""
        self.waiting += 1
        tenant = "" if self._tenants is None else self._tenants.of(request.tenant)
        return RequestMeter(self, policy, task=self._tasks.of(request.task), tenant=tenant)

    def arm(self, key: Labels) -> RoundsSum:
        """What came of a combination."""
        found = self.arms.get(key)
        if found is None:
            full = len(self.arms) >= MOST_ARMS
            found = self.arms.setdefault((OTHER,) * len(key) if full else key, RoundsSum())
        return found


class Losses(Protocol):
    """What a request has lost until now: its last round knows it, and its session."""

    @property
    def failovers(self) -> int:
        """As FleetSession counts them."""

    @property
    def retold_tokens(self) -> int:
        """Likewise."""


@dataclass(slots=True)
class Admission:
    """Whether a request has been let in."""

    granted: bool = False


class RequestMeter:
    """Counts one request."""

    def __init__(self, meter: Meter, policy: SteeredPolicy, *, task: str, tenant: str) -> None:
        self._meter, self._policy, self._task, self._tenant = meter, policy, task, tenant
        self._waits = True
        self._failovers = self._retold_tokens = 0

    def add(self, done: Round) -> None:
        """Count a round."""
        meter, outcome, policy = self._meter, done.outcome, self._policy
        if self._waits:
            self._begin()
        meter.decisions[policy.name, policy.mode.name.lower()] += 1
        drafted, accepted, timings = len(outcome.tree), outcome.verdict.num_accepted, outcome.timings
        meter.run_tokens += outcome.verdict.num_run
        if drafted:
            meter.drafts += 1
            meter.drafted += drafted
            meter.accepted[accepted] += 1
        drafters = "+".join(done.plan.drafters) or NONE
        meter.arm((drafters, shape_class(done.plan), self._task, policy.name)).add(done)
        meter.verify_time.observe(timings.verify_ns * NS)
        if done.plan.speculates:
            meter.draft_time.observe(timings.draft_ns * NS)
        meter.own_time.observe(max(timings.round_ns - timings.draft_ns - timings.verify_ns, 0) * NS)
        self._add_drafters(done)
        self._add_losses(done)

    def end(self, outcome: Outcome, account: Account, losses: Losses, *, prompt_tokens: int) -> None:
        """Count how the request ended; what it lost after its last round is in no round."""
        meter = self._meter
        if self._waits:
            self._begin()
        how = outcome.name.lower()
        meter.requests[how, self._task, self._policy.name, self._tenant] += 1
        wrong = "" if outcome is Outcome.OK else how
        meter.durations.setdefault((wrong,), Histogram(DURATION_S)).observe(account.total_ns * NS)
        meter.usage["input",].observe(prompt_tokens)
        meter.usage["output",].observe(account.completion_tokens)
        meter.near_ties += account.near_ties
        self._add_losses(losses)
        if account.time_to_first_token_ns:
            meter.first_token.observe(account.time_to_first_token_ns * NS)
        later = account.completion_tokens - account.first_tokens
        if outcome is Outcome.OK and later > 0:
            meter.per_token.observe((account.total_ns - account.time_to_first_token_ns) * NS / later)

    def _begin(self) -> None:
        self._waits = False
        self._meter.waiting -= 1

    def _add_drafters(self, done: Round) -> None:
        meter = self._meter
        if done.outcome.foreseen and not (done.exchanges or done.missing):
            meter.foreseen_rounds += 1
        for silence in done.outcome.silences:
            meter.silences[silence.drafter,] += 1
        for name in done.missing:
            meter.missing[name,] += 1

    def _add_losses(self, losses: Losses) -> None:
        self._meter.failovers += losses.failovers - self._failovers
        self._meter.retold_tokens += losses.retold_tokens - self._retold_tokens
        self._failovers, self._retold_tokens = losses.failovers, losses.retold_tokens


def shape_class(plan: Plan) -> str:
    """Form and size of a plan's tree, the size rounded up to a power of two: chain_4, tree_16; "plain" drafts none."""
    return _class_of(plan.shape) if plan.speculates else "plain"


@lru_cache(maxsize=1024)
def _class_of(shape: TreeShape) -> str:
    chain = shape.branching == 1
    size = min(shape.depth, shape.budget) if chain else shape.budget
    return f"{'chain' if chain else 'tree'}_{1 << (size - 1).bit_length()}"
