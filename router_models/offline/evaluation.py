"""How good a model is on rounds that it has not learnt from: what it predicts, and what it would bring."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from router_models.offline.estimators import (
    Estimate,
    Resampling,
    direct,
    doubly_robust,
    effective_sample_size,
    importance_weights,
    interval,
    ips,
    observed,
    ratio,
    ratios,
    snips,
)
from router_models.offline.logged import LoggedRound, LoggedScores
from router_models.offline.replay import Replay, learning_within_requests, replayed
from router_models.offline.round_model import PARTS, cross_fitted, rewards_of
from router_models.plan import Plan
from router_models.planner import Expectation
from router_models.policy import LearningPolicy, RoundContext
from router_models.ranks import accepted_of, count_ranks, judged
from speculation.calibration import UNCALIBRATED, Calibration

Array = NDArray[np.float64]

SAMPLES = 4
"""Plans drawn from a contender for each round: it may draw lots, and what it would do is then a distribution."""

LEAST_EVIDENCE = 30.0
"""Effective rounds without which nothing is said about a winner."""

SMALLEST_CHANCE = 1e-3
"""No event is called impossible."""

NS_PER_MS = 1e6

Step = Callable[[], None]


@runtime_checkable
class Predicting(Protocol):
    """A policy that says beforehand what a round will bring."""

    def expectation(self, context: RoundContext, drafter: str, plan: Plan) -> Expectation:
        """What it expects of a round in which one drafter drafts alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """How well a policy foresaw what the drafters that were asked would bring.

    Attributes:
        rounds: In which one drafter drafted.
        accepted_log_likelihood: Nats a token, of at which of the candidates it was found; the higher the better.
        accepted_error: Mean of |accepted tokens - predicted|, a round.
        ms_error: Mean of |milliseconds - predicted| over the mean of the milliseconds.
        confidence_log_likelihood: Nats a node, of whether the target agreed; the higher the better.
        reliability: For tenths of the chance that a node was given: nodes, mean chance, share in which the target
            agreed.
    """

    rounds: int
    accepted_log_likelihood: float
    accepted_error: float
    ms_error: float
    confidence_log_likelihood: float
    reliability: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """How one policy did.

    Attributes:
        estimates: By method: ips, snips, dm, dr.
        effective_rounds: That the weights leave; of `weighed_rounds`.
        mean_weight: 1 if the log holds every choice of this policy as often as it should.
        predicted: None for a policy that predicts nothing.
        choices: By task and kind of decoding, the share of each drafter (or "none"), the most frequent first.
    """

    estimates: Mapping[str, Estimate]
    effective_rounds: float
    mean_weight: float
    predicted: Prediction | None
    choices: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A candidate held against the incumbent.

    Attributes:
        requests: That were held out.
        rounds: Theirs.
        weighed_rounds: Of these, chosen freely and far enough from the end of the answer to be weighed.
        logged: What the policies of the log brought in the weighed rounds.
        candidate: The model on trial.
        incumbent: The one in charge.
        gain: Speed of the candidate over the incumbent's, doubly robust.
        gain_low: Lower end of its interval.
        gain_high: Upper end.
        replay: Of both, on the answers that were scored.
    """

    requests: int
    rounds: int
    weighed_rounds: int
    logged: Estimate
    candidate: Contender
    incumbent: Contender
    gain: float
    gain_low: float
    gain_high: float
    replay: Replay

    @property
    def wins(self) -> bool:
        """Whether the candidate is faster than the incumbent beyond doubt."""
        return not self.objection

    @property
    def objection(self) -> str:
        """Why the candidate does not win, in words; empty if it does."""
        if self.weighed_rounds == 0:
            return "no round that was held out was chosen freely, so nothing can be estimated from propensities"
        if self.candidate.effective_rounds < LEAST_EVIDENCE:
            return (
                f"the {self.weighed_rounds} held-out rounds that can be weighed tell as much about this model as "
                f"{self.candidate.effective_rounds:.0f} of its own, and {LEAST_EVIDENCE:.0f} are the least to decide "
                "by: export more of the log, or let the router explore more"
            )
        if not self.gain_low > 1.0:
            return (
                f"its speed is {self.gain:.3f} of the incumbent's, with 95% confidence at least {self.gain_low:.3f}: "
                "that is not surely more than 1"
            )
        return ""


@dataclass(slots=True)
class _Trial:
    """What one contender planned and foresaw, round by round."""

    plans: list[tuple[Plan, ...]] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    accepted: list[tuple[float, float]] = field(default_factory=list)
    ms: list[tuple[float, float]] = field(default_factory=list)
    nodes: list[tuple[float, bool]] = field(default_factory=list)


def evaluate(
    held_out: Sequence[LoggedRound],
    *,
    candidate: LearningPolicy,
    incumbent: LearningPolicy,
    before: Sequence[LoggedRound] = (),
    scores: Sequence[LoggedScores] = (),
    seed: int = 0,
    step: Step = lambda: None,
) -> Evaluation:
    """Let two policies face the same rounds; both learn within requests only, from what was logged.

    Args:
        held_out: Rounds that neither has learnt from, in the order of the log.
        candidate: The model on trial.
        incumbent: What it must beat.
        before: Earlier rounds, from which the models of what rounds bring and take learn as well.
        scores: Of the answers to the held-out requests.
        seed: Of the bootstrap.
        step: Called for each round of each of the two.
    """
    trials = [_tried(policy, held_out, step) for policy in (candidate, incumbent)]
    places = _weighable(held_out, trials)
    weighed = [held_out[place] for place in places]
    rewards = rewards_of(weighed)
    propensities = np.array([entry.plan.propensity for entry in weighed], dtype=np.float64)
    resampling = Resampling.of([entry.request_id for entry in weighed], seed=seed)
    planned = [[trial.plans[place] for place in places] for trial in trials]
    of_logged, *guessed = _guessed(weighed, planned, before)
    contenders, speeds = [], []
    for trial, plans, guesses in zip(trials, planned, guessed, strict=True):
        weights = importance_weights(_chances(weighed, plans), propensities)
        robust = doubly_robust(weights, rewards, guesses, of_logged)
        methods = {"ips": ips(weights, rewards), "snips": snips(weights, rewards)}
        methods |= {"dm": direct(guesses), "dr": robust}
        contenders.append(
            Contender(
                estimates={name: resampling.estimate(terms) for name, terms in methods.items()},
                effective_rounds=effective_sample_size(weights),
                mean_weight=float(weights.mean()) if len(weights) else 0.0,
                predicted=_prediction(trial),
                choices=_choices(held_out, trial),
            )
        )
        speeds.append(resampling.speeds(robust))
    ours, theirs = contenders
    low, high = interval(ratios(*speeds))
    return Evaluation(
        requests=len({entry.request_id for entry in held_out}),
        rounds=len(held_out),
        weighed_rounds=len(weighed),
        logged=resampling.estimate(observed(rewards)),
        candidate=ours,
        incumbent=theirs,
        gain=ratio(ours.estimates["dr"].tokens_per_ms, theirs.estimates["dr"].tokens_per_ms),
        gain_low=low,
        gain_high=high,
        replay=replayed(held_out, scores, candidate=candidate, incumbent=incumbent, before=before, seed=seed),
    )


def predicted(policy: LearningPolicy, rounds: Sequence[LoggedRound]) -> Prediction | None:
    """How well a policy predicts rounds, learning within their requests only; None if it predicts nothing."""
    return _prediction(_tried(policy, rounds, lambda: None, samples=0))


def _tried(policy: LearningPolicy, rounds: Sequence[LoggedRound], step: Step, *, samples: int = SAMPLES) -> _Trial:
    trial = _Trial()
    with learning_within_requests(policy):
        for entry in rounds:
            if isinstance(policy, Predicting):
                _predict(policy, entry, trial)
            trial.plans.append(
                tuple(policy.plan(entry.context).within(entry.context.remaining_tokens) for _ in range(samples))
            )
            policy.learn(entry.context, entry.plan, entry.outcome)
            step()
    return trial


def _predict(policy: Predicting, entry: LoggedRound, trial: _Trial) -> None:
    """Note what is predicted of a round, beside what came."""
    plan, outcome = entry.plan, entry.outcome
    if len(plan.drafters) != 1 or not outcome.drafts:
        return
    (drafter,) = plan.drafters
    expected = policy.expectation(entry.context, drafter, plan)
    tree, emitted = outcome.drafts[drafter], outcome.verdict.token_ids
    hits, trials = count_ranks(tree, emitted, plan.shape)
    chances = np.clip(expected.hazards, SMALLEST_CHANCE, 1.0 - SMALLEST_CHANCE)
    trial.hits.append(float((hits * np.log(chances) + (trials - hits) * np.log1p(-chances)).sum()))
    trial.accepted.append((expected.accepted, float(accepted_of(tree, emitted))))
    trial.ms.append((expected.ms, outcome.timings.round_ns / NS_PER_MS))
    used = plan.calibrations.get(drafter, UNCALIBRATED)
    trial.nodes += [(_given(chance, used, expected.calibration), agreed) for chance, agreed in judged(tree, emitted)]


def _given(chance: float, used: Calibration, ours: Calibration) -> float:
    """The chance that we would have given a node."""
    return min(max(ours(used.undone(chance)), SMALLEST_CHANCE), 1.0 - SMALLEST_CHANCE)


def _prediction(trial: _Trial) -> Prediction | None:
    if not trial.accepted:
        return None
    accepted, ms = np.array(trial.accepted), np.array(trial.ms)
    chances, agreed = np.array(trial.nodes, dtype=np.float64).reshape(-1, 2).T
    likelihoods = np.where(agreed > 0, np.log(chances), np.log1p(-chances))
    return Prediction(
        rounds=len(accepted),
        accepted_log_likelihood=float(sum(trial.hits) / (accepted[:, 1] + 1.0).sum()),
        accepted_error=float(np.abs(accepted[:, 0] - accepted[:, 1]).mean()),
        ms_error=float(np.abs(ms[:, 0] - ms[:, 1]).mean() / ms[:, 1].mean()),
        confidence_log_likelihood=float(likelihoods.mean()) if len(likelihoods) else 0.0,
        reliability=_reliability(chances, agreed),
    )


def _reliability(chances: Array, agreed: Array) -> tuple[tuple[int, float, float], ...]:
    tenth = np.minimum((10 * chances).astype(np.int64), 9)
    return tuple(
        (int(inside.sum()), float(chances[inside].mean()), float(agreed[inside].mean()))
        for inside in (tenth == number for number in range(10))
        if inside.any()
    )


def _weighable(rounds: Sequence[LoggedRound], trials: Sequence[_Trial]) -> list[int]:
    """Places of rounds that were chosen freely and in which no plan had to be cut to the rest of the answer.

    Plans that were cut are not weighed by their propensity; to leave out only these would favour short ones.
    """
    free = [place for place, entry in enumerate(rounds) if entry.weighed]
    planned = [plan for place in free for trial in trials for plan in (*trial.plans[place], rounds[place].plan)]
    longest = max((plan.shape.depth for plan in planned if plan.speculates), default=0)
    return [place for place in free if rounds[place].context.remaining_tokens > longest]


def _guessed(
    rounds: Sequence[LoggedRound], planned: Sequence[Sequence[tuple[Plan, ...]]], before: Sequence[LoggedRound]
) -> list[Array]:
    """(rounds, PARTS) guessed rewards: of what was logged, and of what each contender would do.

    Learnt from other held-out requests, never from what the contenders have learnt from: a model that shares their
    luck would find it confirmed.
    """
    if not rounds:
        return [np.zeros((0, len(PARTS)))] * (1 + len(planned))
    logged = [(entry.context, entry.plan) for entry in rounds]
    asked = [
        [(entry.context, plan) for entry, plans in zip(rounds, own, strict=True) for plan in plans] for own in planned
    ]
    of_logged, *of_asked = cross_fitted(rounds, [logged, *asked], before=before)
    return [of_logged, *(guesses.reshape(len(rounds), -1, len(PARTS)).mean(axis=1) for guesses in of_asked)]


def _chances(rounds: Sequence[LoggedRound], planned: Sequence[tuple[Plan, ...]]) -> Array:
    """(rounds,) share of a contender's plans that are what was logged: an unbiased estimate of its chance."""
    return np.array(
        [
            np.mean([choice_of(plan) == choice_of(entry.plan) for plan in plans])
            for entry, plans in zip(rounds, planned, strict=True)
        ],
        dtype=np.float64,
    )


def choice_of(plan: Plan) -> Hashable:
    """What makes a plan another choice than another one."""
    if not plan.speculates:
        return ()
    several = (plan.combination,) if len(plan.drafters) > 1 else ()
    return (plan.drafters, plan.shape, plan.verify_budget, *several)


def _choices(rounds: Sequence[LoggedRound], trial: _Trial) -> dict[str, dict[str, float]]:
    counted: dict[str, Counter[str]] = {}
    for entry, plans in zip(rounds, trial.plans, strict=True):
        kind = f"{entry.context.task or 'no task'}, {'sampled' if entry.context.temperature > 0 else 'greedy'}"
        counted.setdefault(kind, Counter()).update("+".join(plan.drafters) or "none" for plan in plans)
    return {
        kind: {name: count / own.total() for name, count in own.most_common()} for kind, own in sorted(counted.items())
    }
