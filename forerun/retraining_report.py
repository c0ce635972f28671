"""What a trial of a model looks like: tables for people, Markdown and plots for the file, values for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from forerun.markdown import markdown
from forerun.retraining import Trial
from router_models.offline.estimators import Estimate
from router_models.offline.evaluation import Contender

METHODS = {
    "ips": "inverse propensity",
    "snips": "self-normalised",
    "dm": "model alone",
    "dr": "doubly robust",
}
MS_PER_S = 1000.0


def as_values(trial: Trial) -> Mapping[str, Any]:
    """For `--json`."""
    cut = trial.split
    return {
        "policy": trial.policy,
        "candidate": trial.candidate,
        "incumbent": trial.incumbent,
        "wins": trial.evaluation.wins,
        "objection": trial.evaluation.objection,
        "remarks": trial.remarks,
        "taught": {"requests": _requests(cut.taught), "rounds": len(cut.taught_rounds), "until_ms": cut.cut_ms},
        "evaluation": trial.evaluation,
    }


def tables(trial: Trial) -> Sequence[Table]:
    """What would be gained, what is predicted, and who drafts what."""
    replayed = (_replay(trial),) if trial.evaluation.replay.answers else ()
    return (_speeds(trial), *replayed, _expectation(trial), _drafters(trial))


def write(trial: Trial, folder: Path) -> None:
    """The tables as Markdown, with plots beside them; the trial has a learning curve."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation, cut = trial.evaluation, trial.split
    verdict = f"It does not win: {evaluation.objection}." if evaluation.objection else "It wins."
    parts = [
        f"# {trial.candidate} of {trial.policy} against {trial.incumbent}",
        f"Learnt from {_requests(cut.taught)} requests ({len(cut.taught_rounds)} rounds), tested on the "
        f"{evaluation.requests} that came after them ({evaluation.rounds} rounds, of which "
        f"{evaluation.weighed_rounds} can be weighed). {verdict}",
        *trial.remarks,
        *map(markdown, tables(trial)),
        "![Speeds with their intervals](estimates.svg)",
        "![Chances given, and what came of them](calibration.svg)",
        "![What more of the log brings](learning.svg)",
    ]
    (folder / "report.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _draw(trial, folder)


def _requests(lessons: Sequence[Any]) -> int:
    return len({lesson.request_id for lesson in lessons})


def _contenders(trial: Trial) -> Mapping[str, Contender]:
    return {trial.candidate: trial.evaluation.candidate, trial.incumbent: trial.evaluation.incumbent}


def _speeds(trial: Trial) -> Table:
    evaluation = trial.evaluation
    gain = f"{evaluation.gain:.3f} ({evaluation.gain_low:.3f} to {evaluation.gain_high:.3f})"
    table = Table(box=None, header_style="dim", title=f"tokens a second on held-out rounds; gain {gain}")
    for heading in ("", *METHODS.values(), "effective rounds", "mean weight"):
        table.add_column(heading)
    for name, contender in _contenders(trial).items():
        speeds = [_speed(contender.estimates[method]) for method in METHODS]
        table.add_row(name, *speeds, f"{contender.effective_rounds:.0f}", f"{contender.mean_weight:.2f}")
    logged = _speed(evaluation.logged)
    table.add_row("what was served", *[""] * 3, logged, str(evaluation.weighed_rounds), "1.00")
    return table


def _replay(trial: Trial) -> Table:
    replay = trial.evaluation.replay
    gain = f"{replay.gain:.3f} ({replay.gain_low:.3f} to {replay.gain_high:.3f})"
    agreed = f"scores agree with {replay.agreed_rounds} of {replay.checked_rounds} logged rounds"
    title = f"tokens a second, replayed on {replay.answers} scored answers ({agreed}); gain {gain}"
    table = Table(box=None, header_style="dim", title=title)
    for heading in ("", "replayed", "tokens a round", "rounds", "certain"):
        table.add_column(heading)
    for name, one in ((trial.candidate, replay.candidate), (trial.incumbent, replay.incumbent)):
        certain = f"{1.0 - one.doubtful_rounds / one.rounds:.1%}"
        table.add_row(name, _speed(one.estimate), f"{one.estimate.tokens:.2f}", str(one.rounds), certain)
    for name, estimate in (("what was served, by model", replay.modelled), ("what was served", replay.served)):
        table.add_row(name, _speed(estimate), f"{estimate.tokens:.2f}", str(replay.served_rounds), "")
    return table


def _speed(estimate: Estimate) -> str:
    ends = f"{MS_PER_S * estimate.low:.1f} to {MS_PER_S * estimate.high:.1f}"
    return f"{MS_PER_S * estimate.tokens_per_ms:.1f} ({ends})"


def _expectation(trial: Trial) -> Table:
    table = Table(box=None, header_style="dim", title="what was predicted of held-out rounds")
    for heading in ("", "log-likelihood a token", "error, accepted tokens", "error, time", "log-likelihood a node"):
        table.add_column(heading)
    for name, contender in _contenders(trial).items():
        known = contender.predicted
        if known is not None:
            table.add_row(
                name,
                f"{known.accepted_log_likelihood:.4f}",
                f"{known.accepted_error:.2f}",
                f"{known.ms_error:.1%}",
                f"{known.confidence_log_likelihood:.4f}",
            )
    return table


def _drafters(trial: Trial) -> Table:
    table = Table(box=None, header_style="dim", title=f"who would draft under {trial.candidate}")
    for heading in ("task", "drafters"):
        table.add_column(heading)
    for kind, shares in trial.evaluation.candidate.choices.items():
        table.add_row(kind, ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.005))
    return table


