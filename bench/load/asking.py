"""One request as its caller sees it: when its tokens came, and whether it was answered at all."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise
from typing import Any

from bench.figures import Figure, count
from forerun.client import AsyncClient, FinishReason, Generation
from forerun.workload import Task
from speculation.errors import CapacityError, ForerunError

PLANNER, NONE = "planner", "none"
"""The policies that are compared."""


class Fate(Enum):
    """What became of a request."""

    ANSWERED = "answered"
    """All of its answer came."""
    REFUSED = "refused"
    """The controller turned it away before its first token, as a caller who meets a full house must expect."""
    DROPPED = "dropped"
    """It was lost, or a part of its answer was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """Tokens that came together, and when."""

    at_s: float
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that has ended. Seconds are those of time.perf_counter.

    Attributes:
        fate: How it ended.
        asked_s: When it was sent.
        arrivals: What came of it, in order.
        ended_s: When nothing more could come.
        problem: Why it was refused or dropped.
        refusal: What the controller said when it refused it.
    """

    fate: Fate
    asked_s: float
    arrivals: tuple[Arrival, ...]
    ended_s: float
    problem: str = ""
    refusal: CapacityError | None = None

    @property
    def tokens(self) -> int:
        """Tokens that came."""
        return sum(arrival.tokens for arrival in self.arrivals)

    @property
    def first_token_s(self) -> float:
        """From sending the request to its first token; one must have come."""
        return self.arrivals[0].at_s - self.asked_s

    @property
    def gaps_s(self) -> tuple[float, ...]:
        """Between each delta and the next."""
        times = [arrival.at_s for arrival in self.arrivals]
        return tuple(later - earlier for earlier, later in pairwise(times))


Ask = Callable[[int], Awaitable[Asked]]
"""Sends the request of that number and waits until it has ended; whoever serves it can be measured."""


def asking(client: AsyncClient, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, **options: Any) -> Ask:
    """The tasks in turn, every second one sampled, with a seed for each number.

    Args:
        client: Of the controller.
        tasks: Asked again from the first when all have been asked.
        max_new_tokens: Of an answer.
        seed: Of the sampled answers.
        options: Of every request.
    """

    async def ask(number: int) -> Asked:
        return await ask_once(
            client,
            tasks[number % len(tasks)].prompt,
            max_new_tokens=max_new_tokens,
            temperature=float(number % 2),
            seed=seed + number,
            **options,
        )

    return ask


async def ask_once(client: AsyncClient, prompt: str, *, max_new_tokens: int, **options: Any) -> Asked:
    """Send a request and note what comes of it; a service's error is a fate and not an exception."""
    asked_s = time.perf_counter()
    arrivals: list[Arrival] = []
    fate, problem, refusal = Fate.ANSWERED, "", None
    try:
        async with client.stream(prompt, max_new_tokens=max_new_tokens, **options) as deltas:
            async for delta in deltas:
                if delta.token_ids:
                    arrivals.append(Arrival(at_s=time.perf_counter(), tokens=len(delta.token_ids)))
        problem = _missing(deltas.generation, arrivals, max_new_tokens)
    except ForerunError as error:
        problem = f"{error.reason}: {error}"
        refusal = error if isinstance(error, CapacityError) and not arrivals else None
        fate = Fate.DROPPED if refusal is None else Fate.REFUSED
    else:
        fate = Fate.DROPPED if problem else Fate.ANSWERED
    return Asked(
        fate=fate,
        asked_s=asked_s,
        arrivals=tuple(arrivals),
        ended_s=time.perf_counter(),
        problem=problem,
        refusal=refusal,
    )


def _missing(answer: Generation, arrivals: Sequence[Arrival], max_new_tokens: int) -> str:
    """What is missing of an answer, in words; empty if nothing is."""
    came, told = sum(arrival.tokens for arrival in arrivals), len(answer.token_ids)
    if not came:
        return "no token came"
    if came != answer.usage.completion_tokens or came != told:
        return f"{came} tokens came, {told} are in the answer, {answer.usage.completion_tokens} were counted"
    if answer.finish_reason is not FinishReason.STOP and came != max_new_tokens:
        return f"it ended after {came} of {max_new_tokens} tokens, for no reason ({answer.finish_reason.value})"
    return ""


def fate_figures(requests: Sequence[Asked]) -> tuple[Figure, ...]:
    """How requests ended: none may be dropped."""
    fates = Counter(asked.fate for asked in requests)
    return (
        count("load.dropped", fates[Fate.DROPPED], "requests", goal=0, at_most=True),
        count("load.refused", fates[Fate.REFUSED], "requests"),
        count("load.requests", len(requests), "requests"),
    )
