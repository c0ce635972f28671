"""A finished log, as offline learning sees it, and a cut through its time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome, TextScores

HOLD_OUT = 0.2
"""Share of the requests, the latest ones, that a model is tested on and never learns from."""


class LoggedLesson(Protocol):
    """One record of the log from which can be learnt."""

    @property
    def request_id(self) -> str:
        """Whose it is."""

    @property
    def at_ms(self) -> int:
        """When it was written, Unix time."""

    def teach(self, policy: Policy) -> None:
        """Let a policy learn it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedRound:
    """One round: what was known, what was done, what came of it.

    Attributes:
        context: What the policy knew.
        plan: What was done.
        outcome: What came of it.
        tokens: What the answer gained: those of the verdict, cut where the answer ends.
        at_ms: When it ended, Unix time.
        weighed: Whether the policy chose freely, so that the plan's propensity can be used to weigh.
        frozen: Whether nobody may learn from it.
    """

    context: RoundContext
    plan: Plan
    outcome: RoundOutcome
    tokens: int
    at_ms: int
    weighed: bool = True
    frozen: bool = False

    @property
    def request_id(self) -> str:
        """Whose it is."""
        return self.context.request_id

    def teach(self, policy: Policy) -> None:
        """Let a policy learn it, unless the router was frozen."""
        if not self.frozen:
            policy.learn(self.context, self.plan, self.outcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedScores:
    """How one drafter would have drafted a finished answer.

    Attributes:
        context: What was known at the answer's end.
        drafter: Who.
        scores: Of each token.
        at_ms: When it told, Unix time.
        frozen: Whether nobody may learn from it.
    """

    context: RoundContext
    drafter: str
    scores: TextScores
    at_ms: int
    frozen: bool = False

    @property
    def request_id(self) -> str:
        """Whose answer it is."""
        return self.context.request_id

    def teach(self, policy: Policy) -> None:
        """Let a policy learn it, if anybody may."""
        if not self.frozen:
            policy.learn_scores(self.context, {self.drafter: self.scores})


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A log, cut at a moment.

    Attributes:
        taught: Lessons of requests that had ended by then, in the order of the log.
        held_out: Rounds of requests that had not begun by then, in the order of the log.
        held_out_scores: Of the answers to these.
        cut_ms: The moment, Unix time.
    """

    taught: tuple[LoggedLesson, ...]
    held_out: tuple[LoggedRound, ...]
    held_out_scores: tuple[LoggedScores, ...] = ()
    cut_ms: int

    @property
    def taught_rounds(self) -> tuple[LoggedRound, ...]:
        """The rounds among what is taught."""
        return rounds_of(self.taught)


def rounds_of(lessons: Sequence[LoggedLesson]) -> tuple[LoggedRound, ...]:
    """The rounds among some lessons."""
    return tuple(lesson for lesson in lessons if isinstance(lesson, LoggedRound))


def scores_of(lessons: Sequence[LoggedLesson]) -> tuple[LoggedScores, ...]:
    """The scores among some lessons."""
    return tuple(lesson for lesson in lessons if isinstance(lesson, LoggedScores))


def split_by_time(lessons: Sequence[LoggedLesson], *, hold_out: float = HOLD_OUT) -> Split:
    """Hold out the latest requests, whole; those under way at the cut are on neither side.

    So nothing that is learnt is younger than anything that it is tested on. When a request began and ended its rounds
    tell: its answer is scored some time later, and what was told after the cut is not learnt.

    Args:
        lessons: In the order of the log.
        hold_out: Share of the requests to hold out, in [0, 1]; at least one request if above 0.

    Raises:
        ValueError: The share is none, or there is nothing to hold out.
    """
    if not 0.0 <= hold_out <= 1.0:
        raise ValueError(f"{hold_out} is no share of the requests; it must be in [0, 1]")
    begun: dict[str, int] = {}
    ended: dict[str, int] = {}
    for lesson in rounds_of(lessons):
        begun[lesson.request_id] = min(begun.get(lesson.request_id, lesson.at_ms), lesson.at_ms)
        ended[lesson.request_id] = max(ended.get(lesson.request_id, lesson.at_ms), lesson.at_ms)
    if not begun:
        raise ValueError("the log holds no round")
    if hold_out == 0.0:
        return Split(taught=tuple(lessons), held_out=(), cut_ms=max(ended.values()) + 1)
    beginnings = sorted(begun.values())
    cut_ms = beginnings[min(int(len(beginnings) * (1.0 - hold_out)), len(beginnings) - 1)]
    held_out = [lesson for lesson in lessons if begun.get(lesson.request_id, 0) >= cut_ms]
    return Split(
        taught=tuple(lesson for lesson in lessons if max(ended.get(lesson.request_id, cut_ms), lesson.at_ms) < cut_ms),
        held_out=rounds_of(held_out),
        held_out_scores=scores_of(held_out),
        cut_ms=cut_ms,
    )
