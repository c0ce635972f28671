"""Tells the decision log what happened, and remembers enough of it to explain recent requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from controller.account import Account
from controller.generation import FleetSession, Round
from controller.records import Author, Outcome, RoundReport, decision_record, outcome_record, round_record
from controller.records import round_report as report_of
from controller.request import GenerationRequest
from controller.sequence import Sequence as TokenSequence
from controller.steering import SteeredPolicy
from controller.terms import Mode
from controller.veil import Veil
from router_models.recent import Recent
from speculation.errors import UnknownNameError
from speculation.tree import TreeShape

REMEMBERED_REQUESTS = 1000
REMEMBERED_ARMS = 1000


class Log(Protocol):
    """Where records go."""

    def append(self, stream: str, record: bytes) -> None:
        """Take a record; never waits, never fails."""


class NoLog:
    """For a controller without a decision log."""

    def append(self, stream: str, record: bytes) -> None:
        """Forget it."""


@dataclass(slots=True)
class ArmTally:
    """What came of one combination of drafters and shape."""

    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(slots=True)
class RememberedRequest:
    """Decisions and rounds of one request, serialised: a tenth of the memory of the objects."""

    decisions: list[bytes] = field(default_factory=list)
    rounds: list[tuple[int, bytes]] = field(default_factory=list)


Arm = tuple[tuple[str, ...], TreeShape | None]


class Chronicle:
    """What this controller has decided.

    Attributes:
        arms: What came of each combination so far; of very many, those used last.
        tokens_of: Patterns of the tenants whose tokens are logged as they are (`fnmatch`, case matters).
    """

    def __init__(self, author: Author, log: Log) -> None:
        self.author = author
        self.log = log
        self.tokens_of: Sequence[str] = ()
        self.arms: Recent[Arm, ArmTally] = Recent(REMEMBERED_ARMS)
        self._requests: Recent[str, RememberedRequest] = Recent(REMEMBERED_REQUESTS)

    def open(self, request: GenerationRequest, policy: SteeredPolicy, session: FleetSession) -> "RequestChronicle":
        """The chronicle of one request; it pushes the oldest one out."""
        remembered = self._requests.put(request.request_id, RememberedRequest())
        open_book = any(fnmatchcase(request.tenant, pattern) for pattern in self.tokens_of)
        return RequestChronicle(self, request, policy, session, remembered, veil=None if open_book else Veil())

    def explain(self, request_id: str, text_of: Callable[[Sequence[int]], str]) -> list[RoundReport]:
        """A report of each round of a recent request.

        Raises:
            UnknownNameError: It is not remembered.
        """
        remembered = self._requests.get(request_id)
        if remembered is None:
            raise UnknownNameError("recent request", request_id, list(self._requests)[-3:])
        return [report_of(record, remembered.decisions[choice], text_of) for choice, record in remembered.rounds]

    def count(self, done: Round) -> None:
        """Add a round to what is known of its arm."""
        plan = done.plan
        tally = self.arms.use((plan.drafters, plan.shape if plan.speculates else None), ArmTally)
        tally.rounds += 1
        tally.drafted_tokens += len(done.outcome.tree)
        tally.accepted_tokens += done.outcome.verdict.num_accepted


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
        """Write down a round."""
        policy = self._policy
        choice = (done.plan, done.missing, policy.mode, policy.proposal, policy.config_hash)
        if choice != self._last_choice:
            self._last_choice = choice
            self._decide(done)
        record = round_record(
            done, decision_event_id=self._decision_event_id, frozen=self._policy.terms.mode is Mode.FROZEN
        )
        # What is remembered here, and never written anywhere, is for people who want to read trees.
        written = record.SerializeToString()
        self._remembered.rounds.append((len(self._remembered.decisions) - 1, written))
        if self._veil is not None:
            self._veil.over_round(record)
            written = record.SerializeToString()
        self._chronicle.log.append("rounds", written)
        self._chronicle.count(done)

    def report(self, text_of: Callable[[Sequence[int]], str]) -> RoundReport:
        """The last round, with the text of every node, for people to read."""
        choice, record = self._remembered.rounds[-1]
        return report_of(record, self._remembered.decisions[choice], text_of)

    def end(self, outcome: Outcome, account: Account, sequence: TokenSequence) -> None:
        """Write down how the request ended."""
        record = outcome_record(self._request, account, outcome, session=self._session, sequence=sequence)
        if self._veil is not None:
            self._veil.over_outcome(record)
        self._chronicle.log.append("outcomes", record.SerializeToString())

    def _decide(self, done: Round) -> None:
        record = decision_record(
            self._chronicle.author,
            done,
            policy=self._policy,
            session=self._session,
            trace_id=self._request.trace_id,
        )
        self._decision_event_id = record.event_id
        self._remembered.decisions.append(record.decision.SerializeToString())
        self._chronicle.log.append("decisions", record.SerializeToString())
