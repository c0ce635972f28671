"""What a comparison of policies looks like: a table of them, where the planner loses, and how they learn."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from bench.figures import Curves
from bench.router.measure import PLANNER, Comparison
from bench.router.replay import Served
from bench.router.traffic import PLAIN, Arm, cell_of
from forerun.console import PEOPLE
from forerun.markdown import markdown
from router_models.plan import Plan

SMOOTHED_OVER = 20
"""Requests of the moving mean that the curve shows."""

EVERY = 5
"""Requests between two places of the curve."""

MOST_CHOICES = 3


def show(comparison: Comparison) -> None:
    """Both tables, for people."""
    PEOPLE.print(_policies(comparison))
    PEOPLE.print(_cells(comparison))


def write(comparison: Comparison, folder: Path) -> None:
    """Tables as Markdown and the learning curve as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = [markdown(_policies(comparison)), markdown(_cells(comparison))]
    (folder / "router.md").write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    _draw(comparison, folder / "learning.svg")


def _policies(comparison: Comparison) -> Table:
    table = Table(box=None, header_style="dim", title="after the warm-up")
    for heading in ("policy", "tokens/s", "of the oracle", "of the oracle in the first requests", "tokens a round"):
        table.add_column(heading)
    by_speed = sorted(comparison.runs, key=lambda name: -np.median(comparison.of_oracle(name)))
    for name in by_speed:
        served = [entry for run in comparison.measured(name) for entry in run]
        early = [entry for run in comparison.runs[name] for entry in run[:SMOOTHED_OVER]]
        table.add_row(
            name,
            f"{_tokens_per_s(served):.1f}",
            f"{comparison.oracle.share(served):.3f}",
            f"{comparison.oracle.share(early):.3f}",
            f"{np.mean([tokens for entry in served for tokens in entry.tokens_by_round]):.2f}",
        )
    return table


def _cells(comparison: Comparison) -> Table:
    """Cell by cell what the oracle takes and what the planner took."""
    table = Table(box=None, header_style="dim", title=f"{PLANNER} against the oracle")
    for heading in ("prompts", "T", "oracle takes", "over none", f"{PLANNER} of oracle", f"{PLANNER} takes (rounds)"):
        table.add_column(heading)
    served = [entry for run in comparison.measured(PLANNER) for entry in run]
    for cell, arm in sorted(comparison.oracle.arms.items()):
        of_cell = [entry for entry in served if cell_of(entry.request) == cell]
        if of_cell:
            plain_ms = sum(comparison.stage.choices.of(PLAIN, entry.request) for entry in of_cell)
            oracle_ms = sum(comparison.oracle.ms(entry.request) for entry in of_cell)
            share = f"{comparison.oracle.share(of_cell):.3f}"
            table.add_row(cell[0], f"{cell[1]:g}", str(arm), f"{plain_ms / oracle_ms:.2f}", share, _choices(of_cell))
    return table


def _choices(served: Sequence[Served]) -> str:
    """What was planned most often; the last rounds of a request are cut to what is left, and say nothing."""
    plans = Counter(_in_words(plan) for entry in served for plan in entry.plans[:-1])
    total = max(plans.total(), 1)
    return ", ".join(f"{name} {count / total:.0%}" for name, count in plans.most_common(MOST_CHOICES))


def _in_words(plan: Plan) -> str:
    return "+".join(str(Arm(name, plan.shape)) for name in plan.drafters) if plan.speculates else str(PLAIN)


def _tokens_per_s(served: Sequence[Served]) -> float:
    return 1e3 * sum(entry.tokens for entry in served) / sum(entry.ms for entry in served)


def learning_curves(comparison: Comparison) -> Curves:
    """Tokens a second over the oracle's, a moving mean over requests; all seeds together."""
    lines = {name: _curve(comparison, runs)[::EVERY] for name, runs in comparison.runs.items()}
    return Curves(
        name="router.learning",
        x_label=f"requests served (mean of the last {SMOOTHED_OVER}, {len(comparison.seeds)} seeds)",
        y_label="tokens per second over the oracle's",
        x=tuple(float(SMOOTHED_OVER + EVERY * place) for place in range(len(lines[PLANNER]))),
        lines={name: tuple(np.round(line, 4).tolist()) for name, line in lines.items()},
    )


def _draw(comparison: Comparison, file: Path) -> None:
    """The curves as a picture."""
    import matplotlib

    matplotlib.use("Agg")  # no window, wherever this runs
    from matplotlib import pyplot

    curves = learning_curves(comparison)
    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for name, line in curves.lines.items():
        axes.plot(curves.x, line, label=name, linewidth=2.2 if name == PLANNER else 1.0)
    axes.axhline(1.0, color="black", linewidth=0.8, linestyle=":")
    axes.axvline(comparison.stage.warm_up, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel(curves.x_label)
    axes.set_ylabel(curves.y_label)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(file)
    pyplot.close(figure)


def _curve(comparison: Comparison, runs: Sequence[Sequence[Served]]) -> np.ndarray:
    oracle_ms = np.array([[comparison.oracle.ms(entry.request) for entry in run] for run in runs]).sum(axis=0)
    own_ms = np.array([[entry.ms for entry in run] for run in runs]).sum(axis=0)
    window = np.ones(min(SMOOTHED_OVER, len(own_ms)))
    return np.convolve(oracle_ms, window, "valid") / np.convolve(own_ms, window, "valid")