def _draw(trial: Trial, folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")  # no window, wherever this runs
    from matplotlib import pyplot

    for draw, name in (
        (_draw_estimates, "estimates"),
        (_draw_calibration, "calibration"),
        (_draw_learning, "learning"),
    ):
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        draw(trial, axes)
        figure.savefig(folder / f"{name}.svg")
        pyplot.close(figure)


def _draw_estimates(trial: Trial, axes: Any) -> None:
    replay = trial.evaluation.replay
    methods = [*METHODS.values(), *(["replayed"] if replay.answers else [])]
    by_replay = (replay.candidate.estimate, replay.incumbent.estimate)
    for number, (name, contender) in enumerate(_contenders(trial).items()):
        estimates = [*(contender.estimates[method] for method in METHODS), by_replay[number]][: len(methods)]
        middle = [MS_PER_S * one.tokens_per_ms for one in estimates]
        below = [max(MS_PER_S * (one.tokens_per_ms - one.low), 0.0) for one in estimates]
        above = [max(MS_PER_S * (one.high - one.tokens_per_ms), 0.0) for one in estimates]
        places = [place + 0.15 * number for place in range(len(methods))]
        axes.errorbar(places, middle, yerr=(below, above), fmt="o", capsize=4, label=name)
    axes.axhline(MS_PER_S * trial.evaluation.logged.tokens_per_ms, color="grey", linestyle=":", label="what was served")
    axes.set_xticks(range(len(methods)), methods)
    axes.set_ylabel("tokens a second, 90% interval")
    axes.legend(fontsize="small")


def _draw_calibration(trial: Trial, axes: Any) -> None:
    axes.plot((0, 1), (0, 1), color="grey", linestyle=":")
    for name, contender in _contenders(trial).items():
        if contender.predicted is not None:
            _, chances, agreed = zip(*contender.predicted.reliability, strict=True)
            axes.plot(chances, agreed, marker="o", label=name)
    axes.set_xlabel("chance that the drafter's node was given")
    axes.set_ylabel("share in which the target agreed")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def _draw_learning(trial: Trial, axes: Any) -> None:
    assert trial.curve is not None
    axes.plot(trial.curve.requests, [point.accepted_log_likelihood for point in trial.curve.predicted], marker="o")
    axes.set_xscale("symlog")
    axes.set_xlabel("requests learnt from")
    axes.set_ylabel("log-likelihood a token, held out")
