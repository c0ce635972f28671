"""What Prometheus would see."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Scrape:
    """One answer of a process to GET /metrics.

    Attributes:
        text: As it came.
        types: Of every metric that it tells, by name as Prometheus stores it.
        samples: Name, labels and value of each.
    """

    text: str
    types: Mapping[str, str]
    samples: tuple[tuple[str, Labels, float], ...]

    @property
    def names(self) -> set[str]:
        """Of all samples: of a histogram with _bucket, _sum and _count."""
        return {name for name, _, _ in self.samples}

    def value(self, name: str, **labels: str) -> float:
        """The sum of all samples of that name with at least these labels; there must be one."""
        values = self.values(name, **labels)
        assert values, f"no sample of {name} with {labels}"
        return sum(values)

    def values(self, name: str, **labels: str) -> list[float]:
        """All samples of that name with at least these labels."""
        wanted = labels.items()
        return [value for known, told, value in self.samples if known == name and wanted <= told.items()]


def scrape(address: str) -> Scrape:
    """What a process tells; it blocks, so call it in a thread where the process is this one."""
    with urlopen(f"http://{address}/metrics", timeout=20) as answer:
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    return Scrape(
        text,
        {family.name + ("_total" if family.type == "counter" else ""): family.type for family in families},
        tuple((sample.name, sample.labels, sample.value) for family in families for sample in family.samples),
    )
