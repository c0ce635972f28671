"""What demo and benches ask for: prompts of the zoo, and the drafter that was made for each kind."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

PLAIN_DOMAINS = ("code", "docs", "math", "json")
"""One kind of text each, and a specialist for each."""

HARD_SETS = ("edit", "hybrid")
"""No specialist of their own: repeat with one change, and two kinds of text in one answer."""

PROMPT_SETS = (*PLAIN_DOMAINS, *HARD_SETS)

_GENERALIST = "mixed"


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt of a set."""

    prompt_set: str
    number: int
    prompt: str

    @property
    def drafter(self) -> str:
        """The drafter made for this kind of text."""
        return right_drafter(self.prompt_set)


def right_drafter(prompt_set: str) -> str:
    """The specialist of a plain domain; the generalist for sets that mix domains."""
    return prompt_set if prompt_set in PLAIN_DOMAINS else _GENERALIST


def tasks(prompt_sets: Sequence[str], per_set: int, *, skip: int = 0) -> tuple[Task, ...]:
    """The same number of prompts of each set, taken in turn: neighbours are of different kinds.

    Args:
        prompt_sets: Names of sets.
        per_set: Prompts of each; no more than there are.
        skip: Prompts of each set to leave out at its beginning.
    """
    from zoo.prompts import load_prompts

    columns = [
        [Task(name, number, prompt.text) for number, prompt in enumerate(load_prompts(name))][skip : skip + per_set]
        for name in prompt_sets
    ]
    return tuple(_in_turn(columns))


def _in_turn(columns: Sequence[Sequence[Task]]) -> Iterator[Task]:
    for row in range(max(map(len, columns), default=0)):
        yield from (column[row] for column in columns if row < len(column))
