"""The speculative loop: plan, draft, combine, verify, learn, extend; and the two protocols it stands on."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from time import perf_counter_ns
from types import MappingProxyType
from typing import NamedTuple, Protocol

from controller.request import GenerationRequest
from controller.sequence import Sequence
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings, Silence
from speculation.profile import ForwardProfile
from speculation.tracing import span
from speculation.tree import TokenTree, prune
from speculation.verdict import Verdict, WorkerTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftExchange:
    """One drafter's part in a round.

    Attributes:
        address: host:port of its worker.
        elapsed_ns: From the round's first draft call to its reply.
        timings: What the worker reports.
    """

    address: str
    elapsed_ns: int
    timings: WorkerTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """What the drafters of one round answered.

    Attributes:
        trees: The tree of each drafter that answered in time, in the plan's order.
        missing: Drafters that were asked and did not.
        foreseen: Drafters whose tree was there already, drafted while the target judged the round before.
        draft_ns: From the first call to the last answer.
        worker_ns: What the slowest drafter reports as its own time.
        exchanges: The same of each drafter that answered in time.
    """

    trees: Mapping[str, TokenTree] = field(default_factory=lambda: MappingProxyType({}))
    missing: tuple[str, ...] = ()
    foreseen: tuple[str, ...] = ()
    draft_ns: int = 0
    worker_ns: int = 0
    exchanges: Mapping[str, DraftExchange] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def silent(self) -> bool:
        """Whether all who were asked have nothing to say and knew it without a forward: it has cost a message."""
        asked = self.exchanges.keys() == self.trees.keys() and not self.missing
        return bool(asked and self.trees) and not any(
            len(self.trees[name]) or exchange.timings.forwards for name, exchange in self.exchanges.items()
        )


class FleetSession(Protocol):
    """One request's place on the workers. It outlives any of them."""

    @property
    def prompt_surprisal(self) -> Mapping[str, float]:
        """Nats per token of the end of the prompt, by drafter that has read it."""

    @property
    def drafter_profiles(self) -> Mapping[str, ForwardProfile]:
        """What the forwards of each drafter took when it started, where it was measured."""

    @property
    def target_profile(self) -> ForwardProfile | None:
        """The same of the target."""

    @property
    def ineligible_drafters(self) -> tuple[str, ...]:
        """Drafters that cannot be asked now, each as "name: reason"."""

    @property
    def model_revisions(self) -> Mapping[str, str]:
        """Revision of the model of each worker that took part, by its name."""

    @property
    def failovers(self) -> int:
        """Times a worker was lost and its session moved, or a drafter was given up for a round."""

    @property
    def retold_tokens(self) -> int:
        """Tokens that workers had to be told again: they had forgotten them, or the session had moved."""

    @property
    def verify_address(self) -> str:
        """host:port of the worker that verified last; empty before."""

    def offer(self, sequence: Sequence) -> tuple[str, ...]:
        """Drafters that can be asked now, in the fleet's order."""

    def room(self, sequence: Sequence) -> int:
        """Most nodes that the target can hold after the sequence."""

    async def read(self, drafters: Iterable[str], sequence: Sequence) -> None:
        """Let drafters read the prompt, so that their surprisal is known; raises for none of them."""

    async def draft(self, plan: Plan, sequence: Sequence) -> Drafts:
        """The trees of the plan's drafters; raises for none of them, a drafter without an answer is missing."""

    def foresee(self, plan: Plan, tree: TokenTree, sequence: Sequence) -> None:
        """Let the plan's drafters draft on from the likeliest verdicts on the tree, while the target judges it."""

    async def verify(self, tree: TokenTree, sequence: Sequence, *, run: int = 0) -> Verdict:
        """What the target emits after the sequence, and up to `run` tokens more, by whichever worker can tell.

        Raises:
            WorkerUnavailableError: No verify worker answered in time.
            CapacityError: All verify workers stayed busy.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that answers requests.

    Attributes:
        name: Its hub id, or the name of its folder.
        revision: Hash of its weights and configuration.
        max_length: Most tokens of a prompt and its answer together.
    """

    name: str
    revision: str
    max_length: int


class Fleet(Protocol):
    """The workers, as requests use them."""

    @property
    def model(self) -> ServedModel | None:
        """The target's; None while no target serves."""

    @property
    def drafter_names(self) -> tuple[str, ...]:
        """Every drafter that belongs to the fleet, whether it serves now or not."""

    @property
    def verify_slots(self) -> int:
        """Sessions that the targets that serve can hold at once; 0 while none serves."""

    async def max_length(self) -> int:
        """Longest sequence that the target can hold, in tokens.

        Raises:
            WorkerUnavailableError: No target was there in time to say so.
        """

    def session(
        self, request: GenerationRequest, sequence: Sequence, *, deadline: float
    ) -> AbstractAsyncContextManager[FleetSession]:
        """A place for one request; leaving it frees all it held. `deadline` is in seconds of the event loop's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One exchange with drafters and target.

    Attributes:
        context: What the policy knew.
        plan: What was done, after silent drafters had been left out.
        missing: Drafters that were asked and did not answer.
        outcome: What came of it.
        emitted: Tokens that the answer gained: the verdict's, cut where the answer ends.
        exchanges: By drafter that answered.
        verify_address: host:port of the worker that verified.
        failovers: Of the request until now, as FleetSession counts them.
        retold_tokens: Likewise.
    """

    context: RoundContext
    plan: Plan
    missing: tuple[str, ...]
    outcome: RoundOutcome
    emitted: tuple[int, ...]
    exchanges: Mapping[str, DraftExchange] = field(default_factory=lambda: MappingProxyType({}))
    verify_address: str = ""
    failovers: int = 0
    retold_tokens: int = 0


