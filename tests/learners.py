"""A policy that counts what it is taught: the plainest learner, and the one that notices every slip."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from router_models.model_state import ModelState
from router_models.plan import Plan, no_speculation
from router_models.policy import Policy, RoundContext, RoundOutcome, TextScores
from speculation.errors import InvalidModelStateError


class CountingPolicy(Policy):
    """Remembers how often it was taught each round and each drafter's scores, and by a hash what and in which order.

    Attributes:
        learns_across_requests: As in LearningPolicy.
        times: Of each round, and of each drafter's scores of an answer: how often it was taught.
        taught_in_request: Calls of `learn` while nothing was to be learnt across requests.
    """

    def __init__(self) -> None:
        self.learns_across_requests = True
        self.times: Counter[str] = Counter()
        self.taught_in_request = 0
        self._digest = ""

    @property
    def name(self) -> str:
        return "counting"

    @property
    def count(self) -> int:
        return self.times.total()

    def plan(self, context: RoundContext) -> Plan:
        if not context.drafters:
            return no_speculation("no drafter is on offer")
        shape = {} if context.pinned_shape is None else {"shape": context.pinned_shape}
        return Plan(drafters=context.drafters[:1], explanation=f"{self.count} rounds counted", **shape)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        if not self.learns_across_requests:
            self.taught_in_request += 1
            return
        self.times[f"{context.request_id}/{context.round}"] += 1
        what = (self._digest, context, replace(plan, explanation="", model_version=""), outcome)
        self._digest = hashlib.sha256(repr(canonical(what)).encode()).hexdigest()

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        if self.learns_across_requests:
            self.times.update(f"{context.request_id}/{drafter}" for drafter in scores)
            self._digest = hashlib.sha256(repr(canonical((self._digest, context, scores))).encode()).hexdigest()

    def state(self) -> ModelState:
        count = np.array([self.count])
        return ModelState(policy=self.name, arrays={"count": count}, labels={"times": self.times, "of": self._digest})

    def restore(self, state: ModelState) -> None:
        if state.policy != self.name or "count" not in state.arrays:
            raise InvalidModelStateError(f"is of {state.policy}")
        self.times, self._digest = Counter(state.labels["times"]), str(state.labels["of"])


def canonical(value: Any) -> Any:
    """Equal values, as one and the same: a mapping is a mapping, in whatever order it was filled."""
    if isinstance(value, Mapping):
        return sorted((key, canonical(entry)) for key, entry in value.items())
    if isinstance(value, tuple):
        return [canonical(entry) for entry in value]
    if is_dataclass(value):
        return [(field.name, canonical(getattr(value, field.name))) for field in fields(value)]
    return value
