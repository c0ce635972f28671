"""Which figures belong into one plot: by their names alone, so that a new bench needs no plot of its own.

`load.goodput.planner.4` stands at the place `4` of the family `load.goodput.planner`. Families of one parent and one
unit that have the same places are drawn together: they differ in one thing.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.figures import RATIO, Figure

_NUMBERED = re.compile(r"(?:\w*_)?(\d+)")
"""4 or context_8192."""

Family = Mapping[str, Figure]
"""Figures by place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What one plot shows.

    Attributes:
        title: What its families have in common.
        unit: Of all of its figures.
        families: At least one, by name; all have the same places, at least two.
    """

    title: str
    unit: str
    families: Mapping[str, Family]

    @property
    def places(self) -> tuple[str, ...]:
        """In the order of the run."""
        return tuple(next(iter(self.families.values())))

    @property
    def numbers(self) -> tuple[int, ...] | None:
        """The places as numbers; None if they are not all different numbers."""
        matches = [_NUMBERED.fullmatch(place) for place in self.places]
        numbers = tuple(int(match[1]) for match in matches if match is not None)
        return numbers if len(set(numbers)) == len(self.places) else None

    @property
    def in_words(self) -> str:
        """For those who do not see it."""
        told = [
            f"{name} {place}: {entry.value:g}" + (f" ({entry.interval})" if entry.interval else "")
            for name, family in self.families.items()
            for place, entry in family.items()
        ]
        return f"{self.title}, {self.unit}. {'; '.join(told)}"


def panels_of(figures: Sequence[Figure]) -> tuple[Panel, ...]:
    """The plots of a run, in the order of its figures; a figure that stands alone is in none."""
    families: dict[tuple[str, str], dict[str, Figure]] = {}
    for entry in figures:
        name, _, place = entry.name.rpartition(".")
        families.setdefault((name, _kind(entry)), {})[place] = entry
    alike: dict[tuple[str, str, frozenset[str]], dict[str, Family]] = {}
    for (name, unit), family in families.items():
        if len(family) > 1:
            alike.setdefault((name.rpartition(".")[0], unit, frozenset(family)), {})[name] = family
    return tuple(
        Panel(
            title=parent if len(group) > 1 else next(iter(group)),
            unit=unit,
            families={name.rpartition(".")[2]: family for name, family in group.items()},
        )
        for (parent, unit, _), group in alike.items()
    )


def _kind(entry: Figure) -> str:
    """The unit without what stands behind it: which of several was the best one."""
    return RATIO if entry.is_ratio else entry.unit.split(",")[0]
