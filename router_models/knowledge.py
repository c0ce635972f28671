"""All that the planner has learnt, in one place that can be written down and taken up again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from router_models.acceptance_model import AcceptanceModel
from router_models.ahead_model import AheadModel
from router_models.calibration_model import BINS, CalibrationModel
from router_models.contexts import KIND, Key, Path, Paths, field_of, is_of_a_request, kind_of, path_of, paths_of
from router_models.cost_model import CostModel
from router_models.drift import Drift
from router_models.forecast import Corrections, Forecaster, observe
from router_models.formulas import CLASS_ENDS
from router_models.homes import HomeModel
from router_models.model_state import ModelState
from router_models.plan import Plan
from router_models.policy import RoundContext, RoundOutcome, TextScores
from router_models.ranks import NUM_CLASSES, Counts, count_ranks, no_counts
from router_models.reading import MOST_REQUESTS
from router_models.recent import Recent
from router_models.reticence import Prospect, ReticenceModel
from router_models.turns import STRAIGHT, Turn
from speculation.calibration import UNCALIBRATED
from speculation.errors import InvalidModelStateError
from speculation.tree import TreeShape

OPENING = 32
"""Tokens of an answer by which drift is judged: further on an answer may turn to something that its drafter never was
good at, which is no news about the drafter (docs/log.md, "A drafter that turns bad")."""

SCORE_WEIGHT = 0.25
"""Of a scored token against one that was drafted for: the tokens of one answer are alike, and a whole answer at once
would push aside what others have said (docs/log.md, "Scores of idle drafters")."""

MOST_FIELDS = 512
"""Subjects of drafters that are told apart at once: a caller's task may be any text."""

Value = TypeVar("Value")


