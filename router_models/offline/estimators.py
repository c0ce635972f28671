"""What a policy would have brought on rounds that another one chose: off-policy estimates from logged propensities.

A reward has several parts (tokens and milliseconds of a round), all estimated alike; their ratio is the speed. In
each, w = pi(a|x) / p(a|x) is the weight of a logged choice, r its reward, q a model's guess of the reward:

    IPS    mean of w r                                (Horvitz and Thompson, 1952)
    SNIPS  sum of w r over sum of w                   (Swaminathan and Joachims, 2015)
    DM     mean of q(x, pi)
    DR     mean of q(x, pi) + w (r - q(x, a))         (Dudik, Langford and Li, 2011, arXiv:1103.4601)

IPS and DR are unbiased if the logging policy could make every choice of the judged one; the mean weight tells: it is
then 1 in the mean. Under SNIPS a speed is the same as under IPS, since a ratio normalises itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000
"""Of a bootstrap."""

INTERVAL = (0.05, 0.95)
"""Quantiles of a bootstrap; with 95% confidence the truth is above the first."""


@dataclass(frozen=True, slots=True)
class Terms:
    """An estimate before it is summed up: the sum of `values` over the sum of `norms`.

    Attributes:
        values: (rounds, parts).
        norms: (rounds,).
    """

    values: Array
    norms: Array

    @property
    def estimate(self) -> Array:
        """(parts,); 0 where nothing has weight."""
        total, norm = self.values.sum(axis=0), float(self.norms.sum())
        return total / norm if norm else np.zeros_like(total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a policy brings a round.

    Attributes:
        tokens: Emitted.
        ms: Taken.
        tokens_per_ms: Their ratio.
        low: Lower end of its interval.
        high: Upper end.
    """

    tokens: float
    ms: float
    tokens_per_ms: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """One bootstrap of requests, for all that is to be compared.

    Attributes:
        cluster_of: (rounds,) the number of each one's request.
        counts: (resamples, requests).
    """

    cluster_of: NDArray[np.int64]
    counts: Array

    @classmethod
    def of(cls, requests: Sequence[str], *, seed: int) -> "Resampling":
        """Of rounds, given the request of each."""
        number: dict[str, int] = {}
        cluster_of = np.array([number.setdefault(request, len(number)) for request in requests], dtype=np.int64)
        return cls(cluster_of=cluster_of, counts=resampled_counts(len(number), np.random.default_rng(seed)))

    def speeds(self, terms: Terms) -> Array:
        """(resamples,) tokens a millisecond; 0 where no time was seen."""
        if not len(self.cluster_of):
            return np.zeros(1)
        tokens, ms = bootstrap(terms, self.cluster_of, self.counts).T
        return ratios(tokens, ms)

    def estimate(self, terms: Terms) -> Estimate:
        """With its interval; nothing is 0."""
        tokens, ms = (float(part) for part in terms.estimate)
        low, high = interval(self.speeds(terms))
        return Estimate(tokens=tokens, ms=ms, tokens_per_ms=ratio(tokens, ms), low=low, high=high)


def ratios(one: Array, other: Array) -> Array:
    """One over the other, 0 where the other is."""
    quotients: Array = np.divide(one, other, out=np.zeros_like(one), where=other > 0.0)
    return quotients


def ratio(one: float, other: float) -> float:
    """The same of two numbers."""
    return one / other if other > 0.0 else 0.0


def interval(values: Array) -> tuple[float, float]:
    """Its ends."""
    low, high = np.quantile(values, INTERVAL)
    return float(low), float(high)


def importance_weights(chances: Array, propensities: Array) -> Array:
    """(rounds,) weights of logged choices.

    Args:
        chances: (rounds,) with which the judged policy makes the logged choice.
        propensities: (rounds,) with which the logging policy made it, in (0, 1].

    Raises:
        ValueError: A propensity is none.
    """
    if not ((propensities > 0.0) & (propensities <= 1.0)).all():
        raise ValueError("propensities must be in (0, 1]")
    weights: Array = chances / propensities
    return weights


def observed(rewards: Array) -> Terms:
    """What the logging policy itself brought; (rounds, parts) rewards."""
    return Terms(rewards, np.ones(len(rewards)))


def ips(weights: Array, rewards: Array) -> Terms:
    """Inverse propensity scores."""
    return Terms(weights[:, None] * rewards, np.ones(len(rewards)))


def snips(weights: Array, rewards: Array) -> Terms:
    """Self-normalised: a little biased, much less spread, and no number outside of what was seen."""
    return Terms(weights[:, None] * rewards, weights)


def direct(guessed: Array) -> Terms:
    """The model's word alone; (rounds, parts) guessed rewards of the judged policy's choices."""
    return Terms(guessed, np.ones(len(guessed)))


def doubly_robust(weights: Array, rewards: Array, guessed: Array, guessed_of_logged: Array) -> Terms:
    """The model's word, corrected where the log knows better.

    Args:
        weights: (rounds,).
        rewards: (rounds, parts).
        guessed: (rounds, parts) guesses for what the judged policy would choose.
        guessed_of_logged: (rounds, parts) guesses for what was logged.
    """
    return Terms(guessed + weights[:, None] * (rewards - guessed_of_logged), np.ones(len(rewards)))


def effective_sample_size(weights: Array) -> float:
    """Rounds that would tell as much if all weighed alike (Kish, 1965); 0 if none has weight."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares else 0.0


def resampled_counts(clusters: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Array:
    """(resamples, clusters) how often each cluster is drawn: one bootstrap for all that is to be compared."""
    if not clusters:
        return np.zeros((resamples, 0))
    return rng.multinomial(clusters, np.full(clusters, 1.0 / clusters), size=resamples).astype(np.float64)


def bootstrap(terms: Terms, cluster_of: NDArray[np.int64], counts: Array) -> Array:
    """(resamples, parts) estimates. Rounds of one request are drawn together: they are not independent.

    Args:
        terms: Of the estimate.
        cluster_of: (rounds,) the request of each, as a number from 0.
        counts: (resamples, clusters), as `resampled_counts` gives them.
    """
    values = np.zeros((counts.shape[1], terms.values.shape[1]))
    norms = np.zeros(counts.shape[1])
    np.add.at(values, cluster_of, terms.values)
    np.add.at(norms, cluster_of, terms.norms)
    totals, norm = counts @ values, (counts @ norms)[:, None]
    return np.divide(totals, norm, out=np.zeros_like(totals), where=norm != 0.0)
