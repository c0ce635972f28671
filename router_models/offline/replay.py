"""What policies would have brought on answers that drafters scored: played (`answers`), and not estimated.

No weights, and no need for the log to hold a choice like theirs. Only what a round takes must be guessed: a model of
rounds says, learnt from the log without the request in question (`round_model`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router_models.offline.answers import Answer, Remade, agreements, answers_of, as_served, play
from router_models.offline.estimators import Estimate, Resampling, Terms, interval, ratio, ratios
from router_models.offline.logged import LoggedRound, LoggedScores
from router_models.offline.round_model import PARTS, RoundModel, guessed, held_apart, rewards_of
from router_models.policy import LearningPolicy, Policy

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How one policy did.

    Attributes:
        estimate: Midway between cautious and hopeful, a round; the interval holds both, and the luck of the requests.
        cautious: Tokens a millisecond, if every doubtful tree held the least that it can have held.
        hopeful: The same with the most.
        rounds: That the answers took, cautiously.
        doubtful_rounds: Of these, those of which only bounds are known.
    """

    estimate: Estimate
    cautious: float
    hopeful: float
    rounds: int
    doubtful_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Two policies and what was served, on the same answers.

    Attributes:
        answers: That were played.
        scored_answers: That could have been: every drafter on offer has scored them.
        checked_rounds: Logged rounds of these whose one drafter drafted, and has scored the answer as well.
        agreed_rounds: Of these, those that accepted what the scores say.
        served_rounds: That were served for the played answers.
        served: What was served, as it was timed.
        modelled: What was served, with the times that a model gives it: by so much the model errs.
        candidate: The model on trial.
        incumbent: The one in charge.
        gain: Speed of the candidate over the incumbent's.
        gain_low: Lower end of its interval.
        gain_high: Upper end.
    """

    answers: int
    scored_answers: int
    checked_rounds: int
    agreed_rounds: int
    served_rounds: int
    served: Estimate
    modelled: Estimate
    candidate: Replayed
    incumbent: Replayed
    gain: float
    gain_low: float
    gain_high: float


@contextmanager
def learning_within_requests(policy: LearningPolicy) -> Iterator[None]:
    """Within, a policy learns what concerns the requests under way, and nothing that outlives them."""
    learnt, policy.learns_across_requests = policy.learns_across_requests, False
    try:
        yield
    finally:
        policy.learns_across_requests = learnt


def replayed(
    rounds: Sequence[LoggedRound],
    scores: Sequence[LoggedScores],
    *,
    candidate: LearningPolicy,
    incumbent: LearningPolicy,
    before: Sequence[LoggedRound] = (),
    seed: int = 0,
) -> Replay:
    """Let two policies make the same answers, each learning within them only.

    Args:
        rounds: Logged ones that neither has learnt from.
        scores: Of the answers to their requests.
        candidate: The model on trial.
        incumbent: What it must beat.
        before: Earlier rounds, from which the model of what a round takes learns as well.
        seed: Of the bootstrap.
    """
    answers = answers_of(rounds, scores)
    played = [_played(policy, answers) for policy in (candidate, incumbent)]
    common = [
        (answer, ours, theirs)
        for answer, ours, theirs in zip(answers, *played, strict=True)
        if ours is not None and theirs is not None
    ]
    kept = [answer for answer, _, _ in common]
    clock = _Clock(
        resampling=Resampling.of([answer.request_id for answer in kept], seed=seed),
        model_of=held_apart(rounds, before=before) if kept else {},
    )
    us, them = clock.contender([ours for _, ours, _ in common]), clock.contender([theirs for _, _, theirs in common])
    checks = [agrees for answer in answers for agrees in agreements(answer)]
    return Replay(
        answers=len(kept),
        scored_answers=len(answers),
        checked_rounds=len(checks),
        agreed_rounds=sum(checks),
        served_rounds=sum(len(answer.rounds) for answer in kept),
        served=clock.resampling.estimate(_as_timed(kept)),
        modelled=clock.resampling.estimate(clock.terms([as_served(answer) for answer in kept])),
        candidate=us.told,
        incumbent=them.told,
        gain=ratio(us.told.estimate.tokens_per_ms, them.told.estimate.tokens_per_ms),
        gain_low=interval(ratios(us.slow, them.fast))[0],
        gain_high=interval(ratios(us.fast, them.slow))[1],
    )


def _played(policy: LearningPolicy, answers: Sequence[Answer]) -> list[tuple[Remade, Remade] | None]:
    """Each answer, cautiously and hopefully; None where nobody knows."""
    with learning_within_requests(policy):
        return [_both_ways(policy, answer) for answer in answers]


def _both_ways(policy: Policy, answer: Answer) -> tuple[Remade, Remade] | None:
    cautious = play(policy, answer)
    hopeful = play(policy, answer, hopefully=True) if cautious is not None and cautious.doubtful else cautious
    return (cautious, hopeful) if cautious is not None and hopeful is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """How a contender did, and (resamples,) tokens a millisecond, cautiously and hopefully."""

    told: Replayed
    slow: Array
    fast: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """What rounds take, and one bootstrap of the answers."""

    resampling: Resampling
    model_of: Mapping[str, RoundModel]

    def contender(self, remade: Sequence[tuple[Remade, Remade]]) -> _Told:
        """Of answers, cautiously and hopefully."""
        cautious, hopeful = (self.terms([pair[way] for pair in remade]) for way in (0, 1))
        low, high = self.resampling.estimate(cautious), self.resampling.estimate(hopeful)
        estimate = Estimate(
            tokens=(low.tokens + high.tokens) / 2.0,
            ms=(low.ms + high.ms) / 2.0,
            tokens_per_ms=(low.tokens_per_ms + high.tokens_per_ms) / 2.0,
            low=min(low.low, high.low),
            high=max(low.high, high.high),
        )
        told = Replayed(
            estimate=estimate,
            cautious=low.tokens_per_ms,
            hopeful=high.tokens_per_ms,
            rounds=sum(len(one.tokens) for one, _ in remade),
            doubtful_rounds=sum(one.doubtful for one, _ in remade),
        )
        return _Told(told=told, slow=self.resampling.speeds(cautious), fast=self.resampling.speeds(hopeful))

    def terms(self, remade: Sequence[Remade]) -> Terms:
        """Tokens and modelled milliseconds of each answer, over its rounds."""
        requests = [one.answer.request_id for one in remade for _ in one.choices]
        ms = guessed(self.model_of, requests, [choice for one in remade for choice in one.choices])[
            :, PARTS.index("ms")
        ]
        return _terms([one.answer for one in remade], [len(one.choices) for one in remade], ms)


def _terms(answers: Sequence[Answer], rounds: Sequence[int], ms: Array) -> Terms:
    """(sum of rounds,) milliseconds, those of an answer's rounds together."""
    tokens = np.array([float(len(answer.token_ids)) for answer in answers])
    ms_of = np.array([own.sum() for own in np.split(ms, np.cumsum(rounds[:-1], dtype=np.int64))][: len(answers)])
    return Terms(np.stack((tokens, ms_of), axis=1), np.array(rounds, dtype=np.float64))


def _as_timed(answers: Sequence[Answer]) -> Terms:
    """What was served, as it was timed."""
    ms = rewards_of([entry for answer in answers for entry in answer.rounds])[:, PARTS.index("ms")]
    return _terms(answers, [len(answer.rounds) for answer in answers], ms)
