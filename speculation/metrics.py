"""What is counted for operators: numbers that cost whoever counts an addition, and how they are told to Prometheus."""

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Any, Generic, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

NONE = "none"
"""Stands where a caller named nothing."""

OTHER = "other"
"""Stands for all that is not told apart."""

Facts = TypeVar("Facts")
Labels = tuple[str, ...]


class Kind(StrEnum):
    """How a number moves, as Prometheus calls it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Histogram:
    """How often a number was how large. One thread counts; any may read.

    Attributes:
        bounds: Upper ends of the buckets, each included, ascending; a last bucket takes what is larger.
        counts: By bucket.
        sum: Of all numbers.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a number."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Names:
    """Values of a label that callers choose: the first so many are told apart, for each costs memory here and there."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """What the label says for a name."""
        if name in self._known:
            return name
        if not name or len(self._known) >= self._most:
            return OTHER if name else NONE
        self._known.add(name)
        return name


Value = float | Histogram
Values = Value | Mapping[Any, float] | Mapping[Any, Histogram] | None
"""Of one metric: a number, or one for each combination of labels (a tuple); None: there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Metric(Generic[Facts]):
    """One number that operators can see, and where it is.

    Attributes:
        kind: How it moves.
        name: As it is told; a counter's ends in _total.
        help: What it says, in a sentence.
        read: Finds it.
        labels: Names of what tells its values apart.
    """

    kind: Kind
    name: str
    help: str
    read: Callable[[Facts], Values]
    labels: Labels = ()

    def family(self, values: Values = None) -> Family:
        """As prometheus_client knows it; without values, what it would be."""
        table: Mapping[Labels, Value]
        if values is None:
            table = {}
        elif isinstance(values, Mapping):
            table = values
        else:
            table = {(): values}
        return _FAMILIES[self.kind](self, table)


def _numbers(metric: "Metric[Facts]", values: Mapping[Labels, Value]) -> Family:
    kinds = {Kind.COUNTER: CounterMetricFamily, Kind.GAUGE: GaugeMetricFamily}
    family: CounterMetricFamily | GaugeMetricFamily = kinds[metric.kind](metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        assert not isinstance(value, Histogram)
        family.add_metric(labels, value)
    return family


def _histograms(metric: "Metric[Facts]", values: Mapping[Labels, Value]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        assert isinstance(value, Histogram)
        upper_ends = (*map(str, value.bounds), "+Inf")
        family.add_metric(
            labels, list(zip(upper_ends, accumulate(tuple(value.counts)), strict=True)), sum_value=value.sum
        )
    return family


_FAMILIES: Mapping[Kind, Callable[..., Family]] = {
    Kind.COUNTER: _numbers,
    Kind.GAUGE: _numbers,
    Kind.HISTOGRAM: _histograms,
}
