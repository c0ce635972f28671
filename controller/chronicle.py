"""Tells the decision log what happened, and remembers enough of it to explain recent requests."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from time import perf_counter_ns, time_ns
from typing import Protocol

from controller.account import Account
from controller.curve import LearningCurve
from controller.generation import FleetSession, Round
from controller.records import Author, Moment, Outcome, RoundReport, decision_record, outcome_record, round_record
from controller.records import round_report as report_of
from controller.request import GenerationRequest
from controller.rounds_sum import RoundsSum
from controller.sequence import Sequence as TokenSequence
from controller.steering import SteeredPolicy
from controller.veil import Veil
from router_models.recent import Recent
from speculation.errors import UnknownNameError
from speculation.tree import TreeShape

REMEMBERED_REQUESTS = 1000
REMEMBERED_ARMS = 1000

GATHER_NS = 30_000_000
"""Rounds of this long are written down together, before anybody asks for them: one after another, in code that is warm
by then, they take half of the time."""


class Log(Protocol):
    """Where records go."""

    def append(self, stream: str, record: bytes) -> None:
        """Take a record; never waits, never fails."""


class NoLog:
    """For a controller without a decision log."""

    def append(self, stream: str, record: bytes) -> None:
        """Forget it."""


@dataclass(slots=True, kw_only=True)
class RememberedRequest:
    """What is remembered of one request.

    Attributes:
        request_id: Its own, like task and tenant.
        policy: Who decides.
        started_ms: Unix time.
        prompt_tokens: How many.
        veiled: Whether the decision log holds no tokens of it.
        decisions: Serialised: a tenth of the memory of the objects.
        rounds: Likewise, each with the place of its decision.
        outcome: How it ended; None while it runs.
        drafters: Whose trees were verified.
        drafting: What rounds with something to verify came to.
        plain: What the others did.
    """

    request_id: str
    task: str
    tenant: str
    policy: str
    started_ms: int
    prompt_tokens: int
    veiled: bool
    decisions: list[bytes] = field(default_factory=list)
    rounds: list[tuple[int, bytes]] = field(default_factory=list)
    outcome: Outcome | None = None
    drafters: set[str] = field(default_factory=set)
    drafting: RoundsSum = field(default_factory=RoundsSum)
    plain: RoundsSum = field(default_factory=RoundsSum)

    @property
    def emitted_tokens(self) -> int:
        """Tokens of the answer."""
        return self.drafting.emitted_tokens + self.plain.emitted_tokens

    @property
    def seconds(self) -> float:
        """All rounds together."""
        return self.drafting.seconds + self.plain.seconds

    def add(self, done: Round) -> None:
        """Count a round."""
        self.drafters |= done.outcome.drafts.keys()
        (self.drafting if len(done.outcome.tree) else self.plain).add(done)


Arm = tuple[tuple[str, ...], TreeShape | None]


class Chronicle:
    """What this controller has decided.

    Rounds are noted first, and written down some at a time: when one is noted and the oldest has waited long enough,
    when a request ends, and when somebody asks.

    Attributes:
        tokens_of: Patterns of the tenants whose tokens are logged as they are (`fnmatch`, case matters).
        curve: How fast requests were, one after another.
    """

    def __init__(self, author: Author, log: Log, *, clock_ns: Callable[[], int] = perf_counter_ns) -> None:
        self.author = author
        self.log = log
        self.tokens_of: Sequence[str] = ()
        self.curve = LearningCurve()
        self._clock_ns = clock_ns
        self._arms: Recent[Arm, RoundsSum] = Recent(REMEMBERED_ARMS)
        self._requests: Recent[str, RememberedRequest] = Recent(REMEMBERED_REQUESTS)
        self._noted: deque[tuple[RequestChronicle, Round, Moment]] = deque()
        self._noted_since_ns = 0

    @property
    def arms(self) -> Mapping[Arm, RoundsSum]:
        """What came of each combination so far; of very many, those used last."""
        self.write_down()
        return self._arms

    def note(self, of: "RequestChronicle", done: Round, moment: Moment) -> None:
        """Keep a round to be written down soon."""
        now_ns = self._clock_ns()
        if not self._noted:
            self._noted_since_ns = now_ns
        self._noted.append((of, done, moment))
        if now_ns - self._noted_since_ns >= GATHER_NS:
            self.write_down()

    def write_down(self) -> None:
        """Write down all that was noted, in that order."""
        while self._noted:  # one that cannot be written takes no other along
            of, done, moment = self._noted.popleft()
            of.write(done, moment)

    def open(self, request: GenerationRequest, policy: SteeredPolicy, session: FleetSession) -> "RequestChronicle":
        """The chronicle of one request; it pushes the oldest one out."""
        veiled = not any(fnmatchcase(request.tenant, pattern) for pattern in self.tokens_of)
        remembered = RememberedRequest(
            request_id=request.request_id,
            task=request.task,
            tenant=request.tenant,
            policy=policy.name,
            started_ms=time_ns() // 1_000_000,
            prompt_tokens=len(request.prompt),
            veiled=veiled,
        )
        self._requests.put(request.request_id, remembered)
        return RequestChronicle(self, request, policy, session, remembered, veil=Veil() if veiled else None)

    def recent(self, most: int) -> list[RememberedRequest]:
        """The last requests that began, the newest first."""
        self.write_down()
        return list(islice(reversed(self._requests.values()), most))

    def remembered(self, request_id: str) -> RememberedRequest:
        """A recent request.

        Raises:
            UnknownNameError: It is not remembered.
        """
        self.write_down()
        found = self._requests.get(request_id)
        if found is None:
            raise UnknownNameError("recent request", request_id, list(self._requests)[-3:])
        return found

    @staticmethod
    def explain(
        remembered: RememberedRequest, text_of: Callable[[Sequence[int]], str], *, veil: Veil | None = None
    ) -> list[RoundReport]:
        """A report of each round of a request; with a veil, without its texts and tokens."""
        return [
            report_of(record, remembered.decisions[choice], text_of, veil=veil) for choice, record in remembered.rounds
        ]

    def count(self, done: Round) -> None:
        """Add a round to what is known of its arm."""
        plan = done.plan
        self._arms.use((plan.drafters, plan.shape if plan.speculates else None), RoundsSum).add(done)


class RequestChronicle:
    """Writes down one request: a decision when the choice changes, every round, and how it ended."""

    def __init__(
        self,
        chronicle: Chronicle,
        request: GenerationRequest,
        policy: SteeredPolicy,
        session: FleetSession,
        remembered: RememberedRequest,
        *,
        veil: Veil | None,
    ) -> None:
        self._chronicle = chronicle
        self._request = request
        self._policy = policy
        self._session = session
        self._remembered = remembered
        self._veil = veil
        self._last_choice: tuple[object, ...] | None = None
        self._decision_event_id = ""

    def add(self, done: Round) -> None:
        """Take in a round."""
        self._chronicle.note(self, done, Moment.now(self._policy, self._session))

    def write(self, done: Round, moment: Moment) -> None:
        """Write down a round that was noted."""
        choice = (done.plan, done.missing, moment.mode, moment.proposal, moment.config_hash)
        if choice != self._last_choice:
            self._last_choice = choice
            self._decide(done, moment)
        record = round_record(done, decision_event_id=self._decision_event_id, frozen=moment.frozen, at_ms=moment.at_ms)
        # What is remembered here, and never written anywhere, is for people who want to read trees.
        written = record.SerializeToString()
        self._remembered.rounds.append((len(self._remembered.decisions) - 1, written))
        if self._veil is not None:
            self._veil.over_round(record)
            written = record.SerializeToString()
        self._chronicle.log.append("rounds", written)
        self._chronicle.count(done)
        self._remembered.add(done)

    def report(self, text_of: Callable[[Sequence[int]], str]) -> RoundReport:
        """The last round, with the text of every node, for people to read."""
        self._chronicle.write_down()
        choice, record = self._remembered.rounds[-1]
        return report_of(record, self._remembered.decisions[choice], text_of)

    def end(self, outcome: Outcome, account: Account, sequence: TokenSequence) -> None:
        """Write down how the request ended."""
        self._chronicle.write_down()
        record = outcome_record(self._request, account, outcome, session=self._session, sequence=sequence)
        if self._veil is not None:
            self._veil.over_outcome(record)
        self._chronicle.log.append("outcomes", record.SerializeToString())
        remembered = self._remembered
        remembered.outcome = outcome
        self._chronicle.curve.add(remembered.drafting, remembered.plain)

    def _decide(self, done: Round, moment: Moment) -> None:
        record = decision_record(self._chronicle.author, done, moment, trace_id=self._request.trace_id)
        self._decision_event_id = record.event_id
        self._remembered.decisions.append(record.decision.SerializeToString())
        self._chronicle.log.append("decisions", record.SerializeToString())
