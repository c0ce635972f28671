"""TaskSpec: tell the task from the prompt, and send it to the drafter made for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router_models.baselines.arms import nothing_on_offer
from router_models.baselines.features import capped_surprisal
from router_models.model_state import ModelState
from router_models.plan import CHAIN_OF_4, Plan, no_speculation
from router_models.policy import LearningPolicy, RoundContext
from speculation.errors import InvalidModelStateError
from speculation.tree import TreeShape

NAME = "task-classifier"

LABEL_BUCKETS = 16
"""Places into which task labels are hashed, and as many for tenants."""

MOST_SURPRISAL = 4.0
"""Nats per token above the least surprised drafter; more is no worse."""

PLAIN_DECODING = ""
"""The class of prompts that no drafter makes faster."""

Array = NDArray[np.float64]


def prompt_features(context: RoundContext, drafters: Sequence[str]) -> Array:
    """(2 * drafters + 2 * LABEL_BUCKETS + 2,): what a request shows before its first token.

    For each drafter its surprisal above the least surprised one and whether it is known, then the task's and the
    tenant's bucket, the logarithm of the prompt's length, and the temperature.
    """
    excess = capped_surprisal(context, drafters, MOST_SURPRISAL)
    known = [float(name in context.prompt_surprisal) for name in drafters]
    labels = np.zeros((2, LABEL_BUCKETS))
    for row, label in enumerate((context.task, context.tenant)):
        if label:
            labels[row, crc32(label.encode(errors="surrogatepass")) % LABEL_BUCKETS] = 1.0
    request = [np.log2(context.prompt_tokens) / 8, context.temperature]
    return np.concatenate((excess, known, labels.ravel(), request))


def train(rows: Array, best: Sequence[str], drafters: Sequence[str]) -> ModelState:
    """A multinomial logistic regression of the best drafter on the prompt.

    Args:
        rows: (requests, features), `prompt_features` of logged requests.
        best: (requests,), the drafter that served each fastest, or PLAIN_DECODING.
        drafters: The drafters that the features are about, in their order.

    Raises:
        ValueError: Fewer than two different drafters were best: there is nothing to tell apart.
    """
    # Here and not above: the library takes a second to load, and serving does not need it.
    from sklearn.linear_model import LogisticRegression

    classes = sorted(set(best))
    if len(classes) < 2:
        raise ValueError(f"all {len(best)} requests have the same best drafter; a classifier needs at least two")
    fitted = LogisticRegression(max_iter=1000).fit(rows, best)
    weights, intercepts = fitted.coef_, fitted.intercept_
    if len(classes) == 2:  # the library then keeps only the second class's row
        weights, intercepts = np.vstack((-weights, weights)) / 2, np.append(-intercepts, intercepts) / 2
    return ModelState(
        policy=NAME,
        arrays={"weights": weights, "intercepts": intercepts},
        labels={"classes": [str(name) for name in fitted.classes_], "drafters": list(drafters)},
    )


@dataclass(frozen=True, slots=True)
class _Model:
    """Plain weights: (classes, features) and (classes,)."""

    classes: tuple[str, ...]
    drafters: tuple[str, ...]
    weights: Array
    intercepts: Array

    def best(self, context: RoundContext) -> str | None:
        """The likeliest class that can be had now; None if no drafter on offer is known."""
        on_offer = [number for number, name in enumerate(self.classes) if name in context.drafters]
        if not on_offer:
            return None
        scores = self.weights @ prompt_features(context, self.drafters) + self.intercepts
        allowed = [number for number, name in enumerate(self.classes) if number in on_offer or name == PLAIN_DECODING]
        return self.classes[max(allowed, key=lambda number: float(scores[number]))]


_UNTRAINED = _Model((), (), np.zeros((0, 2 * LABEL_BUCKETS + 2)), np.zeros(0))


class TaskClassifierPolicy(LearningPolicy):
    """One drafter for each request, by a classifier of prompts that was trained from the logs.

    Source: TaskSpec, Ge et al. 2025, arXiv:2505.08600: each prompt is classified once, and the drafter of its class
    serves all of it. The paper clusters sentence embeddings and trains a drafter for each cluster; here the drafters
    are given, a class is the drafter that was fastest, and the features are what a router sees without another model.
    Nothing is learnt while serving. Untrained it takes the drafter that is named like the request's task, else the one
    whose surprisal at the prompt is least, else the first.

    Args:
        shape: The tree that every drafter drafts, unless the request pins one.
    """

    name = NAME

    def __init__(self, *, shape: TreeShape = CHAIN_OF_4) -> None:
        self.learns_across_requests = True
        self._shape = shape
        self._model = _UNTRAINED

    def plan(self, context: RoundContext) -> Plan:
        """The same drafter in every round, since the prompt does not change."""
        if not context.drafters:
            return nothing_on_offer()
        predicted = self._model.best(context)
        if predicted == PLAIN_DECODING:
            return no_speculation("such prompts were fastest without drafts")
        drafter, why = (predicted, "such prompts were served fastest by it") if predicted else _by_rule(context)
        return Plan(drafters=(drafter,), shape=context.pinned_shape or self._shape, explanation=why)

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        """All on offer: surprisal is the best of the features."""
        return context.drafters

    def state(self) -> ModelState:
        """The weights, as `train` gives them."""
        model = self._model
        return ModelState(
            policy=self.name,
            arrays={"weights": model.weights, "intercepts": model.intercepts},
            labels={"classes": list(model.classes), "drafters": list(model.drafters)},
        )

    def restore(self, state: ModelState) -> None:
        """Predict with the weights of a state."""
        if state.policy != self.name:
            raise InvalidModelStateError(f"is of policy {state.policy!r}, not {self.name!r}")
        try:
            classes, drafters = (tuple(map(str, state.labels[name])) for name in ("classes", "drafters"))
            weights, intercepts = state.arrays["weights"], state.arrays["intercepts"]
        except (KeyError, TypeError) as error:
            raise InvalidModelStateError(f"lacks a part of the classifier: {error}") from error
        wanted = (len(classes), 2 * len(drafters) + 2 * LABEL_BUCKETS + 2)
        if weights.shape != wanted or intercepts.shape != wanted[:1]:
            raise InvalidModelStateError(f"its classes and drafters need {wanted} weights; it has {weights.shape}")
        self._model = _Model(classes, drafters, weights, intercepts)


def _by_rule(context: RoundContext) -> tuple[str, str]:
    """A drafter and why, without a model."""
    if context.task in context.drafters:
        return context.task, "it is named like the task"
    known = [name for name in context.drafters if name in context.prompt_surprisal]
    if known:
        return min(known, key=lambda name: context.prompt_surprisal[name]), "the prompt surprised it least"
    return context.drafters[0], "the first drafter on offer"
