"""Which figures belong into one plot: by their names alone, so that a new bench needs no plot of its own.

Figures that differ in their last part, or in the number at its end, are a family: `speed.gain.code` and
`speed.gain.docs`, `load.goodput_4` and `load.goodput_16`. Families that have the same places, and names that differ in
one part, share a plot.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.figures import Figure

_NUMBERED = re.compile(r"(.+)[._](\d+)")
"""A family's name and its place on an axis of numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Figures of one unit that differ in one thing.

    Attributes:
        name: What they have in common.
        unit: Of all of them.
        numbered: Whether their places are numbers.
        figures: At least two, by place, in the order of the run.
    """

    name: str
    unit: str
    numbered: bool
    figures: Mapping[str, Figure]

    @property
    def parts(self) -> list[str]:
        """Of the name."""
        return self.name.split(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """What one plot shows.

    Attributes:
        title: What its families have in common.
        families: At least one, by what makes it different; all have the same unit and the same places.
    """

    title: str
    families: Mapping[str, Family]

    @property
    def first(self) -> Family:
        """Any of them."""
        return next(iter(self.families.values()))

    @property
    def unit(self) -> str:
        """Of all figures."""
        return self.first.unit

    @property
    def places(self) -> tuple[str, ...]:
        """In the order of the run; numbers in theirs."""
        places = tuple(self.first.figures)
        return tuple(sorted(places, key=int)) if self.first.numbered else places

    @property
    def in_words(self) -> str:
        """For those who do not see it."""
        told = [
            f"{name} {place}: {entry.value:g}" + (f" ({entry.interval})" if entry.interval else "")
            for name, family in self.families.items()
            for place, entry in family.figures.items()
        ]
        return f"{self.title}, {self.unit}. {'; '.join(told)}"


def panels_of(figures: Sequence[Figure]) -> tuple[Panel, ...]:
    """The plots of a run; a figure that stands alone is in none."""
    groups: list[list[Family]] = []
    for family in _families(figures):
        group = next((group for group in groups if _differing_part([*group, family]) is not None), None)
        if group is None:
            groups.append([family])
        else:
            group.append(family)
    return tuple(_panel(group) for group in groups)


def _families(figures: Sequence[Figure]) -> list[Family]:
    """Those by numbers, then those by names of what is left."""
    by_number: dict[tuple[str, str], dict[str, Figure]] = {}
    for entry in figures:
        if match := _NUMBERED.fullmatch(entry.name):
            by_number.setdefault((match[1], _kind(entry)), {})[match[2]] = entry
    taken = {entry.name for members in by_number.values() if len(members) > 1 for entry in members.values()}
    by_name: dict[tuple[str, str], dict[str, Figure]] = {}
    for entry in figures:
        if entry.name not in taken:
            name, _, place = entry.name.rpartition(".")
            by_name.setdefault((name, _kind(entry)), {})[place] = entry
    return [
        Family(name=name, unit=unit, numbered=families is by_number, figures=members)
        for families in (by_number, by_name)
        for (name, unit), members in families.items()
        if len(members) > 1
    ]


def _kind(entry: Figure) -> str:
    """The unit without what stands behind it: which of several was the best one."""
    return "ratio" if entry.is_ratio else entry.unit.split(",")[0]


def _differing_part(group: Sequence[Family]) -> int | None:
    """Which part of their names it is that makes the families different; None if they cannot share a plot."""
    alike = {(family.unit, family.numbered, frozenset(family.figures), len(family.parts)) for family in group}
    if len(alike) > 1:
        return None
    places = [
        place for place, parts in enumerate(zip(*(family.parts for family in group), strict=True)) if len({*parts}) > 1
    ]
    return places[0] if len(places) == 1 else None


def _panel(group: Sequence[Family]) -> Panel:
    place = _differing_part(group)
    if place is None:
        return Panel(title=group[0].name, families={group[0].parts[-1]: group[0]})
    common = [part for number, part in enumerate(group[0].parts) if number != place]
    return Panel(title=".".join(common), families={family.parts[place]: family for family in group})
