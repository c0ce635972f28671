"""A guess of what any choice would bring in any round, learnt from what logged choices brought."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router_models.contexts import excess_surprisal
from router_models.offline.logged import LoggedRound
from router_models.plan import Plan
from router_models.policy import RoundContext

Array = NDArray[np.float64]

Choice = tuple[RoundContext, Plan]

NS_PER_MS = 1e6
PARTS = ("tokens", "ms")
"""Of a reward: what the answer gained, and how long the round took."""

FOLDS = 3
STEPS = 60
FEWEST_IN_A_LEAF = 10
FEWEST_ROUNDS = 4 * FEWEST_IN_A_LEAF
MOST_NAMES = 250
"""Drafter sets told apart; the library knows up to 255 categories."""

UNKNOWN = -1.0
"""Where no drafter has read the prompt; an excess of surprisal is never negative."""

ONE_THREAD = 1
"""On so few rows threads only wait for each other: with two it takes twenty times as long."""

LONGEST_ROUND_MS = 10.0
"""Rounds longer than this many medians count as that long: machines stall, and a mean would be of nothing else."""


def rewards_of(rounds: Sequence[LoggedRound]) -> Array:
    """(rounds, PARTS)."""
    tokens = np.array([float(entry.tokens) for entry in rounds])
    took_ms = np.array([entry.outcome.timings.round_ns / NS_PER_MS for entry in rounds])
    longest_ms = LONGEST_ROUND_MS * float(np.median(took_ms)) if len(rounds) else 0.0
    return np.stack((tokens, np.minimum(took_ms, longest_ms)), axis=1)


class RoundModel:
    """Boosted trees over a few numbers of context and plan: scikit-learn's histogram gradient boosting.

    It knows nothing of the planner's own model, so that it cannot agree with that one's mistakes.
    """

    def __init__(self, rounds: Sequence[LoggedRound], rewards: Array) -> None:
        """
        Args:
            rounds: What was done.
            rewards: (rounds, PARTS) what it brought.
        """
        # Here and not above: the library takes a second to load, and serving does not need it.
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits

        names = sorted({entry.plan.drafters for entry in rounds})[:MOST_NAMES]
        self._names = {name: place for place, name in enumerate(names)}
        self._means = rewards.mean(axis=0) if len(rounds) else np.zeros(len(PARTS))
        self._models = []
        if len(rounds) >= FEWEST_ROUNDS:
            x = self._features([(entry.context, entry.plan) for entry in rounds])
            for part in range(len(PARTS)):
                model = HistGradientBoostingRegressor(
                    max_iter=STEPS, min_samples_leaf=FEWEST_IN_A_LEAF, categorical_features=[0], random_state=0
                )
                with threadpool_limits(ONE_THREAD):
                    self._models.append(model.fit(x, rewards[:, part]))

    def guess(self, choices: Sequence[Choice]) -> Array:
        """(choices, PARTS); the mean of all rounds where there were too few to learn more."""
        if not self._models:
            return np.tile(self._means, (len(choices), 1))
        from threadpoolctl import threadpool_limits

        x = self._features(choices)
        with threadpool_limits(ONE_THREAD):
            guesses: Array = np.stack([model.predict(x) for model in self._models], axis=1)
        return np.maximum(guesses, [1.0, 1e-3])  # a round emits a token at least, and takes time

    def _features(self, choices: Sequence[Choice]) -> Array:
        return np.array([_features(context, plan, self._names) for context, plan in choices])


def _features(context: RoundContext, plan: Plan, names: Mapping[tuple[str, ...], int]) -> list[float]:
    shape = plan.shape
    tree = [shape.depth, shape.branching, min(shape.budget, plan.verify_budget), shape.least_confidence]
    known = excess_surprisal(context)
    excess = [known[name] for name in plan.drafters if name in known]
    return [
        float(names.get(plan.drafters, len(names))),
        *(map(float, tree) if plan.speculates else (0.0, 0.0, 0.0, 0.0)),
        float(plan.run),
        min(excess, default=UNKNOWN),
        context.temperature,
        float(context.round == 0),
        float(context.prompt_tokens),
        float(context.requests_in_flight),
    ]


def cross_fitted(
    rounds: Sequence[LoggedRound], choices: Sequence[Sequence[Choice]], *, before: Sequence[LoggedRound] = ()
) -> list[Array]:
    """Guesses for choices made in these rounds, each by a model that has not seen the round's request.

    Args:
        rounds: What was done.
        choices: Lists of what might have been done: so many choices for each round, round by round.
        before: Rounds of other requests, to be learnt from as well.

    Returns:
        For each list (its length, PARTS).
    """
    model_of = held_apart(rounds, before=before)
    requests = [entry.request_id for entry in rounds]
    return [
        guessed(model_of, [request for request in requests for _ in range(len(listed) // len(rounds))], listed)
        for listed in choices
    ]


def held_apart(rounds: Sequence[LoggedRound], *, before: Sequence[LoggedRound] = ()) -> Mapping[str, RoundModel]:
    """For each request a model that has not seen it; `before` are rounds of other requests, to learn from as well."""
    fold_of: dict[str, int] = {}
    for entry in rounds:
        fold_of.setdefault(entry.request_id, len(fold_of) % FOLDS)
    models = []
    for fold in range(min(FOLDS, len(fold_of))):
        seen = [*before, *(entry for entry in rounds if fold_of[entry.request_id] != fold)]
        models.append(RoundModel(seen, rewards_of(seen)))
    return {request: models[fold] for request, fold in fold_of.items()}


def guessed(model_of: Mapping[str, RoundModel], requests: Sequence[str], choices: Sequence[Choice]) -> Array:
    """(choices, PARTS) guesses by the models of the requests that they were made for, one request for each choice."""
    places: dict[RoundModel, list[int]] = {}
    for place, request in enumerate(requests):
        places.setdefault(model_of[request], []).append(place)
    results = np.zeros((len(choices), len(PARTS)))
    for model, own in places.items():
        results[own] = model.guess([choices[place] for place in own])
    return results
