"""Did anything get worse from one run to another, beyond what chance explains?"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from rich.table import Table

from bench.figures import Figure
from bench.runs.run import Run, require_same_machine
from speculation.errors import ConfigurationError

ONLY_RATIOS = "Measure both on one machine, or compare with --ratios-only what each run compares within itself"


class Verdict(Enum):
    """What became of a figure."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    CHANGED = "changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One figure in two runs.

    Attributes:
        old: As it was.
        new: As it is.
        tolerance: Share of the old value that nobody minds.
    """

    old: Figure
    new: Figure
    tolerance: float = 0.0

    @property
    def ratio(self) -> float | None:
        """The new value over the old one; None if that was 0."""
        return self.new.value / self.old.value if self.old.value else None

    @property
    def overlap(self) -> bool:
        """Whether the 95% intervals have a value in common; what was counted has no value but itself."""
        (old_low, old_high), (new_low, new_high) = self.old.ends, self.new.ends
        return old_low <= new_high and new_low <= old_high

    @property
    def verdict(self) -> Verdict:
        """By intervals and tolerance; a figure of which neither more nor less is better is at most changed."""
        gain = self.new.value - self.old.value
        if self.overlap or abs(gain) <= self.tolerance * abs(self.old.value):
            return Verdict.SAME
        if not self.new.direction:
            return Verdict.CHANGED
        return Verdict.BETTER if gain * self.new.direction > 0 else Verdict.WORSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        changes: The figures that both have, in the order of the new run.
        only_old: Names of those that the new run does not have.
        only_new: Names of those that the old run did not have.
        remarks: What else differs between the runs.
    """

    changes: tuple[Change, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def worse(self) -> tuple[Change, ...]:
        """Those that got worse."""
        return tuple(change for change in self.changes if change.verdict is Verdict.WORSE)


def compare(old: Run, new: Run, *, ratios_only: bool = False, tolerance: float = 0.0) -> Comparison:
    """Every figure that is in both runs.

    Args:
        old: The run to be held to.
        new: The run in question.
        ratios_only: Only ratios within a run, which machines share; then they may be two.
        tolerance: Share of a value by which it may be worse.

    Raises:
        ConfigurationError: The runs are of different machines, or have no figure in common.
    """
    if not ratios_only:
        require_same_machine([old, new], instead=ONLY_RATIOS)
    before, after = (
        {entry.name: entry for entry in run.figures if entry.is_ratio or not ratios_only} for run in (old, new)
    )
    common = [name for name in after if name in before]
    if not common:
        kind = "ratio" if ratios_only else "figure"
        raise ConfigurationError("figures", f"the runs have no {kind} in common: are they of the same bench?")
    for name in common:
        if before[name].unit != after[name].unit and not (before[name].is_ratio and after[name].is_ratio):
            raise ConfigurationError(
                name, f"is in {before[name].unit} in one run and in {after[name].unit} in the other"
            )
    return Comparison(
        changes=tuple(Change(old=before[name], new=after[name], tolerance=tolerance) for name in common),
        only_old=tuple(name for name in before if name not in after),
        only_new=tuple(name for name in after if name not in before),
        remarks=tuple(_differences(old, new)),
    )


def _differences(old: Run, new: Run) -> Sequence[str]:
    """What else may be why a figure changed."""
    pairs = {
        "command": (old.command, new.command),
        "seed": (old.seed, new.seed),
        "machine": (old.machine, new.machine),
        **{name: (old.versions.get(name), new.versions.get(name)) for name in {**old.versions, **new.versions}},
    }
    return [f"{name}: {before} and {after}" for name, (before, after) in pairs.items() if before != after] + [
        f"the {which} run: {remark}" for which, run in (("old", old), ("new", new)) for remark in run.remarks
    ]


def as_values(comparison: Comparison) -> dict[str, Any]:
    """For `--json`."""
    return {
        "changes": [
            {
                "name": change.new.name,
                "old": asdict(change.old),
                "new": asdict(change.new),
                "ratio": change.ratio,
                "overlap": change.overlap,
                "verdict": change.verdict,
            }
            for change in comparison.changes
        ],
        "worse": [change.new.name for change in comparison.worse],
        "only_old": comparison.only_old,
        "only_new": comparison.only_new,
        "remarks": comparison.remarks,
    }


def table(comparison: Comparison) -> Table:
    """For people."""
    shown = Table(box=None, header_style="dim")
    shown.add_column("figure", overflow="fold")
    for heading in ("old", "new", "ratio", "intervals", ""):
        shown.add_column(heading, justify="right")
    styles = {Verdict.BETTER: "green", Verdict.WORSE: "bold red"}
    for change in comparison.changes:
        shown.add_row(
            change.new.name,
            f"{change.old.value:g}",
            f"{change.new.value:g} {change.new.unit}",
            "" if change.ratio is None else f"{change.ratio:.3f}",
            "overlap" if change.overlap else "apart",
            change.verdict.value,
            style=styles.get(change.verdict),
        )
    return shown
