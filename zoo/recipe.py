"""What is trained, on what, for how long: every number that decides the zoo's weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TARGET: Final = "target"
SPECIALISTS: Final = ("code", "docs", "math", "json")
DRAFTERS: Final = (*SPECIALISTS, "mixed")
MODELS: Final = (TARGET, *DRAFTERS)
DOMAINS: Final = (*SPECIALISTS, "edit", "hybrid")

_TARGET_MIX: Final = {"code": 0.22, "docs": 0.20, "math": 0.19, "json": 0.19, "edit": 0.10, "hybrid": 0.10}
_MIXED_MIX: Final = {"code": 0.20, "docs": 0.20, "math": 0.20, "json": 0.20, "edit": 0.10, "hybrid": 0.10}

_WARM_UP_STEPS = 20
_DECAY_FRACTION = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast to learn."""

    steps: int
    rows: int = 8
    length: int = 512
    matrix_rate: float = 0.02
    vector_rate: float = 3e-3

    @property
    def tokens(self) -> int:
        return self.steps * self.rows * self.length

    def pace(self, step: int) -> float:
        """Fraction of the full learning rates: a short warm-up, a plateau, then a straight line to zero."""
        warm_up = min(1.0, (step + 1) / _WARM_UP_STEPS)
        return warm_up * min(1.0, (1 - step / self.steps) / _DECAY_FRACTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Schedules of the three stages; drafters first read text, then follow the frozen target."""

    target: Schedule
    reading: Schedule
    following: Schedule
    seed: int = 20_260

    @property
    def target_mix(self) -> Mapping[str, float]:
        """Share of every corpus in what the target reads."""
        return _TARGET_MIX

    def mix(self, drafter: str) -> Mapping[str, float]:
        """A specialist reads its own corpus only; what it cannot draft is for the router to find out."""
        return _MIXED_MIX if drafter == "mixed" else {drafter: 1.0}

    def seed_of(self, model: str, stage: int = 0) -> int:
        return self.seed + 10 * MODELS.index(model) + stage


FULL: Final = Recipe(
    target=Schedule(steps=3700),
    reading=Schedule(steps=200, vector_rate=5e-3),
    following=Schedule(steps=1200),
)
QUICK: Final = Recipe(
    target=Schedule(steps=20, length=128),
    reading=Schedule(steps=10, length=128, vector_rate=5e-3),
    following=Schedule(steps=10, length=128),
)
