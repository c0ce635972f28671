"""Linear regression of the gain that forgets, with weights that all drafters share and a deviation for each drafter.

The hybrid model of Li et al. (LinUCB, arXiv:1003.0146, section 3.2; HyLinUCB, arXiv:2406.10131) with the discount of
D-LinUCB (Russac et al., arXiv:1909.09146): data lose weight round by round, the ridge does not, so that what is no
longer seen becomes uncertain again. A new drafter deviates by nothing, and uncertainly so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from router_models.baselines.arms import MOST_DRAFTERS
from router_models.baselines.features import NUM_FEATURES, Features
from router_models.model_state import ModelState
from speculation.errors import InvalidModelStateError

MEMORY = 600.0
"""Rounds after which an old one counts 1/e."""

NOISE = 0.5
"""Standard deviation of a round's gain."""

SHARED_SPREAD, DRAFTER_SPREAD = 1.0, 0.7
"""Standard deviations of the weights before anything is known."""

REFIT_EVERY = 16
"""Rounds between two solutions of the normal equations: solving takes longer than all else together."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Posterior:
    """The Gaussian belief about all weights: NUM_FEATURES shared ones, then as many for each drafter.

    Attributes:
        mean: (weights,).
        covariance: (weights, weights).
        version: Counts the solutions.
    """

    mean: Array
    covariance: Array
    version: int

    @cached_property
    def weights(self) -> Array:
        """(drafters, NUM_FEATURES): sums of shared and own weights."""
        return _sums(self.mean.reshape(-1, NUM_FEATURES))

    @cached_property
    def covariances(self) -> Array:
        """(drafters, NUM_FEATURES, NUM_FEATURES) of `weights`."""
        count = len(self.mean) // NUM_FEATURES
        blocks = self.covariance.reshape(count, NUM_FEATURES, count, NUM_FEATURES)
        shared_and_own = blocks[0, :, 1:].transpose(1, 0, 2)
        own = blocks[range(1, count), :, range(1, count)]
        total: Array = blocks[0, :, 0] + shared_and_own + shared_and_own.transpose(0, 2, 1) + own
        return total

    def members(self, count: int, rng: np.random.Generator) -> Array:
        """(drafters, NUM_FEATURES, count): draws of `weights`, jointly for all drafters."""
        root = np.linalg.cholesky(self.covariance)
        drawn = self.mean[:, None] + root @ rng.standard_normal((len(self.mean), count))
        return _sums(drawn.reshape(-1, NUM_FEATURES, count))


def _sums(blocks: Array) -> Array:
    """(1 + drafters, ...), the shared block first, to (drafters, ...)."""
    sums: Array = blocks[1:] + blocks[:1]
    return sums


class Regression:
    """Normal equations of discounted rounds.

    Args:
        memory: Rounds after which an old one counts 1/e.
    """

    def __init__(self, memory: float = MEMORY) -> None:
        self._kept = float(np.exp(-1 / memory))
        self._places: dict[str, int] = {}
        self._precision, self._moments = np.zeros((NUM_FEATURES, NUM_FEATURES)), np.zeros(NUM_FEATURES)
        self._rounds = self._fitted_rounds = self._version = 0
        self._posterior: Posterior | None = None

    @property
    def rounds(self) -> float:
        """Effective number of rounds behind the belief: what forgetting leaves of them."""
        return (1 - self._kept**self._rounds) / (1 - self._kept)

    def places(self, drafters: Sequence[str]) -> list[int]:
        """Where the posterior has each drafter's weights; of too many drafters the one used longest ago makes room."""
        for drafter in drafters:
            place = self._places.pop(drafter, None)
            self._places[drafter] = self._new_place() if place is None else place
        return [self._places[drafter] for drafter in drafters]

    def learn(self, drafter: str, x: Features, gain: float) -> None:
        """A round of a drafter with (NUM_FEATURES,) features."""
        (place,) = self.places((drafter,))
        spots = np.r_[0:NUM_FEATURES, _block(place)]
        doubled = np.concatenate((x, x))
        self.pass_round()
        self._precision[np.ix_(spots, spots)] += np.outer(doubled, doubled)
        self._moments[spots] += doubled * gain

    def pass_round(self) -> None:
        """A round that taught nothing, such as a plain one by choice: what is known is older by it, and tried again."""
        self._precision *= self._kept
        self._moments *= self._kept
        self._rounds += 1

    def posterior(self) -> Posterior:
        """What is believed, up to REFIT_EVERY rounds ago."""
        stale = self._rounds - self._fitted_rounds >= REFIT_EVERY
        if self._posterior is None or stale:
            spread = np.full(len(self._moments), DRAFTER_SPREAD)
            spread[:NUM_FEATURES] = SHARED_SPREAD
            inverse = np.linalg.inv(self._precision + np.diag((NOISE / spread) ** 2))
            self._version += 1
            self._posterior = Posterior(inverse @ self._moments, NOISE**2 * (inverse + inverse.T) / 2, self._version)
            self._fitted_rounds = self._rounds
        return self._posterior

    def state(self, policy: str) -> ModelState:
        """The normal equations."""
        arrays = {"precision": self._precision.copy(), "moments": self._moments.copy()}
        drafters = [[name, place] for name, place in self._places.items()]  # pairs, because JSON sorts no lists
        return ModelState(policy=policy, arrays=arrays, labels={"drafters": drafters, "rounds": self._rounds})

    def restore(self, state: ModelState) -> None:
        """Go on from a state.

        Raises:
            InvalidModelStateError: Its parts do not fit one another.
        """
        try:
            places = {str(name): int(place) for name, place in state.labels["drafters"]}
            precision, moments = state.arrays["precision"].copy(), state.arrays["moments"].copy()
            rounds = int(state.labels["rounds"])
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidModelStateError(f"lacks a part of the regression: {error}") from error
        _check(places, precision, moments, rounds)
        self._places, self._precision, self._moments, self._rounds = places, precision, moments, rounds
        self._posterior = None

    def _new_place(self) -> int:
        self._posterior = None
        if len(self._places) < MOST_DRAFTERS:
            grown = (0, NUM_FEATURES)
            self._precision, self._moments = np.pad(self._precision, grown), np.pad(self._moments, grown)
            return len(self._places)
        place = self._places.pop(next(iter(self._places)))
        block = _block(place)
        self._precision[block] = self._precision[:, block] = self._moments[block] = 0.0
        return place


def _block(place: int) -> slice:
    return slice((place + 1) * NUM_FEATURES, (place + 2) * NUM_FEATURES)


def _check(places: Mapping[str, int], precision: Array, moments: Array, rounds: int) -> None:
    size = (len(places) + 1) * NUM_FEATURES
    if sorted(places.values()) != list(range(len(places))) or len(places) > MOST_DRAFTERS or rounds < 0:
        raise InvalidModelStateError("does not give each of its drafters a place of its own")
    if (
        moments.shape != (size,)
        or precision.shape != (size, size)
        or not precision.dtype == moments.dtype == np.float64
    ):
        raise InvalidModelStateError(f"{len(places)} drafters need {size} weights; it has {moments.shape}")
    if not np.allclose(precision, precision.T) or np.linalg.eigvalsh(precision)[0] < -1e-6 * (1 + np.trace(precision)):
        raise InvalidModelStateError("its normal equations are none: the matrix must be symmetric and not negative")
