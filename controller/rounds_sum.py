"""What some rounds came to: of a request, of an arm, of many requests."""

from dataclasses import dataclass

from controller.generation import Round

NS = 1e-9


@dataclass(slots=True)
class RoundsSum:
    """Sums over some rounds.

    Attributes:
        rounds: How many.
        drafted_tokens: Nodes verified in them.
        accepted_tokens: Of these, kept.
        emitted_tokens: Tokens that answers gained.
        seconds: What they took, from planning to the verdict.
    """

    rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    emitted_tokens: int = 0
    seconds: float = 0.0

    def add(self, done: Round) -> None:
        """Count a round."""
        self.rounds += 1
        self.drafted_tokens += len(done.outcome.tree)
        self.accepted_tokens += done.outcome.verdict.num_accepted
        self.emitted_tokens += len(done.emitted)
        self.seconds += done.outcome.timings.round_ns * NS

    def merge(self, other: "RoundsSum") -> None:
        """Add all rounds of another sum."""
        self.rounds += other.rounds
        self.drafted_tokens += other.drafted_tokens
        self.accepted_tokens += other.accepted_tokens
        self.emitted_tokens += other.emitted_tokens
        self.seconds += other.seconds
