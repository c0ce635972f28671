"""A fresh start from a log.

What an online policy learns offline is what it would have learnt online: the log's lessons, in their order. Batch fits
in place of its counts (costs and calibrations by regression over all of the log, counts that do not forget, a second
pass) predict held-out rounds no better than to the third digit (docs/decisions/0012-retraining.md), so there are none.
A policy that learns nothing online is fitted as a whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from router_models.baselines import task_classifier
from router_models.model_state import ModelState
from router_models.offline.evaluation import Prediction, predicted
from router_models.offline.logged import LoggedLesson, LoggedRound, rounds_of
from router_models.offline.round_model import RoundModel, rewards_of
from router_models.plan import CHAIN_OF_4, Plan, no_speculation
from router_models.policy import LearningPolicy, RoundContext

Step = Callable[[], None]


def taught(policy: LearningPolicy, lessons: Sequence[LoggedLesson], *, step: Step = lambda: None) -> LearningPolicy:
    """The policy, after the lessons of a log in their order; it serves no request.

    Args:
        policy: One that has learnt nothing, or what it goes on from.
        lessons: In the order of the log.
        step: Called after each lesson.

    Raises:
        ValueError: There is nothing in them that this policy could learn from.
    """
    fit = _FITS.get(policy.name)
    if fit is not None:
        policy.restore(fit(rounds_of(lessons)))
    for lesson in lessons:
        lesson.teach(policy)
        step()
    return policy


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """How well held-out rounds are predicted after so many requests.

    Attributes:
        requests: Taught.
        predicted: After each number of them.
    """

    requests: tuple[int, ...]
    predicted: tuple[Prediction, ...]


POINTS = 6
"""Of a learning curve, beside the one for having learnt nothing."""


def learning_curve(
    policy: LearningPolicy, lessons: Sequence[LoggedLesson], held_out: Sequence[LoggedRound], *, step: Step
) -> LearningCurve:
    """What more of the log brings: a policy that has learnt nothing is taught, and asked at about doubling distances.

    Empty for a policy that predicts nothing.
    """
    places = np.unique(np.geomspace(1, max(len(lessons), 1), POINTS).astype(np.int64))
    requests: list[int] = []
    points: list[Prediction] = []
    done = 0
    for place in [0, *places.tolist()]:
        for lesson in lessons[done:place]:
            lesson.teach(policy)
        done = place
        known = predicted(policy, held_out)
        if known is not None:
            requests.append(len({lesson.request_id for lesson in lessons[:place]}))
            points.append(known)
        step()
    return LearningCurve(requests=tuple(requests), predicted=tuple(points))


def _task_classifier(rounds: Sequence[LoggedRound]) -> ModelState:
    """Each request's best drafter by what its rounds would have brought with every one, in the words of a RoundModel:
    a request is served by few of them, so it must be told what the others would have done."""
    first = {entry.request_id: entry.context for entry in reversed(rounds)}
    drafters = sorted({name for context in first.values() for name in context.drafters})
    model = RoundModel(rounds, rewards_of(rounds))
    rows = [task_classifier.prompt_features(context, drafters) for context in first.values()]
    return task_classifier.train(np.array(rows), [_best(model, context) for context in first.values()], drafters)


def _best(model: RoundModel, context: RoundContext) -> str:
    """The drafter that brings most tokens a millisecond, or plain decoding."""
    later = replace(context, round=1)  # the first round also reads the prompt, whoever drafts
    plans: list[Plan] = [no_speculation("")]
    plans += [Plan(drafters=(name,), shape=CHAIN_OF_4, explanation="") for name in context.drafters]
    tokens, ms = model.guess([(later, plan) for plan in plans]).T
    drafters = plans[int((tokens / ms).argmax())].drafters
    return drafters[0] if drafters else task_classifier.PLAIN_DECODING


_FITS: Mapping[str, Callable[[Sequence[LoggedRound]], ModelState]] = {task_classifier.NAME: _task_classifier}
"""Of policies that learn nothing online, from the rounds of a log."""
