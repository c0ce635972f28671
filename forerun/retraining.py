"""Retraining, step by step: read a log, learn from its earlier part, put the model on trial with the later one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from controller.log_folder import Manifest
from controller.logged_history import LoggedHistory, read_log
from controller.model_store import ModelStore, ModelVersion, Origin
from forerun.progress import steps
from router_models.model_state import ModelState
from router_models.offline.evaluation import LEAST_EVIDENCE, Evaluation, evaluate
from router_models.offline.logged import Split, rounds_of, split_by_time
from router_models.offline.replay import Replay
from router_models.offline.training import POINTS, LearningCurve, learning_curve, taught
from router_models.policy import LearningPolicy
from speculation.errors import InvalidLogError, UnknownNameError

Make = Callable[[], LearningPolicy]
"""Makes a policy that has learnt nothing."""

NOTHING = "a router that has learnt nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A version, or what may become one.

    Attributes:
        number: Of the version; 0 if it is none yet, or a router that has learnt nothing.
        state: What it has learnt; None for nothing.
        learnt_until_ms: It has learnt from nothing later; Unix time.
    """

    number: int = 0
    state: ModelState | None = None
    learnt_until_ms: int = 0

    def __str__(self) -> str:
        return f"version {self.number}" if self.number else NOTHING

    def policy(self, make: Make) -> LearningPolicy:
        """A policy that goes on from it."""
        policy = make()
        if self.state is not None:
            policy.restore(self.state)
        return policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A model, held against the one in charge on what neither of them should have seen.

    Attributes:
        policy: Whose model.
        candidate: The model in words.
        incumbent: What it was held against, in words.
        split: What was learnt from and what was tested on.
        evaluation: How it went.
        curve: What more of the log brings; None if nobody asked.
        remarks: What to know about it, a sentence each.
    """

    policy: str
    candidate: str
    incumbent: str
    split: Split
    evaluation: Evaluation
    curve: LearningCurve | None
    remarks: tuple[str, ...]


def read(folder: Path) -> LoggedHistory:
    """An exported log, with a bar.

    Raises:
        InvalidLogError: It cannot be trusted.
    """
    rows = sum(part.rows for part in Manifest.load(folder).parts.values())
    with steps("reading the log", rows) as step:
        return read_log(folder, step=step)


def split(history: LoggedHistory, hold_out: float) -> Split:
    """The log, cut; raises InvalidLogError if there is too little of it."""
    try:
        cut = split_by_time(history.lessons, hold_out=hold_out)
    except ValueError as error:
        raise InvalidLogError("the log", str(error)) from error
    if not cut.taught or not cut.held_out:
        raise InvalidLogError("the log", "holds too few requests to learn from some and test on others; serve more")
    return cut


def trained(make: Make, cut: Split) -> Trained:
    """What a policy that knows nothing learns from the earlier part.

    Raises:
        InvalidLogError: There is nothing in it for this policy.
    """
    with steps("learning", len(cut.taught)) as step:
        try:
            policy = taught(make(), cut.taught, step=step)
        except ValueError as error:
            raise InvalidLogError("the log", f"teaches {make().name} nothing: {error}") from error
    return Trained(state=policy.state(), learnt_until_ms=cut.cut_ms)


def tried(
    history: LoggedHistory, cut: Split, make: Make, candidate: Trained, incumbent: Trained, *, seed: int, curve: bool
) -> Trial:
    """Hold a candidate against an incumbent; `curve`: and see what more of the log brings."""
    with steps("on trial", 2 * len(cut.held_out)) as step:
        evaluation = evaluate(
            cut.held_out,
            candidate=candidate.policy(make),
            incumbent=incumbent.policy(make),
            before=rounds_of(cut.taught),
            scores=cut.held_out_scores,
            seed=seed,
            step=step,
        )
    seen = [one for one in (candidate, incumbent) if one.learnt_until_ms > cut.cut_ms]
    doubts = [f"{one} has learnt from some of what is held out here: it looks better than it is" for one in seen]
    if evaluation.incumbent.effective_rounds < LEAST_EVIDENCE:
        doubts.append(f"the log holds few choices of {incumbent}: its speed here is mostly the word of a model")
    doubts += _doubts_of_replay(evaluation.replay, evaluation.requests)
    return Trial(
        policy=make().name,
        candidate=str(candidate) if candidate.number else "the new model",
        incumbent=str(incumbent),
        split=cut,
        evaluation=evaluation,
        curve=_curve(make, cut) if curve else None,
        remarks=(*history.remarks, *doubts),
    )


def _doubts_of_replay(replay: Replay, requests: int) -> list[str]:
    """What keeps answers from being replayed, or replays from being believed."""
    if not replay.scored_answers:
        return [
            f"nothing is replayed: none of {requests} held-out answers was scored by every drafter that was on offer; "
            "set router.scoring_share above 0 (1 scores every answer), and let drafters be idle at times"
        ]
    if replay.answers < replay.scored_answers:
        return [
            f"{replay.scored_answers - replay.answers} scored answers are not replayed: several drafters at once were "
            "planned for them, and scores tell of each alone"
        ]
    return []


def _curve(make: Make, cut: Split) -> LearningCurve:
    with steps("learning curve", POINTS + 1) as step:
        return learning_curve(make(), cut.taught, cut.held_out, step=step)


async def in_charge(store: ModelStore) -> Trained:
    """The version in charge; nothing if none was ever promoted."""
    active = (await store.history()).active
    return await kept(store, active) if active else Trained()


async def kept(store: ModelStore, number: int) -> Trained:
    """A version.

    Raises:
        UnknownNameError: It is not kept.
        InvalidModelStateError: It is damaged.
    """
    versions = {version.version: version for version in (await store.history()).versions}
    if number not in versions:
        raise UnknownNameError("version", str(number), map(str, sorted(versions)))
    about = versions[number]
    until_ms = int(about.evaluation.get("learnt_until_ms", about.created_ms))
    return Trained(number=number, state=await store.load(number), learnt_until_ms=until_ms)


async def publish(
    store: ModelStore, candidate: Trained, incumbent: Trained, trial: Trial, *, promote: bool
) -> ModelVersion:
    """Keep a model that won as a version, and put it in charge if so desired.

    Raises:
        ConflictError: Another version was put in charge while this one was on trial.
    """
    assert candidate.state is not None
    evaluation = {**brief(trial), "learnt_until_ms": candidate.learnt_until_ms}
    version = await store.publish(
        candidate.state, origin=Origin.RETRAINED, parent=incumbent.number, evaluation=evaluation
    )
    if promote:
        await store.promote(version.version, replacing=incumbent.number)
    return version


def brief(trial: Trial) -> Mapping[str, float]:
    """What is kept of a trial beside its version."""
    evaluation = trial.evaluation
    return {
        "gain": round(evaluation.gain, 3),
        "gain_low": round(evaluation.gain_low, 3),
        "effective_rounds": round(evaluation.candidate.effective_rounds),
        "held_out_rounds": evaluation.rounds,
    }