async def generate(
    request: GenerationRequest,
    sequence: Sequence,
    *,
    session: FleetSession,
    policy: Policy,
    allow: Callable[[RoundContext], RoundContext] = lambda context: context,
    requests_in_flight: Callable[[], int] = lambda: 1,
    clock_ns: Callable[[], int] = perf_counter_ns,
) -> AsyncGenerator[Round]:
    """Yield verified rounds until the sequence is finished. `allow` leaves of a context what caller and operator do."""

    def describe(number: int, elapsed_ns: int = 0) -> RoundContext:
        beside = requests_in_flight()
        return allow(
            _describe(request, sequence, session, number=number, elapsed_ns=elapsed_ns, requests_in_flight=beside)
        )

    await session.read(policy.readers(describe(0)), sequence)
    number, began_ns = 0, clock_ns()
    while not sequence.finished:
        with span("round"):
            started_ns = clock_ns()
            drafted = await _draft(describe(number, started_ns - began_ns), sequence, session=session, policy=policy)
            outcome = await _verify(drafted, sequence, session=session, started_ns=started_ns, clock_ns=clock_ns)
            with span("commit"):
                policy.learn(drafted.context, drafted.plan, outcome)
                emitted = sequence.extend(outcome.verdict.token_ids)
            yield Round(
                context=drafted.context,
                plan=drafted.plan,
                missing=drafted.drafts.missing,
                outcome=outcome,
                emitted=emitted,
                exchanges=drafted.drafts.exchanges,
                verify_address=session.verify_address,
                failovers=session.failovers,
                retold_tokens=session.retold_tokens,
            )
        number += 1


def _timings(drafts: Drafts, verdict: Verdict, *, verify_ns: int, round_ns: int) -> RoundTimings:
    return RoundTimings(
        draft_ns=drafts.draft_ns,
        verify_ns=verify_ns,
        round_ns=round_ns,
        draft_worker_ns=drafts.worker_ns,
        verify_worker_ns=verdict.timings.total_ns,
    )


class _Drafted(NamedTuple):
    context: RoundContext
    plan: Plan
    drafts: Drafts
    silences: tuple[Silence, ...]


async def _draft(context: RoundContext, sequence: Sequence, *, session: FleetSession, policy: Policy) -> _Drafted:
    """Plan and draft. Where those who were asked have nothing to say, plan again without them."""
    silences: tuple[Silence, ...] = ()
    while True:
        with span("plan"):
            plan = policy.plan(context).within(sequence.remaining)
        drafts = await session.draft(plan, sequence)
        if not drafts.silent:
            return _Drafted(context, plan, drafts, silences)
        silences += tuple(
            Silence(drafter=name, least_confidence=plan.shape.least_confidence, took_ns=exchange.elapsed_ns)
            for name, exchange in drafts.exchanges.items()
        )
        context = replace(context, drafters=tuple(name for name in context.drafters if name not in drafts.trees))


async def _verify(
    drafted: _Drafted, sequence: Sequence, *, session: FleetSession, started_ns: int, clock_ns: Callable[[], int]
) -> RoundOutcome:
    """Have what was drafted judged, and the plan's run after it, while drafters draft on unless it runs away from them;
    what came of the round that began then."""
    plan, drafts, room = drafted.plan, drafted.drafts, session.room(sequence)
    tree = _fitting(plan.combine(tuple(drafts.trees.values())), room)
    run = min(plan.run, max(room - tree.depth, 0))
    asked_ns = clock_ns()
    if not run:
        session.foresee(plan, tree, sequence)
    verdict = await session.verify(tree, sequence, run=run)
    answered_ns = clock_ns()
    return RoundOutcome(
        drafts=drafts.trees,
        tree=tree,
        verdict=verdict,
        timings=_timings(drafts, verdict, verify_ns=answered_ns - asked_ns, round_ns=answered_ns - started_ns),
        foreseen=drafts.foreseen,
        silences=drafted.silences,
    )


def _describe(
    request: GenerationRequest,
    sequence: Sequence,
    session: FleetSession,
    *,
    number: int,
    elapsed_ns: int,
    requests_in_flight: int,
) -> RoundContext:
    """What there is to know and to choose from."""
    return RoundContext(
        request_id=request.request_id,
        round=number,
        drafters=session.offer(sequence),
        task=request.task,
        tenant=request.tenant,
        prompt_tokens=sequence.prompt_length,
        emitted_tokens=sequence.num_emitted,
        remaining_tokens=sequence.remaining,
        temperature=request.sampling.temperature,
        prompt_surprisal=dict(session.prompt_surprisal),
        requests_in_flight=requests_in_flight,
        elapsed_ms=elapsed_ns / 1e6,
        drafter_profiles={} if number else session.drafter_profiles,
        target_profile=None if number else session.target_profile,
    )


def _fitting(tree: TokenTree, room: int) -> TokenTree:
    return tree if len(tree) <= room else prune(tree, max(room, 0))
