"""A served round, as a diagnosis looks at it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from speculation.tree import EMPTY_TREE, TokenTree, TreeShape

MIN_READERS = 2
"""Who reads a prompt best says something only if more than one has read it."""


class Kind(NamedTuple):
    """Requests that may be compared: the same kind of text, sampled alike."""

    text: str
    sampled: bool

    def __str__(self) -> str:
        return f"{self.text or 'unlabelled text'}, {'sampled' if self.sampled else 'greedy'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One drafter's part in a round.

    Attributes:
        drafter: Its name.
        address: host:port of its worker; empty where the log does not say.
        elapsed_ms: From the round's first draft call to its reply.
        worker_ms: What the worker counts as its own; 0 where the log does not say.
        queue_ms: Of that, waiting for the engine.
        compute_ms: Of that, in model forwards.
        forwards: How many.
        found: How often the target took its first candidate.
        looked: How often there was one.
    """

    drafter: str
    address: str = ""
    elapsed_ms: float = 0.0
    worker_ms: float = 0.0
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    forwards: int = 0
    found: float = 0.0
    looked: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One round.

    Attributes:
        request_id: The request.
        number: 0 for its first round.
        task: The caller's label, or empty.
        sampled: Whether its temperature was above 0.
        policy: Who decided.
        forced: Whether the request or the operator left no choice.
        offered: Drafters that could have been asked.
        drafters: Those that were asked.
        missing: Those of them that did not answer in time.
        ending: Whether the answer's end cut the plan short.
        surprisal: Nats per token of the prompt, by drafter that has read it.
        shape: Of the tree asked for; None in plain decoding.
        tree: What was verified.
        accepted: Its accepted nodes, first level first.
        tokens: Emitted. No whole number once a repair is supposed.
        answers: Of the drafters that answered.
        draft_ms: From the first draft call to the last reply.
        verify_ms: From the verify call to its reply.
        other_ms: The rest of the round.
        target: host:port of the verify worker; empty where the log does not say.
        verify_worker_ms: What it counts as its own; 0 where the log does not say.
        verify_queue_ms: Of that, waiting for the engine.
        verify_compute_ms: Of that, in the forwards of the judgement; those of a run are apart.
        batch: Sessions that shared the forward.
        retold: Tokens that workers had to be told again in this round.
        moves: Workers lost or given up in this round.
        explained: Whether a cause found before accounts for how little was accepted.
    """

    request_id: str
    number: int
    task: str = ""
    sampled: bool = False
    policy: str = ""
    forced: bool = False
    offered: tuple[str, ...] = ()
    drafters: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    ending: bool = False
    surprisal: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    shape: TreeShape | None = None
    tree: TokenTree = EMPTY_TREE
    accepted: tuple[int, ...] = ()
    tokens: float = 1.0
    answers: tuple[Answer, ...] = ()
    draft_ms: float = 0.0
    verify_ms: float = 0.0
    other_ms: float = 0.0
    target: str = ""
    verify_worker_ms: float = 0.0
    verify_queue_ms: float = 0.0
    verify_compute_ms: float = 0.0
    batch: int = 1
    retold: int = 0
    moves: int = 0
    explained: bool = False

    @property
    def cost_ms(self) -> float:
        """All of it."""
        return self.draft_ms + self.verify_ms + self.other_ms

    @property
    def kind(self) -> Kind:
        """The caller's label; without one, the drafter that reads the prompt best names the text."""
        readers = self.surprisal if len(self.surprisal) >= MIN_READERS else {}
        best = min(readers, key=lambda name: readers[name], default="")
        return Kind(self.task or (f"text that {best} reads best" if best else ""), self.sampled)

    @property
    def undisturbed(self) -> bool:
        """Whether everybody was there and knew the text."""
        return not (self.missing or self.retold or self.moves)

    def with_answers(self, answers: Iterable[Answer]) -> "Row":
        """The same round, had its drafters answered so: drafting ends with the slowest."""
        answers = tuple(answers)
        saved_ms = _slowest(self.answers) - _slowest(answers)
        return replace(self, answers=answers, draft_ms=max(self.draft_ms - saved_ms, 0.0))


def _slowest(answers: Iterable[Answer]) -> float:
    return max((answer.elapsed_ms for answer in answers), default=0.0)
