"""Scoring: drafters with nothing to do tell how they would have drafted answers that others drafted.

One teacher-forced pass over a finished answer says of each of its tokens at which candidate a drafter had it, with the
request's own sampling and noise: all that drafting it would have taught, and no request was slowed down to find it out.
Drafters that did draft it come last, and only for the log: nobody learns twice from one text, but with every drafter's
word an answer can be replayed under any policy (router_models/offline/replay.py).

Nothing here may be in anybody's way. A pass waits for a machine on which no session is open, one runs at a time, it
gives up its place as soon as a request opens a session there, and the worker runs it behind all else it is asked for.
What goes wrong is counted, and nothing more.
"""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field, replace
from random import Random

from controller.chronicle import Log
from controller.records import Author, score_record
from controller.request import GenerationRequest
from controller.roster import Roster, Worker
from controller.sequence import Sequence
from controller.steering import SteeredPolicy, Steering
from controller.tasks import Signal, owned_tasks
from controller.terms import Mode
from controller.worker_client import DraftStream, Opening
from router_models.policy import RoundContext, TextScores
from speculation.errors import ForerunError

logger = logging.getLogger(__name__)

MOST_ANSWERS = 64
"""Waiting at once; a newer one pushes the oldest out, because what is newer says more about the drafters of today."""

PATIENCE_S = 60.0
"""An answer whose drafters have not been idle for so long is given up, and what others told of it is made use of."""

