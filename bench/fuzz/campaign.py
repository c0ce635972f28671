"""Batches of hostile requests, and after each of them the question whether all is as before."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

from bench.fuzz.judging import FuzzError

BATCH = 200
"""Requests between two looks at the fleet."""

Asked = TypeVar("Asked")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack(Generic[Asked]):
    """One way in.

    Attributes:
        name: For reports.
        share: Of all requests.
        requests: What is asked.
        ask: Asks it; the answer, which has a code or a status.
        judge: Raises FuzzError if the answer is one that never may be.
    """

    name: str
    share: float
    requests: st.SearchStrategy[Asked]
    ask: Callable[[Asked], Any]
    judge: Callable[[Asked, Any], None]


@dataclass(slots=True)
class Failure:
    """What went wrong, how often, and the shortest request of those after which it did."""

    attack: str
    kind: str
    problem: str
    request: str
    times: int = 0


@dataclass(slots=True)
class Campaign:
    """What has happened so far.

    Attributes:
        asked: Requests, by attack.
        answered: Answers, by attack and status.
        failures: One of each attack and problem.
    """

    asked: Counter[str] = field(default_factory=Counter)
    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[tuple[str, str], Failure] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """How many requests, or looks at the fleet, went wrong."""
        return sum(failure.times for failure in self.failures.values())

    def carry_out(self, attack: Attack[Any], count: int, *, seed: int, look: Callable[[], None]) -> None:
        """One batch.

        Args:
            attack: Which way.
            count: Requests.
            seed: Of the requests.
            look: Raises FuzzError if the fleet is not what it was before.
        """

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=count,
            database=None,
            deadline=None,
            # Failures are gathered and not made smaller: it would take more requests than the batch has.
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(attack.requests)
        def one(asked: Any) -> None:
            self.asked[attack.name] += 1
            try:
                answer = attack.ask(asked)
                self.answered[attack.name, _status(answer)] += 1
                attack.judge(asked, answer)
            except FuzzError as error:
                self._note(attack.name, error, repr(asked))

        one()
        try:
            look()
        except FuzzError as error:
            self._note(attack.name, error, f"{count} requests of seed {seed}")

    def _note(self, attack: str, error: FuzzError, request: str) -> None:
        failure = self.failures.setdefault((attack, str(error)), Failure(attack, error.kind, str(error), request))
        failure.times += 1
        failure.request = min(failure.request, request, key=len)


def _status(answer: Any) -> str:
    """gRPC answers have a code, ours over HTTP a status, those of requests a status code."""
    for name in ("code", "status", "status_code"):
        if (status := getattr(answer, name, None)) is not None:
            return str(getattr(status, "name", status))
    raise TypeError(f"{type(answer).__name__} is no answer")


def batches(attacks: Sequence[Attack[Any]], requests: int) -> Iterator[tuple[Attack[Any], int]]:
    """At least so many requests, in batches of the attacks in turn."""
    whole = sum(attack.share for attack in attacks)
    left = {attack.name: math.ceil(attack.share / whole * requests) for attack in attacks}
    while any(left.values()):
        for attack in attacks:
            if count := min(BATCH, left[attack.name]):
                left[attack.name] -= count
                yield attack, count
