"""One request's place on the fleet: it asks whoever can answer, and outlives every worker."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

from controller.generation import DraftExchange, Drafts
from controller.request import GenerationRequest
from controller.roster import Roster, Worker
from controller.sequence import Sequence
from controller.tasks import Spawn
from controller.worker_client import DraftStream, Opening, Proposal, VerifyStream
from router_models.plan import Plan
from speculation.calibration import UNCALIBRATED
from speculation.errors import (
    CapacityError,
    DrainingError,
    ForerunError,
    InvalidRequestError,
    InvalidTreeError,
    WorkerUnavailableError,
)
from speculation.profile import ForwardProfile
from speculation.tracing import span
from speculation.tree import TokenTree
from speculation.verdict import Verdict

_MOVABLE = (WorkerUnavailableError, DrainingError, CapacityError)
"""Errors of one worker that another one may not have."""

MOST_MOVES_A_STEP = 6
"""What took down this many workers will take down the next one, too."""

FIRST_BUSY_PAUSE_S = 0.01
LONGEST_BUSY_PAUSE_S = 0.2

NS_PER_S = 1e9

READ_GRACE_S = 0.05
"""What drafters get for the prompt when the target has read it."""

READ_AT_ONCE = 256
"""Tokens that a drafter reads within its timeout; one that had more to read may be late without being at fault."""


@dataclass(slots=True)
class _Target:
    """The session on a verify worker."""

    worker: Worker
    stream: VerifyStream


@dataclass(slots=True)
class _Drafter:
    """The session on a drafter.

    Attributes:
        worker: Where the session is open.
        stream: The session.
        asked: The exchange under way, if any; a late one is left to finish.
        length: Tokens of the sequence when it was last asked.
        unusable: It cannot serve this request at all.
    """

    worker: Worker | None = None
    stream: DraftStream | None = None
    asked: "asyncio.Task[Any] | None" = None
    length: int = 0
    unusable: bool = False


@dataclass(frozen=True, slots=True)
class _Answer:
    proposal: Proposal
    address: str
    at_ns: int


class RequestSession:
    """Implements `generation.FleetSession` over gRPC.

    Attributes:
        prompt_surprisal: By drafter that has read the prompt.
        model_revisions: By name of each worker that took part.
        failovers: Times a worker was lost and the session moved, or a drafter was given up for a round.
        verify_address: Of the worker that verified last; empty before.
    """

    def __init__(self, roster: Roster, request: GenerationRequest, *, deadline: float, spawn: Spawn) -> None:
        self.prompt_surprisal: dict[str, float] = {}
        self.model_revisions: dict[str, str] = {}
        self.failovers = 0
        self.verify_address = ""
        self._roster = roster
        self._deadline = deadline
        self._spawn = spawn
        self._opening = Opening(
            session_id=request.request_id,
            sampling=request.sampling,
            prompt_length=len(request.prompt),
            stop_token_ids=request.stop_token_ids,
            top_logprobs=request.logprobs or 0,
            uncoupled=request.pins.uncoupled,
            cache_salt=request.tenant,
        )
        self._in_turn = request.pins.in_turn
        self._drafters: dict[str, _Drafter] = {}
        self._target: asyncio.Task[_Target] | None = None
        self._revision: str | None = None
        self._max_length = 0
        self._round = 0
        self._streams: list[DraftStream | VerifyStream] = []
        self._moved_tokens = 0

    @property
    def retold_tokens(self) -> int:
        """Tokens that workers had to be told again: they had forgotten them, or the session had moved."""
        return self._moved_tokens + sum(stream.retold_tokens for stream in self._streams)

    @property
    def drafter_profiles(self) -> Mapping[str, ForwardProfile]:
        """What the forwards of each drafter took when it started."""
        return self._roster.drafter_profiles

    @property
    def target_profile(self) -> ForwardProfile | None:
        """The same of the target."""
        return self._roster.target_profile

    @property
    def ineligible_drafters(self) -> tuple[str, ...]:
        """Drafters that cannot be asked now, each as "name: reason"."""
        return self._roster.unavailable_drafters

    def begin(self, sequence: Sequence) -> None:
        """Let the target read the prompt while drafters read and draft."""
        self._target = self._spawn(self._open_target(sequence))

    def close(self) -> None:
        """End every session, so that the workers free their caches."""
        for drafter in self._drafters.values():
            self._drop(drafter)
        if self._target is not None and self._target.done() and not self._target.cancelled():
            with suppress(ForerunError):
                target = self._target.result()
                target.worker.close(target.stream)
        # Tasks that were cancelled know the session. It knows them no more, so that all of it can go at once.
        self._drafters.clear()
        self._target = None

    def offer(self, sequence: Sequence) -> tuple[str, ...]:
        """Drafters that can be asked now: serving, long enough for the sequence, and not still at an older round."""
        length = len(sequence)
        on_offer: dict[str, bool] = {}
        for worker in self._roster.drafters:
            name = worker.name
            on_offer[name] = on_offer.get(name, False) or self._may_ask(name, worker, length)
        return tuple(name for name, may_ask in on_offer.items() if may_ask and self._is_free(name))

    def _may_ask(self, name: str, worker: Worker, length: int) -> bool:
        """Whether a drafter's worker can continue a sequence of that length, in this request's session or a new one."""
        drafter = self._drafters.get(name)
        is_ours = drafter is not None and drafter.worker is worker
        return (worker.serving if is_ours else worker.takes_sessions) and worker.can_hold(length)

    def _is_free(self, name: str) -> bool:
        drafter = self._drafters.get(name)
        return drafter is None or not (drafter.unusable or (drafter.asked is not None and not drafter.asked.done()))

    def room(self, sequence: Sequence) -> int:
        """Most nodes that the target can hold after the sequence."""
        return self._max_length - len(sequence)

    async def read(self, drafters: Iterable[str], sequence: Sequence) -> None:
        """Let drafters read the prompt while the target does, and hardly longer: who is late drafts later."""
        reading = [self._let_read(name, sequence) for name in drafters]
        if reading:
            await self._reach_target(sequence)
            await asyncio.wait(reading, timeout=READ_GRACE_S)

    async def draft(self, plan: Plan, sequence: Sequence) -> Drafts:
        """Ask the plan's drafters at once, and wait for them until they keep a ready target waiting for too long."""
        if not plan.speculates:
            await self._reach_target(sequence)
            return Drafts()
        started_ns = perf_counter_ns()
        foreseen = self._foreseen(plan, sequence)
        asked = {name: self._ask(name, plan, sequence) for name in plan.drafters if name not in foreseen}
        await self._reach_target(sequence)
        if not asked:
            return Drafts(trees=foreseen, foreseen=plan.drafters, draft_ns=perf_counter_ns() - started_ns)
        await asyncio.wait(asked.values(), timeout=self._roster.timeouts.draft_timeout_s)
        answers = {name: task.result() for name, task in asked.items() if task.done()}
        in_time = {name: answer for name, answer in answers.items() if answer is not None}
        for name, answer in in_time.items():
            self._praise(self._drafters[name], answer.at_ns - started_ns)
        for name in asked.keys() - answers.keys():
            self._set_aside(self._drafters[name], sequence)
        self.failovers += len(asked) - len(in_time)
        trees = foreseen | {name: answer.proposal.tree for name, answer in in_time.items()}
        return Drafts(
            trees={name: trees[name] for name in plan.drafters if name in trees},
            missing=tuple(name for name in asked if name not in in_time),
            foreseen=tuple(foreseen),
            draft_ns=max((answer.at_ns for answer in in_time.values()), default=perf_counter_ns()) - started_ns,
            worker_ns=max((answer.proposal.timings.total_ns for answer in in_time.values()), default=0),
            exchanges={
                name: DraftExchange(
                    address=answer.address, elapsed_ns=answer.at_ns - started_ns, timings=answer.proposal.timings
                )
                for name, answer in in_time.items()
            },
        )

    def foresee(self, plan: Plan, tree: TokenTree, sequence: Sequence) -> None:
        """Let the plan's drafters draft on while the target judges the tree. Nobody waits for them."""
        if self._in_turn:
            return
        for name in plan.drafters:
            drafter = self._drafters[name]
            outcomes = self._outcomes_for(drafter, sequence) if self._is_free(name) else 0
            if drafter.stream is not None and outcomes:
                self._spawn(self._foresee(name, drafter, drafter.stream, plan, tree, sequence, outcomes))

    def _outcomes_for(self, drafter: _Drafter, sequence: Sequence) -> int:
        """How many it may be asked to foresee."""
        worker = drafter.worker
        if worker is None or worker.description is None or not (worker.serving and worker.can_hold(len(sequence))):
            return 0
        return min(self._roster.outcomes_ahead, worker.description.most_outcomes)

    async def _foresee(
        self,
        name: str,
        drafter: _Drafter,
        stream: DraftStream,
        plan: Plan,
        tree: TokenTree,
        sequence: Sequence,
        outcomes: int,
    ) -> None:
        drafter.length = len(sequence)
        try:
            with span(f"foresee {name}"):
                await stream.foresee(
                    sequence,
                    tree,
                    plan.shape,
                    calibration=plan.calibrations.get(name, UNCALIBRATED),
                    round_number=self._round,
                    outcomes=outcomes,
                    vocab_size=self._roster.tokenizer.vocab_size,
                )
        except ForerunError as error:
            stream.give_up(str(error))  # an exchange may be waiting behind this one
            if drafter.stream is stream:
                self._give_up(drafter, error)

    def _foreseen(self, plan: Plan, sequence: Sequence) -> dict[str, TokenTree]:
        """By drafter of the plan the tree that it would propose now, where it is here already."""
        trees = {name: self._foreseen_by(name, plan, sequence) for name in plan.drafters}
        return {name: tree for name, tree in trees.items() if tree is not None}

    def _foreseen_by(self, name: str, plan: Plan, sequence: Sequence) -> TokenTree | None:
        drafter = self._drafters.get(name)
        if drafter is None or drafter.stream is None or drafter.stream.foresight is None:
            return None
        calibration = plan.calibrations.get(name, UNCALIBRATED)
        try:
            return drafter.stream.foresight.tree_for(sequence, plan.shape, calibration)
        except InvalidTreeError as error:
            self._give_up(drafter, error)
            return None

    def _let_read(self, name: str, sequence: Sequence) -> "asyncio.Task[None]":
        drafter = self._drafters.setdefault(name, _Drafter())
        reading = self._spawn(self._read(name, drafter, sequence))
        drafter.asked = reading
        return reading

    def _ask(self, name: str, plan: Plan, sequence: Sequence) -> "asyncio.Task[_Answer | None]":
        drafter = self._drafters.setdefault(name, _Drafter())
        asked = self._spawn(self._propose(name, drafter, plan, sequence))
        drafter.asked = asked
        return asked

    async def _read(self, name: str, drafter: _Drafter, sequence: Sequence) -> None:
        try:
            with span(f"read {name}"):
                surprisal = await self._stream_of(name, drafter, len(sequence)).read(sequence, len(sequence))
        except ForerunError as error:
            self._give_up(drafter, error)
            return
        drafter.length = len(sequence)
        if surprisal is not None:
            self.prompt_surprisal[name] = surprisal

    async def _propose(self, name: str, drafter: _Drafter, plan: Plan, sequence: Sequence) -> _Answer | None:
        """A drafter's answer, or None if there will be none; then its session is gone."""
        try:
            with span(f"draft {name}"):
                stream = self._stream_of(name, drafter, len(sequence))
                proposal = await stream.propose(
                    sequence,
                    plan.shape,
                    calibration=plan.calibrations.get(name, UNCALIBRATED),
                    round_number=self._round,
                    vocab_size=self._roster.tokenizer.vocab_size,
                )
        except ForerunError as error:
            self._give_up(drafter, error)
            return None
        drafter.length = len(sequence)
        if proposal.prompt_surprisal is not None:
            self.prompt_surprisal[name] = proposal.prompt_surprisal
        return _Answer(proposal, stream.address, perf_counter_ns())

    def _stream_of(self, name: str, drafter: _Drafter, length: int) -> DraftStream:
        """The open session on a drafter, or a new one on its least loaded worker."""
        if drafter.worker is not None and not (drafter.worker.serving and drafter.worker.can_hold(length)):
            self._drop(drafter)
        if drafter.stream is None:
            worker = self._roster.drafter(name, length)
            if worker is None or worker.description is None:
                raise CapacityError(f"no worker of drafter {name} serves now")
            drafter.worker = worker
            drafter.stream = worker.open_draft(self._opening, timeout_s=self._remaining_s())
            self._streams.append(drafter.stream)
            self._moved_tokens += drafter.length
            drafter.length = 0
            self.model_revisions[name] = worker.description.model_revision
        return drafter.stream

    def _give_up(self, drafter: _Drafter, error: ForerunError) -> None:
        """Without an answer the session is of no more use; the worker only if it is to blame."""
        if isinstance(error, InvalidRequestError) and not isinstance(error, InvalidTreeError):
            drafter.unusable = True
        elif drafter.worker is not None and not isinstance(error, CapacityError):
            drafter.worker.eject(str(error))
        self._drop(drafter)

    def _praise(self, drafter: _Drafter, took_ns: int) -> None:
        if drafter.worker is not None:
            self._roster.worked(drafter.worker, took_ns / NS_PER_S)

    def _set_aside(self, drafter: _Drafter, sequence: Sequence) -> None:
        """A late drafter is not asked again before it has answered, nor by others before it has been examined."""
        if drafter.worker is not None and len(sequence) - drafter.length <= READ_AT_ONCE:
            drafter.worker.eject(f"kept a round waiting for {self._roster.timeouts.draft_timeout_s:g} s")

    def _drop(self, drafter: _Drafter) -> None:
        if drafter.worker is not None and drafter.stream is not None:
            drafter.worker.close(drafter.stream)
        drafter.worker = drafter.stream = None

    async def verify(self, tree: TokenTree, sequence: Sequence, *, run: int = 0) -> Verdict:
        """The target's verdict, from the worker that has the session or from any other."""
        self._round += 1
        moves = _Moves(self._roster)
        while True:
            target = await self._reach_target(sequence)
            asked_ns = perf_counter_ns()
            try:
                with span("verify", {"server.address": target.worker.address}):
                    verdict = await target.stream.verify(sequence, tree, run=run, round_number=self._round)
            except _MOVABLE as error:
                self._target = None
                self._moved_tokens += len(sequence)
                self._leave(target, error)
                await moves.make(error)
                continue
            took_ns = perf_counter_ns() - asked_ns - verdict.run_ns
            self._roster.worked(target.worker, max(took_ns, 0) / NS_PER_S)
            self.verify_address = target.worker.address
            return verdict

    async def _reach_target(self, sequence: Sequence) -> _Target:
        """The session on a verify worker that has read the sequence."""
        if self._target is None:
            self._target = self._spawn(self._open_target(sequence))
        return await self._target

    async def _open_target(self, sequence: Sequence) -> _Target:
        """Open a session and have all but the last token read: that one belongs to the first verdict."""
        moves = _Moves(self._roster)
        while True:
            worker = await self._roster.verifier(self._revision)
            target = _Target(worker, worker.open_verify(self._opening, timeout_s=self._remaining_s()))
            self._streams.append(target.stream)
            try:
                with span("read target", {"server.address": worker.address}):
                    await target.stream.tell(sequence, len(sequence) - 1)
            except _MOVABLE as error:
                self._leave(target, error)
                await moves.make(error)
                continue
            except BaseException:
                worker.close(target.stream)
                raise
            self._note(worker)
            return target

    def _note(self, worker: Worker) -> None:
        if worker.description is not None:
            self._revision = worker.description.model_revision
            self._max_length = worker.description.max_length
            self.model_revisions[worker.name] = worker.description.model_revision

    def _leave(self, target: _Target, error: ForerunError) -> None:
        """Go elsewhere. Nothing is lost: what the worker held, another one is told again."""
        target.worker.close(target.stream)
        if not isinstance(error, CapacityError):
            self.failovers += 1
            target.worker.eject(str(error))

    def _remaining_s(self) -> float:
        return max(self._deadline - asyncio.get_running_loop().time(), 0.001)


class _Moves:
    """How often, and how long, one step tries its luck with other workers. It is safe to: a round that is asked for
    twice at the same length has the same answer."""

    def __init__(self, roster: Roster) -> None:
        self._ends_at = asyncio.get_running_loop().time() + roster.timeouts.verify_wait_s
        self._retries = roster.retries
        self._pause_s = FIRST_BUSY_PAUSE_S
        self._lost = 0

    async def make(self, error: ForerunError) -> None:
        """Count a move, and pause if everybody is busy; raises the error when enough were made."""
        if not isinstance(error, CapacityError):
            self._lost += 1
            if self._lost >= MOST_MOVES_A_STEP or (self._lost > 1 and not self._retries.allows()):
                raise error
            return
        if asyncio.get_running_loop().time() >= self._ends_at:
            raise error
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_BUSY_PAUSE_S)
