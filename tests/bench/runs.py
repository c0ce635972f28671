"""Runs to try things on."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from bench.figures import Curves, Figure, count
from bench.machine import Machine
from bench.runs.run import Run

LAPTOP = Machine(cpu="A", cores=8, memory_gib=16.0, system="Linux x86_64", accelerator=None)
SERVER = replace(LAPTOP, cores=64, accelerator="1 x G, 80 GiB")
GAIN = Figure(name="speed.gain", value=2.0, unit="x", low=1.9, high=2.1, goal=1.7)
RATE = Figure(name="speed.rate", value=100.0, unit="tokens/s", low=95.0, high=105.0)
WAIT = Figure(name="overhead.wait", value=1.5, unit="ms", low=1.4, high=1.6)
CURVES = Curves(
    name="router.learning",
    x_label="requests",
    y_label="speed",
    x=(1.0, 2.0),
    lines={"planner": (0.5, 1.0), "none": (0.4, 0.4)},
)
FALSE = count("exactness.differences", 0, "answers", goal=0, at_most=True)


def run_of(*figures: Figure, machine: Machine = LAPTOP, **other: Any) -> Run:
    return Run(
        **{
            "figures": figures,
            "machine": machine,
            "versions": {"python": "3.11.7", "torch": "2.13"},
            "commit": "a" * 40,
            "dirty": False,
            "seed": 7,
            "date": datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC),
            "command": "forerun bench speed",
            "load_before": 0.1,
            "remarks": (),
        }
        | other
    )
