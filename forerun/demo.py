"""The demonstration: a mixed workload under several policies, and whether each gave the tokens of plain decoding."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from forerun.client import AsyncClient, GenerateOptions, Generation
from forerun.reference import Reference
from forerun.workload import Task

PLAIN = "none"
POLICIES = (PLAIN, "static", "confidence", "merged")
SAMPLED_TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One answer under one policy; `seconds` is what the caller waited for all of it."""

    task: Task
    policy: str
    answer: Generation
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All answers to one prompt set under one policy."""

    prompt_set: str
    policy: str
    answers: int
    tokens: int
    rounds: int
    seconds: float
    identical: bool

    @property
    def tokens_per_second(self) -> float:
        """Goodput as the caller saw it."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Tokens for each pass of the target."""
        return self.tokens / self.rounds if self.rounds else 0.0

    @property
    def passes_saved(self) -> float:
        """Share of the target passes of plain decoding, one a token, that was not needed."""
        return 1.0 - self.rounds / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """An answer that is not what it must be: never seen yet, and the first thing to look at if it is."""

    prompt_set: str
    number: int
    policy: str
    judge: str
    first_differing_token: int


class Board:
    """The answers so far."""

    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.differences: list[Difference] = []

    def add(self, run: Run) -> None:
        """Take in an answer and hold it against the first answer to the same task."""
        self.runs.append(run)
        first = next(other for other in self.runs if other.task == run.task)
        self._compare(run, first.answer.token_ids, judge=f"policy {first.policy}")

    def judge(self, task: Task, expected: tuple[int, ...], *, judge: str) -> None:
        """Hold every answer to a task against what somebody else says."""
        for run in [run for run in self.runs if run.task == task]:
            self._compare(run, expected, judge=judge)

    def cell(self, prompt_set: str, policy: str) -> Cell:
        """The sums over one set and policy."""
        runs = [run for run in self.runs if (run.task.prompt_set, run.policy) == (prompt_set, policy)]
        return Cell(
            prompt_set=prompt_set,
            policy=policy,
            answers=len(runs),
            tokens=sum(run.answer.usage.completion_tokens for run in runs),
            rounds=sum(len(run.answer.acceptance.per_step_accepted) for run in runs),
            seconds=sum(run.seconds for run in runs),
            identical=not any((entry.prompt_set, entry.policy) == (prompt_set, policy) for entry in self.differences),
        )

    def _compare(self, run: Run, expected: tuple[int, ...], *, judge: str) -> None:
        if run.answer.token_ids != expected:
            self.differences.append(
                Difference(
                    prompt_set=run.task.prompt_set,
                    number=run.task.number,
                    policy=run.policy,
                    judge=judge,
                    first_differing_token=first_difference(run.answer.token_ids, expected),
                )
            )


def first_difference(one: Sequence[int], other: Sequence[int]) -> int:
    """Place of the first token in which two answers differ; the shorter length if one begins the other."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def options_of(task: Task, policy: str, *, max_new_tokens: int) -> GenerateOptions:
    """Every other prompt is sampled, with its number as the seed; `static` gets the drafter made for the set."""
    options: GenerateOptions = {"max_new_tokens": max_new_tokens, "policy": policy, "task": task.prompt_set}
    if not greedy(task):
        options |= {"temperature": SAMPLED_TEMPERATURE, "seed": task.number}
    if policy == "static":
        options["drafters"] = [task.drafter]
    return options


def greedy(task: Task) -> bool:
    """Whether the likeliest tokens are taken."""
    return task.number % 2 == 0


async def warm_up(client: AsyncClient, tasks: Sequence[Task], policies: Sequence[str]) -> None:
    """One short answer under each policy, so that no later one pays for first touches."""
    for policy in policies:
        await client.generate(tasks[0].prompt, **options_of(tasks[0], policy, max_new_tokens=8))


async def run_workload(
    client: AsyncClient,
    tasks: Sequence[Task],
    board: Board,
    *,
    policies: Sequence[str] = POLICIES,
    max_new_tokens: int,
    progress: Callable[[Run], None] = lambda run: None,
) -> None:
    """Every task under every policy, one at a time; the order of policies turns from task to task."""
    for turn, task in enumerate(tasks):
        # Plain decoding comes first: it is what the others are compared with.
        others = [policy for policy in policies if policy != PLAIN]
        others = others[turn % len(others) :] + others[: turn % len(others)] if others else []
        for policy in (PLAIN, *others):
            began = time.perf_counter()
            answer = await client.generate(task.prompt, **options_of(task, policy, max_new_tokens=max_new_tokens))
            run = Run(task=task, policy=policy, answer=answer, seconds=time.perf_counter() - began)
            board.add(run)
            progress(run)


async def ask_transformers(
    board: Board, tasks: Sequence[Task], folder: str, *, max_new_tokens: int, progress: Callable[[], None]
) -> int:
    """Hold the answers to these tasks against transformers' `generate`; returns how many it answered.

    Only greedy ones: transformers draws its samples by other means.
    """
    reference = await asyncio.to_thread(Reference.load, folder)
    asked = [task for task in tasks if greedy(task)]
    for task in asked:
        expected = await asyncio.to_thread(reference.greedy, reference.encode(task.prompt), max_new_tokens)
        board.judge(task, expected, judge="transformers")
        progress()
    return len(asked)


def result(board: Board, prompt_sets: Sequence[str], policies: Sequence[str]) -> Mapping[str, object]:
    """The board as JSON tells it."""
    cells = [board.cell(prompt_set, policy) for prompt_set in prompt_sets for policy in policies]
    return {
        "results": [
            {
                "set": cell.prompt_set,
                "policy": cell.policy,
                "answers": cell.answers,
                "tokens": cell.tokens,
                "tokens_per_second": round(cell.tokens_per_second, 2),
                "tokens_per_round": round(cell.tokens_per_round, 3),
                "target_passes_saved": round(cell.passes_saved, 3),
                "identical_to_plain_decoding": cell.identical,
            }
            for cell in cells
        ],
        "differences": board.differences,
    }
