"""What is trained, on what, for how long: every number that decides the zoo's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from zoo.training import Schedule

TARGET: Final = "target"
SPECIALISTS: Final = ("code", "docs", "math", "json")
DRAFTERS: Final = (*SPECIALISTS, "mixed")
MODELS: Final = (TARGET, *DRAFTERS)
DOMAINS: Final = (*SPECIALISTS, "edit", "hybrid")

_TARGET_MIX: Final = {"code": 0.22, "docs": 0.20, "math": 0.19, "json": 0.19, "edit": 0.10, "hybrid": 0.10}
_MIXED_MIX: Final = {"code": 0.20, "docs": 0.20, "math": 0.20, "json": 0.20, "edit": 0.10, "hybrid": 0.10}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Schedules of the three stages; drafters first read text, then follow the frozen target.

    Attributes:
        steps_to_follow: Drafters whose target is harder to follow, and the steps they take for it.
    """

    target: Schedule
    reading: Schedule
    following: Schedule
    steps_to_follow: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 20_260

    def following_of(self, drafter: str) -> Schedule:
        """How long and how fast a drafter follows the target."""
        return replace(self.following, steps=self.steps_to_follow.get(drafter, self.following.steps))

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
    # The run that made the shipped weights was stopped after 500 steps and went on from its checkpoint.
    target=Schedule(steps=2700, momenta_cleared_at=500),
    reading=Schedule(steps=200, vector_rate=5e-3),
    following=Schedule(steps=100),
    # Python and prose have far more to say than templates: after 100 steps these two were still far from the target.
    steps_to_follow=MappingProxyType({"code": 500, "docs": 500}),
)
QUICK: Final = Recipe(
    target=Schedule(steps=20, length=128),
    reading=Schedule(steps=10, length=128, vector_rate=5e-3),
    following=Schedule(steps=10, length=128),
)
