"""The table of all metrics in docs/metrics.md, made from where they are read: `python -m forerun.metrics_reference`."""

from collections.abc import Iterable, Sequence
from typing import Any

from prometheus_client import ProcessCollector

from controller import metrics as of_controller
from speculation.metrics import Metric
from speculation.metrics_http import LOOP_WAIT
from worker import metrics as of_worker

SECTIONS: Sequence[tuple[str, Sequence[Metric[Any]]]] = (
    ("Of a controller: requests", of_controller.REQUESTS),
    ("Of a controller: rounds", of_controller.SPECULATION),
    ("Of a controller: the router", of_controller.ROUTER),
    ("Of a controller: log and learning", of_controller.LEARNING),
    ("Of a controller: its workers", of_controller.FLEET),
    ("Of a controller: its configuration", of_controller.CONFIGURATION),
    ("Of a controller: its traces", of_controller.TRACES),
    ("Of a worker", of_worker.METRICS),
)


def reference() -> str:
    """Markdown: a table for each part of the house, and one of what every process tells."""
    tables = [_table(title, map(_row, metrics)) for title, metrics in SECTIONS]
    every = [_row(LOOP_WAIT), *sorted(_process_rows())]
    return "\n".join([*tables, _table("Of every process", every)])


def _table(title: str, rows: Iterable[str]) -> str:
    return "\n".join([f"### {title}", "", "| name | type | labels | what it says |", "|---|---|---|---|", *rows, ""])


def _row(metric: Metric[Any]) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind.value} | {labels} | {metric.help} |"


def _process_rows() -> Iterable[str]:
    for family in ProcessCollector(registry=None).collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        yield f"| `{name}` | {family.type} |  | {family.documentation} |"


if __name__ == "__main__":
    print(reference(), end="")