PASS_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A request that has ended well.

    Attributes:
        request: What was asked for.
        sequence: Prompt and answer.
        context: What the policy knew in the last round.
        policy: That policy, on the operator's terms.
        drafted_by: Drafters that drafted for it: they have been learnt from.
    """

    request: GenerationRequest
    sequence: Sequence
    context: RoundContext
    policy: SteeredPolicy
    drafted_by: frozenset[str]


@dataclass(slots=True, eq=False)
class _Passes:
    """The passes over one answer.

    Attributes:
        answer: Which.
        give_up_at: In seconds of the event loop's clock.
        waiting: Drafters that are still to score it.
        scores: Of those that have, until they are published.
        revisions: Of their models.
        surprisal: Of the prompt, by drafter that has read it since.
    """

    answer: Answer
    give_up_at: float
    waiting: list[str]
    scores: dict[str, TextScores] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    surprisal: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _UnderWay:
    """The pass that runs now."""

    worker: Worker
    stream: DraftStream
    gave_way: bool = False


class Scorer:
    """A bounded queue of answers, and one pass after another over them.

    Attributes:
        scored: Passes that told how a drafter would have drafted an answer.
        dropped: Passes given up.
    """

    def __init__(self, fleet: Roster, steering: Steering, author: Author, log: Log | None, rng: Random) -> None:
        """
        Args:
            fleet: Whose drafters.
            steering: On whose terms.
            author: What records say of where they come from.
            log: Where scores are written; None: only policies learn from them.
            rng: Chooses the answers.
        """
        self.scored = 0
        self.dropped = 0
        self._fleet, self._steering, self._author, self._log, self._rng = fleet, steering, author, log, rng
        self._queue: deque[_Passes] = deque()
        self._under_way: _UnderWay | None = None
        self._stirred = Signal()

    @property
    def waiting(self) -> int:
        """Passes that wait for their drafter to be idle, the one that runs included."""
        return sum(len(passes.waiting) for passes in self._queue)

    @property
    def share(self) -> float:
        """Of finished requests that are scored, where no rule says otherwise."""
        return self._steering.orders.default.scoring_share

    def offer(self, answer: Answer) -> None:
        """Have an answer scored, if chance and operator want it; never waits, never fails."""
        useful = self._log is not None or answer.policy.learns
        if not useful or self._rng.random() >= self._share_of(answer) or not (drafters := self._drafters_for(answer)):
            return
        give_up_at = asyncio.get_running_loop().time() + PATIENCE_S
        self._queue.append(_Passes(answer, give_up_at, drafters))
        if len(self._queue) > MOST_ANSWERS:
            self._end(self._queue[0])
        self._stirred.fire()

    async def run(self) -> None:
        """Score what waits, until cancelled; then drop what is left."""
        try:
            async with owned_tasks() as spawn:
                spawn(self._watch())
                while True:
                    await self._score_next()
        finally:
            for passes in tuple(self._queue):
                self._end(passes)

    def _share_of(self, answer: Answer) -> float:
        """As the operator wants it now; nothing while speculation is stopped."""
        terms = self._steering.orders.terms_for(task=answer.request.task, tenant=answer.request.tenant)
        return 0.0 if self._steering.kill_switch else terms.scoring_share

    def _drafters_for(self, answer: Answer) -> list[str]:
        """Those that could and may read the answer, and would not be learnt from or logged in vain."""
        asked, terms = answer.request.pins.drafters, answer.policy.terms
        able = [
            name
            for name in self._fleet.drafters_for(len(answer.sequence))
            if terms.permit(name) and (not asked or name in asked)
        ]
        return [name for name in able if self._log is not None or name not in answer.drafted_by]

    async def _watch(self) -> None:
        """Follow the fleet: a request that comes takes its machine from the pass that runs there."""
        while True:
            await self._fleet.changed.wait()
            now = self._under_way
            if now is not None and not self._fleet.is_quiet(now.worker, beside=now.stream):
                now.gave_way = True
                now.stream.give_up("a request came")
            self._stirred.fire()

    async def _score_next(self) -> None:
        """One pass, or the wait until there may be one; what can be learnt from comes first."""
        self._drop_unwanted()
        waiting = [(passes, name) for passes in self._queue for name in passes.waiting]
        for passes, name in sorted(waiting, key=lambda one: one[1] in one[0].answer.drafted_by):
            worker = self._fleet.drafter(name, len(passes.answer.sequence))
            if worker is not None and self._fleet.is_quiet(worker):
                await self._score(passes, name, worker)
                return
        oldest = self._queue[0].give_up_at if self._queue else None
        try:
            async with asyncio.timeout_at(oldest):
                await self._stirred.wait()
        except TimeoutError:
            pass  # and the oldest is given up

    def _drop_unwanted(self) -> None:
        """Give up answers that are old or no longer wanted, and drafters that have gone."""
        now = asyncio.get_running_loop().time()
        for passes in tuple(self._queue):
            there = self._fleet.drafters_for(len(passes.answer.sequence))
            for name in [name for name in passes.waiting if name not in there]:
                self._fail(passes, name, "has gone")
            if passes in self._queue and (now >= passes.give_up_at or not self._share_of(passes.answer)):
                self._end(passes)

    async def _score(self, passes: _Passes, name: str, worker: Worker) -> None:
        """Let one drafter score one answer. If it must give way, it will be asked again."""
        answer = passes.answer
        opening = Opening(
            session_id=answer.request.request_id,
            sampling=answer.request.sampling,
            prompt_length=answer.sequence.prompt_length,
            uncoupled=answer.request.pins.uncoupled,
            background=True,
            cache_salt=answer.request.tenant,
        )
        now = self._under_way = _UnderWay(worker, worker.open_draft(opening, timeout_s=PASS_TIMEOUT_S))
        try:
            surprisal = await now.stream.read(answer.sequence, answer.sequence.prompt_length)
            scores = await now.stream.score(answer.sequence, answer.sequence.prompt_length)
        except (ForerunError, TimeoutError) as error:
            if not now.gave_way and name in passes.waiting:
                self._fail(passes, name, str(error))
            return
        finally:
            self._under_way = None
            worker.close(now.stream)
        if name not in passes.waiting:
            return  # the answer was given up meanwhile, and this pass was counted among the dropped
        if surprisal is not None:
            passes.surprisal[name] = surprisal
        if worker.description is not None:
            passes.revisions[name] = worker.description.model_revision
        passes.scores[name] = scores
        self.scored += 1
        self._done(passes, name)

    def _fail(self, passes: _Passes, name: str, problem: str) -> None:
        logger.info("an answer was not scored", extra={"drafter": name, "problem": problem})
        self.dropped += 1
        self._done(passes, name)

    def _done(self, passes: _Passes, name: str) -> None:
        passes.waiting.remove(name)
        if passes.answer.drafted_by.issuperset(passes.waiting):
            self._publish(passes)
        if not passes.waiting:
            self._end(passes)

    def _end(self, passes: _Passes) -> None:
        """Make use of what was told; drafters that were not asked yet will not be."""
        self.dropped += len(passes.waiting)
        passes.waiting.clear()
        self._queue.remove(passes)
        self._publish(passes)

    def _publish(self, passes: _Passes) -> None:
        """Log the scores and teach them, all in one context: who was surprised by how much more than the others.

        Those of drafters that drafted are not waited for, nor taught: their rounds have taught already.
        """
        answer = passes.answer
        context = replace(
            answer.context,
            round=answer.context.round + 1,
            emitted_tokens=answer.sequence.num_emitted,
            remaining_tokens=answer.sequence.remaining,
            prompt_surprisal={**answer.context.prompt_surprisal, **passes.surprisal},
        )
        for name, scores in passes.scores.items():
            if self._log is not None:
                record = score_record(
                    self._author,
                    context,
                    drafter=name,
                    model_revision=passes.revisions.get(name, ""),
                    scores=scores,
                    frozen=answer.policy.terms.mode is Mode.FROZEN or name in answer.drafted_by,
                )
                self._log.append("scores", record.SerializeToString())
        new = {name: scores for name, scores in passes.scores.items() if name not in answer.drafted_by}
        if new:
            answer.policy.learn_scores(context, new)
        passes.scores.clear()
