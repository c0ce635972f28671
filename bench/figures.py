"""What a bench reports: figures with their spread and goal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bench.spread import Spread

_RATIO = "x"
_MORE_IS_BETTER = (_RATIO, "tokens/s", "rounds/s", "requests/s")
_LESS_IS_BETTER = ("ms", "us", "s", "min", "MiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number.

    Attributes:
        name: Its name, the same in every report.
        value: The number.
        unit: "x" for a ratio, "ms", "tokens/s", ...
        low: Lower end of its 95% interval; None for a count.
        high: Upper end.
        goal: What it should reach; None if it is only for information.
        at_most: Whether the goal is an upper limit.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    at_most: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether it is a number at all: a ratio over nothing is not."""
        return all(map(math.isfinite, (self.value, *self.ends, self.goal or 0.0)))

    @property
    def ends(self) -> tuple[float, float]:
        """Of its interval; what was counted has none but itself."""
        return (self.value, self.value) if self.low is None or self.high is None else (self.low, self.high)

    @property
    def is_ratio(self) -> bool:
        """Whether it compares two things of the same run; what stands behind the x says which was the best one."""
        return self.unit.split()[0] == _RATIO

    @property
    def direction(self) -> int:
        """1 if more is better, -1 if less is, 0 if it is neither: by its goal, else by its unit."""
        if self.goal is not None or self.at_most:
            return -1 if self.at_most else 1
        if self.unit in _LESS_IS_BETTER:
            return -1
        return 1 if self.is_ratio or self.unit in _MORE_IS_BETTER else 0

    @property
    def interval(self) -> str:
        """In words; nothing for a count."""
        return "" if self.low is None or self.high is None else f"{self.low:g} to {self.high:g}"

    @property
    def goal_in_words(self) -> str:
        """Nothing without a goal."""
        if self.goal is None:
            return ""
        sign = "" if self.at_most and self.goal == 0 else "at most " if self.at_most else "at least "
        return f"{sign}{self.goal:g}"

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def unstable(self) -> bool:
        """Whether its interval is too wide to rely on the value."""
        return self.low is not None and self.high is not None and Spread(self.value, self.low, self.high).unstable


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """How something went, for several side by side.

    Attributes:
        name: Of the plot, the same in every report.
        x_label: What it went along.
        y_label: What went.
        x: Places along the way.
        lines: For each name a value at every place.
    """

    name: str
    x_label: str
    y_label: str
    x: tuple[float, ...]
    lines: Mapping[str, tuple[float, ...]]

    @property
    def is_whole(self) -> bool:
        """Whether every line has a finite value at every place, and there is one."""
        values = (self.x, *self.lines.values())
        return len(self.x) > 0 and all(len(line) == len(self.x) and all(map(math.isfinite, line)) for line in values)

    @property
    def in_words(self) -> str:
        """For those who do not see it."""
        told = [f"{name} from {line[0]:g} to {line[-1]:g}" for name, line in self.lines.items()]
        return f"{self.y_label}, over {self.x_label}, {self.x[0]:g} to {self.x[-1]:g}. {'; '.join(told)}"


def figure(
    name: str, spread: Spread, unit: str, *, goal: float | None = None, at_most: bool = False, digits: int = 4
) -> Figure:
    """A figure with its interval, rounded to what the measurement can carry."""
    value, low, high = (round(number, digits) for number in (spread.value, spread.low, spread.high))
    return Figure(name=name, value=value, unit=unit, low=low, high=high, goal=goal, at_most=at_most)


def count(name: str, value: int, unit: str, *, goal: float | None = None, at_most: bool = False) -> Figure:
    """A figure that was counted."""
    return Figure(name=name, value=value, unit=unit, goal=goal, at_most=at_most)
