"""What does a round cost as prompts, trees, crowds and fleets grow?

Along each scale the points alternate turn by turn, so that a machine that slows down slows all of them. Plans are
pinned, and drafters draft in turn with the target, but for the scale of drafters: there the planner chooses among so
many. What should not grow is told by a ratio of the last point to the first.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from bench.figures import Figure, figure
from bench.fleet import WITHOUT_SCORING, Bench
from bench.speed import STATIC_SHAPE
from bench.spread import median
from controller.settings import RouterSettings, RuleSettings
from controller.text import load_tokenizer
from forerun.client import Generation, RoundReport
from forerun.progress import steps
from forerun.workload import Task
from speculation.tree import TreeShape

NS_PER_MS = 1e6
PROMPT_TOKENS = (64, 128, 256, 512, 896)
NODES = (1, 4, 8, 16, 32, 64)
SESSIONS = (1, 4, 16)
DRAFTERS = (1, 2, 4, 8)

NAMES = tuple(f"code-{number}" for number in range(1, 1 + max(DRAFTERS)))
FLEET: Mapping[str, str] = dict.fromkeys(NAMES, "zoo:code")
"""As many drafters as are looked at; all of them are the same model."""

PINNED: Mapping[str, Any] = {"policy": "static", "drafters": NAMES[:1], "in_turn": True}
SHORT_PROMPT_TOKENS = 128

ROUND_PARTS: Mapping[str, Callable[[RoundReport], int]] = {
    "round_ms": lambda report: report.timings.round_ns,
    "draft_ms": lambda report: report.timings.draft_worker_ns,
    "verify_ms": lambda report: report.timings.verify_worker_ns,
    "controller_ms": lambda report: report.timings.round_ns - report.timings.draft_ns - report.timings.verify_ns,
}
"""Of a round: all of it, what drafter and target report as their own, and what is neither theirs nor the wire's."""

Answers = Callable[[int], Awaitable[Sequence[Generation]]]
"""What is asked at one point of a scale in that turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Something that grows.

    Attributes:
        name: Of the thing.
        points: What is asked, by how much of it there is.
        nodes: Whether a point's number is also that of a tree's nodes: smaller trees are left out.
    """

    name: str
    points: Mapping[int, Answers]
    nodes: bool = False

    def counts(self, point: int, report: RoundReport) -> bool:
        """Whether a round was what the point is about."""
        return not self.nodes or len(report.tree) == point


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn at one point: medians in milliseconds, by part."""

    medians: Mapping[str, float]


def choosing_among() -> RouterSettings:
    """Rules by which the label of a request says among how many drafters the planner may choose."""
    rules = tuple(
        RuleSettings(task=_among(drafters), policy="planner", allowed_drafters=NAMES[:drafters])
        for drafters in DRAFTERS
    )
    return WITHOUT_SCORING.model_copy(update={"rules": rules})


def _among(drafters: int) -> str:
    return f"{drafters} drafters"


async def measure_scale(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, turns: int
) -> tuple[Figure, ...]:
    """Every scale.

    Args:
        bench: A fleet of FLEET, with the rules of `choosing_among`.
        tasks: Whose prompts, one after another, are cut to the lengths that are wanted.
        max_new_tokens: Of an answer.
        seed: Of the resampling.
        turns: How often each point is visited.
    """
    tokenizer = load_tokenizer(bench.target_folder)
    text = tuple(chain.from_iterable([await tokenizer.encode(task.prompt) for task in tasks]))
    figures: list[Figure] = []
    for scale in _scales(bench, text, max_new_tokens):
        figures += _figures(scale, await _visit(scale, turns), seed)
    return tuple(figures)


def _scales(bench: Bench, text: Sequence[int], max_new_tokens: int) -> tuple[Scale, ...]:
    def answers(
        turn: int, *, prompt_tokens: int = SHORT_PROMPT_TOKENS, sessions: int = 1, **options: Any
    ) -> Awaitable[Sequence[Generation]]:
        prompts = [excerpt(text, prompt_tokens, turn * sessions + session) for session in range(sessions)]
        common = {"max_new_tokens": max_new_tokens, "ignore_eos": True, "explain": True}
        return asyncio.gather(
            *(bench.client.generate(token_ids=prompt, **common, **options) for prompt in prompts)  # type: ignore[arg-type]
        )

    pinned = partial(answers, **PINNED)
    return (
        Scale(
            name="prompt",
            points={length: partial(pinned, prompt_tokens=length, shape=STATIC_SHAPE) for length in PROMPT_TOKENS},
        ),
        Scale(name="nodes", points={nodes: partial(pinned, shape=tree_of(nodes)) for nodes in NODES}, nodes=True),
        Scale(
            name="sessions",
            points={sessions: partial(pinned, sessions=sessions, shape=STATIC_SHAPE) for sessions in SESSIONS},
        ),
        Scale(name="drafters", points={drafters: partial(answers, task=_among(drafters)) for drafters in DRAFTERS}),
    )


def excerpt(text: Sequence[int], length: int, number: int) -> tuple[int, ...]:
    """So many tokens of a text that begins again at its end; each number has another beginning.

    Raises:
        ValueError: The text is too short to give even one.
    """
    if len(text) < length:
        raise ValueError(f"{len(text)} tokens; {length} are wanted")
    begin = number * length % len(text)
    return tuple([*text[begin:], *text[:begin]][:length])


def tree_of(nodes: int) -> TreeShape:
    """A tree that has room for more nodes than its budget."""
    return TreeShape(depth=min(nodes, 8), branching=min(nodes, 4), budget=nodes)


async def _visit(scale: Scale, turns: int) -> Mapping[int, list[Sample]]:
    """Samples of every point; the first turn warms up, and which point comes first changes."""
    samples: dict[int, list[Sample]] = {point: [] for point in scale.points}
    with steps(scale.name, (1 + turns) * len(samples)) as step:
        for turn in range(-1, turns):
            for point in list(samples)[:: 1 if turn % 2 else -1]:
                answers = await scale.points[point](1 + turn)
                if turn >= 0:
                    samples[point].append(_sample(answers, partial(scale.counts, point)))
                step()
    return samples


def _sample(answers: Sequence[Generation], counts: Callable[[RoundReport], bool]) -> Sample:
    # The first round of a request includes reading the prompt.
    rounds = [report for answer in answers for report in answer.rounds[1:] if counts(report)]
    first_token_ns = [answer.timings.time_to_first_token_ns for answer in answers]
    parts = {name: [part(report) for report in rounds] for name, part in ROUND_PARTS.items()}
    return Sample(
        {
            name: float(np.median(values)) / NS_PER_MS
            for name, values in {**parts, "ttft_ms": first_token_ns}.items()
            if values
        }
    )


def _figures(scale: Scale, samples: Mapping[int, Sequence[Sample]], seed: int) -> Iterator[Figure]:
    """Each part at each point, and at the last point over the first."""
    first, *_, last = samples
    for part in (*ROUND_PARTS, "ttft_ms"):
        for point, row in samples.items():
            if values := [sample.medians[part] for sample in row if part in sample.medians]:
                yield figure(f"scale.{part}.{scale.name}_{point}", median(values, seed=seed), "ms")
        ratios = [
            late.medians[part] / early.medians[part]
            for early, late in zip(samples[first], samples[last], strict=True)
            if part in late.medians and early.medians.get(part, 0) > 0
        ]
        if ratios:
            yield figure(f"scale.{part}.{scale.name}_{last}_over_{first}", median(ratios, seed=seed), "x", at_most=True)
