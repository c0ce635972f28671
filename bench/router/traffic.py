"""Who asks what in which order, and how fast the best fixed choices serve it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np

from bench.router.costs import CostProfile
from bench.router.recording import RecordedRequest, Recording
from bench.router.replay import ReplayedFleet, Served
from router_models.fixed import NonePolicy, StaticPolicy
from router_models.policy import Policy
from speculation.tree import TreeShape

Cell = tuple[str, float]
"""A prompt set and a temperature."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One drafter and one shape, or plain decoding; drafters by the name under which they were recorded."""

    voice: str | None = None
    shape: TreeShape | None = None

    def __str__(self) -> str:
        if self.shape is None:
            return "none"
        form = f"chain {self.shape.depth}" if self.shape.branching == 1 else f"tree {_numbers(self.shape)}"
        end = f" down to {self.shape.least_confidence:g}" if self.shape.least_confidence else ""
        return f"{self.voice} {form}{end}"


PLAIN = Arm()


def cell_of(request: RecordedRequest) -> Cell:
    """Prompts of a cell are of one kind."""
    return request.prompt_set, request.temperature


@dataclass(frozen=True, kw_only=True)
class FixedChoices:
    """What every fixed choice needs for every request, in the mean: the oracle's table.

    Attributes:
        requests: Of the recording.
        ms: By request (its place) and arm.
    """

    requests: tuple[RecordedRequest, ...]
    ms: Mapping[Arm, Sequence[float]]

    @classmethod
    def replayed(
        cls, recording: Recording, costs: CostProfile, shapes: Iterable[TreeShape], step: Callable[[], None]
    ) -> "FixedChoices":
        """Every recorded request under every arm."""
        arms = [PLAIN, *(Arm(voice, shape) for voice, shape in product(recording.drafters, shapes))]
        ms: dict[Arm, Sequence[float]] = {}
        for arm in arms:
            fleet = ReplayedFleet(recording=recording, costs=costs, voices=own_voices(recording), seed=None)
            policy: Policy = NonePolicy() if arm.shape is None else StaticPolicy(drafter=arm.voice, shape=arm.shape)
            ms[arm] = [fleet.serve(policy, request, request_id="").ms for request in recording.requests]
            step()
        return cls(requests=recording.requests, ms=ms)

    @cached_property
    def _places(self) -> Mapping[Cell, Sequence[int]]:
        places: dict[Cell, list[int]] = {}
        for place, request in enumerate(self.requests):
            places.setdefault(cell_of(request), []).append(place)
        return places

    def best(self, voices: Iterable[str], cell: Cell | None = None) -> Arm:
        """The fastest arm of these drafters, over one cell or over all requests."""
        places = range(len(self.requests)) if cell is None else self._places[cell]
        allowed = [arm for arm in self.ms if arm.voice is None or arm.voice in set(voices)]
        return min(allowed, key=lambda arm: sum(self.ms[arm][place] for place in places))

    def oracle(self, voices: Iterable[str]) -> "Oracle":
        """Who knows the best arm of each cell."""
        return Oracle(self, {cell: self.best(voices, cell) for cell in self._places})

    def of(self, arm: Arm, request: RecordedRequest) -> float:
        """Milliseconds of a request under an arm."""
        return self.ms[arm][self._place_of[request.seed, request.first_draft]]

    @cached_property
    def _place_of(self) -> Mapping[tuple[int, int], int]:
        return {(request.seed, request.first_draft): place for place, request in enumerate(self.requests)}


@dataclass(frozen=True)
class Oracle:
    """Serves each request with the arm that is best for its cell.

    Attributes:
        choices: Where the times are from.
        arms: By cell.
    """

    choices: FixedChoices
    arms: Mapping[Cell, Arm]

    def ms(self, request: RecordedRequest) -> float:
        """What it needs for a request."""
        return self.choices.of(self.arms[cell_of(request)], request)

    def share(self, served: Sequence[Served]) -> float:
        """Tokens a second of what was served, over the oracle's on the same requests."""
        return sum(self.ms(entry.request) for entry in served) / sum(entry.ms for entry in served)


def own_voices(recording: Recording) -> dict[str, str]:
    """Every drafter under its own name."""
    return {name: name for name in recording.drafters}


def traffic(requests: Sequence[RecordedRequest], count: int, *, seed: int) -> list[RecordedRequest]:
    """So many requests in an order of chance; each returns only when all have had their turn."""
    rng = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < count:
        order += rng.permutation(len(requests)).tolist()
    return [requests[place] for place in order[:count]]


def serve(
    fleet: ReplayedFleet, policy: Policy, requests: Sequence[RecordedRequest], *, first_number: int = 0
) -> list[Served]:
    """One after the other."""
    return [
        fleet.serve(policy, request, request_id=f"request {number}")
        for number, request in enumerate(requests, first_number)
    ]


def _numbers(shape: TreeShape) -> str:
    return f"{shape.depth}x{shape.branching}, {shape.budget} nodes"