class Knowledge:
    """Acceptance, calibration, corrections and costs.

    Attributes:
        acceptance: At which of a drafter's candidates the target's token is found, by context.
        calibrations: What a drafter's confidence is worth.
        costs: What a round costs.
        ahead: What of it drafting ahead saves.
        homes: Whose kind of text a prompt is.
        reticence: Of drafters that say nothing where they are unsure.
    """

    def __init__(self, forecaster: Forecaster) -> None:
        self.acceptance = AcceptanceModel()
        self.calibrations = CalibrationModel()
        self.costs = CostModel()
        self.ahead = AheadModel()
        self.homes = HomeModel()
        self.reticence = ReticenceModel(forecaster.shapes, most=MOST_FIELDS)
        self._forecaster = forecaster
        self._corrections: dict[Key, Corrections] = {}
        self._corrections_by_field: Recent[Key, Corrections] = Recent(MOST_FIELDS)
        self._corrections_given = 0
        self._found: Recent[Key, tuple[Paths, int, Sequence[Corrections]]] = Recent(MOST_FIELDS)
        self._drifts: dict[Key, Drift] = {}
        self._turns: Recent[str, Turn] = Recent(MOST_REQUESTS)

    def paths(self, context: RoundContext) -> Paths:
        """Of every drafter on offer: in which company it is seen."""
        return paths_of(context, self._home(context), self.turn(context))

    def path(self, context: RoundContext, drafter: str) -> Path:
        """Of one."""
        return path_of(context, drafter, self._home(context), self.turn(context))

    def _path_by_prompt(self, context: RoundContext, drafter: str) -> Path:
        """As if its answer had not turned."""
        return path_of(context, drafter, self._home(context))

    def _home(self, context: RoundContext) -> str:
        return self.homes.home(context.request_id, context.prompt_surprisal)

    def corrections_on(self, paths: Paths) -> Sequence[Corrections]:
        """Of each path's drafter and subject, looked up again only where there is a new one, or one was forgotten."""
        request = paths[0][-1]
        found = self._found.get(request)
        if found is None or found[0] is not paths or found[1] != self._corrections_given:
            corrections = [self.corrections(field_of(path)) for path in paths]
            found = self._found.put(request, (paths, self._corrections_given, corrections))
        return found[2]

    def corrections(self, field: Key) -> Corrections:
        """Of forecasts for one drafter, sampled or greedy, on one subject."""
        known = self._corrections_by_field.get(field)
        if known is not None:
            return known
        self._corrections_given += 1
        above = self._corrections_of_kind(field[:KIND])
        return self._corrections_by_field.put(field, Corrections(len(self._forecaster.shapes), above))

    def _corrections_of_kind(self, kind: Key) -> Corrections:
        if kind not in self._corrections:
            self._corrections[kind] = Corrections(len(self._forecaster.shapes))
        return self._corrections[kind]

    def prospects(self, context: RoundContext) -> Mapping[int, Prospect]:
        """Of the reticent among the drafters on offer, by their places there."""
        reticence = self.reticence
        if reticence.drafters.isdisjoint(context.drafters):
            return {}
        return {
            place: reticence.prospect(field_of(path))
            for place, (drafter, path) in enumerate(zip(context.drafters, self.paths(context), strict=True))
            if drafter in reticence.drafters
        }

    def learn_within_request(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Take in what a round says about its own request."""
        self._forget_turns_before(context)
        paths = {drafter: self.path(context, drafter) for drafter in outcome.drafts}
        for drafter, tree in outcome.drafts.items():
            counts, path = count_ranks(tree, outcome.verdict.token_ids, plan.shape), paths[drafter]
            self._follow_turns(context, drafter, path, counts)
            self.acceptance.learn(path[-1:], counts)

    def turn(self, context: RoundContext) -> Turn:
        """Where the request's answer stands."""
        return self._turns.get(context.request_id, STRAIGHT) if context.round else STRAIGHT

    def _forget_turns_before(self, context: RoundContext) -> None:
        """A request begins anew with round 0, whoever had its name before."""
        if not context.round:
            self._turns.pop(context.request_id, None)

    def _follow_turns(self, context: RoundContext, drafter: str, path: Path, counts: Counts) -> None:
        believed = self.acceptance.first_mean(path)
        turn = self.turn(context).seen(drafter, float(counts[0, 0]), float(counts[1, 0]), believed)
        self._turns.put(context.request_id, turn)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome, *, unread: int) -> None:
        """Take in a round; `unread` are the tokens that its drafter had to read first."""
        self._forget_turns_before(context)
        self.costs.learn(plan, outcome, unread=unread, beside=context.requests_in_flight - 1)
        self.ahead.learn(context, plan, outcome)
        if context.round == 0:
            self.homes.learn(context.prompt_surprisal)
        for silence in outcome.silences:
            self.reticence.silent(field_of(self.path(context, silence.drafter)), silence.least_confidence)
        emitted = outcome.verdict.token_ids
        paths = {drafter: self.path(context, drafter) for drafter in outcome.drafts}
        for drafter, tree in outcome.drafts.items():
            kind, path = kind_of(context, drafter), paths[drafter]
            self.calibrations.learn(kind, tree, emitted, plan.calibrations.get(drafter, UNCALIBRATED))
            known, observed = observe(self._forecaster.shapes, plan.shape, tree, emitted)
            if drafter in self.reticence.drafters and len(tree):
                known &= self.reticence.spoke(field_of(path), tree, known, observed)
            if known.any():
                forecast = self._forecaster.forecast(self.acceptance.mean(path)).stacked()
                field = field_of(path)
                for corrections in (self._corrections_of_kind(kind), self.corrections(field)):
                    corrections.learn(known, observed, forecast)
                self._corrections_by_field.move_to_end(field)
            counts = count_ranks(tree, emitted, plan.shape)
            self._watch(context, drafter, counts)
            self._follow_turns(context, drafter, path, counts)
            self.acceptance.learn(path, counts)

    def _watch(self, context: RoundContext, drafter: str, counts: Counts) -> None:
        """Go by the last two requests where a drafter does much worse or better than was believed of it."""
        if context.emitted_tokens >= OPENING:
            return
        path = self._path_by_prompt(context, drafter)
        company, believed = path[1], self.acceptance.first_mean(path[:-1])
        drift = self._drifts.setdefault(company, Drift())
        if drift.noticed(float(counts[0, 0]), float(counts[1, 0]), believed, request=path[-1]):
            drift.forget()
            self.acceptance.start_again(lambda key: key[: len(company)] == company, requests=drift.requests)
            self._forget_corrections(kind_of(context, drafter))

    def _forget_corrections(self, kind: Key) -> None:
        self._corrections.pop(kind, None)
        self._corrections_given += 1
        for field in [field for field in self._corrections_by_field if field[:KIND] == kind]:
            del self._corrections_by_field[field]

    def learn_scores(self, context: RoundContext, scores: Mapping[str, TextScores]) -> None:
        """Every token of a finished answer is a rank that its drafter would have had to find.

        Of one that is silent at times the scores do not tell where it would have been: it is tried for a message.
        """
        for drafter, scored in scores.items():
            if drafter in self.reticence.drafters:
                continue
            self.acceptance.learn(self._path_by_prompt(context, drafter)[:-1], SCORE_WEIGHT * _counts_of(scored.ranks))

    def state(self, policy: str) -> ModelState:
        """All of it but what is known of single requests."""
        counts = {key: value for key, value in self.acceptance.state().items() if not is_of_a_request(key)}
        tables: dict[str, dict[Any, NDArray[Any]]] = {
            "acceptance": counts,
            "calibration": dict(self.calibrations.state()),
            "corrections": {
                key: learnt.sums
                for table in (self._corrections, self._corrections_by_field)
                for key, learnt in table.items()
                if learnt.sums.any()
            },
            "ahead": dict(self.ahead.state()),
            "homes": dict(sorted(self.homes.sums.items())),
            "reticence": dict(self.reticence.sums),
            "draft_costs": {
                (name, crowd): cost.state
                for name, by_crowd in self.costs.drafts.items()
                for crowd, cost in by_crowd.learnt.items()
            },
            "verify_costs": {crowd: cost.state for crowd, cost in self.costs.verify.learnt.items()},
            "run_costs": {crowd: cost.state for crowd, cost in self.costs.plain.learnt.items()},
            "company": dict(self.costs.company.sums),
        }
        arrays = {name: np.array(list(table.values())) for name, table in tables.items() if table}
        labels = {name: [_label(key) for key in table] for name, table in tables.items()}
        arrays["other_costs"] = self.costs.rest.state
        shapes = [_shape_label(shape) for shape in self._forecaster.shapes]
        return ModelState(policy=policy, arrays=arrays, labels={**labels, "shapes": shapes})

    @classmethod
    def of(cls, state: ModelState, forecaster: Forecaster) -> "Knowledge":
        """The knowledge in a state. Corrections of another menu are left behind.

        Raises:
            InvalidModelStateError: The state does not fit.
        """
        try:
            return cls._read(state, forecaster)
        except (KeyError, ValueError, TypeError, IndexError, np.linalg.LinAlgError) as error:
            raise InvalidModelStateError(f"does not fit this release: {error}") from error

    @classmethod
    def _read(cls, state: ModelState, forecaster: Forecaster) -> "Knowledge":
        knowledge = cls(forecaster)
        knowledge.acceptance.restore(_table(state, "acceptance", (2, NUM_CLASSES), _key))
        knowledge.calibrations.restore(_table(state, "calibration", (3, BINS), _key))
        knowledge.ahead.restore(_table(state, "ahead", (2,), _key))
        knowledge.homes.sums = _table(state, "homes", (2,), str)
        shapes = [_shape_label(shape) for shape in forecaster.shapes]
        if state.labels["shapes"] == shapes:
            # Those of all subjects come first: the others stand on them.
            for key, sums in _table(state, "corrections", (2, len(shapes), 3), _key).items():
                of = knowledge._corrections_of_kind if len(key) == KIND else knowledge.corrections
                of(key).restore(sums)
            if "reticence" in state.labels:  # unknown to those who learnt before drafters could be silent
                knowledge.reticence.restore(_table(state, "reticence", (len(shapes), 6), _key))
        for (name, crowd), sums in _table(state, "draft_costs", (4, 5), _key).items():
            knowledge.costs.of_drafter(str(name)).of(int(str(crowd))).restore(sums)
        for crowd, sums in _table(state, "verify_costs", (3, 4), int).items():
            knowledge.costs.verify.of(crowd).restore(sums)
        if "run_costs" in state.labels:  # unknown to those who learnt before nodes beside a run were counted
            for crowd, sums in _table(state, "run_costs", (4, 5), int).items():
                knowledge.costs.plain.of(crowd).restore(sums)
        knowledge.costs.company.sums = _table(state, "company", (5,), int)
        knowledge.costs.rest.restore(state.arrays["other_costs"])
        return knowledge

    def keep_what_is_at_hand(self, other: "Knowledge") -> None:
        """Take over what another one knows of single requests, and of the workers that serve."""
        self.costs.guess_as(other.costs)
        of_requests = {key: value for key, value in other.acceptance.state().items() if is_of_a_request(key)}
        # Requests first: what is used longest ago is forgotten first, and most of them have ended.
        self.acceptance.restore({**of_requests, **self.acceptance.state()})
        self.ahead.keep_requests_of(other.ahead)
        self.homes.keep_requests_of(other.homes)
        self._turns = other._turns


def _counts_of(ranks: Sequence[int]) -> Counts:
    """Trials and hits of teacher-forced ranks: every class is searched until the token is found."""
    counts = no_counts()
    for rank in ranks:
        for number, end in enumerate(CLASS_ENDS):
            counts[1, number] += 1
            if rank <= end:
                counts[0, number] += 1
                break
    return counts


def _table(
    state: ModelState, name: str, shape: tuple[int, ...], key: Callable[[Any], Value]
) -> dict[Value, NDArray[np.float64]]:
    """One labelled array of a state, by key."""
    labels = state.labels[name]
    values = state.arrays[name] if labels else np.zeros((0, *shape))
    if values.shape != (len(labels), *shape):
        raise ValueError(f"{name} has shape {values.shape}, not {(len(labels), *shape)}")
    return {key(label): np.array(value, dtype=np.float64) for label, value in zip(labels, values, strict=True)}


def _label(key: Any) -> Any:
    return list(key) if isinstance(key, tuple) else key


def _key(label: Sequence[Any]) -> Key:
    return tuple(label)


def _shape_label(shape: TreeShape) -> list[float]:
    return [shape.depth, shape.branching, shape.budget, shape.least_confidence]
