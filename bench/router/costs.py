"""What drafting, verifying and reading take on a real fleet: the clock of a replay."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from speculation.errors import ConfigurationError
from speculation.tree import TokenTree, TreeShape

FORMAT = "forerun costs 1"


class DraftCosts(NamedTuple):
    """Of one drafter, in milliseconds; the coefficients of `draft_features`.

    Attributes:
        call_ms: Of a call as such, the wire included.
        level_ms: Of each level grown.
        node_ms: Of each node looked beyond.
        token_ms: Of each token of the sequence that it had not read.
        open_ms: Of its first call for a request.
    """

    call_ms: float
    level_ms: float
    node_ms: float
    token_ms: float
    open_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostProfile:
    """Of a fleet, in milliseconds.

    Attributes:
        drafters: By name.
        verify_call_ms: Of verifying nothing: plain decoding.
        verify_node_ms: Of each node verified.
        target_open_ms: Of opening a session on the target.
        target_token_ms: Of each token of a prompt that the target reads.
        rest_ms: Of a round beside drafting and verifying.
        crowding: By how much each further drafter at work slows drafting, as a share.
        spread: Standard deviation of the logarithm of a time around its prediction.
        machine: Where it was measured; for people.
    """

    drafters: Mapping[str, DraftCosts]
    verify_call_ms: float
    verify_node_ms: float
    target_open_ms: float
    target_token_ms: float
    rest_ms: float
    crowding: float
    spread: float
    machine: Mapping[str, str | int | float] = dataclasses.field(default_factory=dict)

    def draft_ms(self, drafter: str, shape: TreeShape, tree: TokenTree, unread: int, *, first: bool) -> float:
        """Of drafting a tree that was asked for by its shape, after reading `unread` tokens."""
        features = draft_features(shape, tree, unread, first=first)
        return sum(weight * feature for weight, feature in zip(self.drafters[drafter], features, strict=True))

    def read_ms(self, drafter: str, tokens: int) -> float:
        """Of a drafter's reading of a prompt."""
        costs = self.drafters[drafter]
        return costs.call_ms + costs.open_ms + costs.token_ms * tokens

    def target_read_ms(self, tokens: int) -> float:
        """Of the target's reading of a prompt."""
        return self.target_open_ms + self.target_token_ms * tokens

    def verify_ms(self, nodes: int) -> float:
        """Of a verification."""
        return self.verify_call_ms + self.verify_node_ms * nodes

    def crowded(self, ms: float, drafters: int) -> float:
        """What the slowest of so many drafters needs, if it needs `ms` alone."""
        return ms * (1.0 + self.crowding * max(drafters - 1, 0))

    def save(self, file: Path) -> None:
        """As JSON."""
        drafters = {name: costs._asdict() for name, costs in self.drafters.items()}
        about = {"format": FORMAT, **dataclasses.asdict(self), "drafters": drafters}
        file.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> "CostProfile":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: It is no profile of this format, or holds what is no time.
        """
        try:
            about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if about.pop("format") != FORMAT:
                raise ValueError(f"another format than {FORMAT!r}")
            drafters = {name: DraftCosts(**_times(costs)) for name, costs in about.pop("drafters").items()}
            machine = about.pop("machine")
            return cls(drafters=drafters, machine=machine, **_times(about))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(str(file), f"is no cost profile ({type(error).__name__}: {error})") from error


def draft_features(
    shape: TreeShape, tree: TokenTree, unread: int, *, first: bool
) -> tuple[float, float, float, float, float]:
    """What drafting depends on: one, levels, nodes looked beyond, tokens to be read, and whether a session is opened.

    A drafter that stops for lack of confidence has looked one level beyond what it shows.
    """
    levels = min(shape.depth, tree.depth + 1)
    return (1.0, float(levels), 1.0 + (levels - 1) * shape.branching, float(unread), float(first))


def _times(numbers: Mapping[str, Any]) -> dict[str, float]:
    for name, number in numbers.items():
        if not isinstance(number, int | float) or not 0.0 <= number < math.inf:
            raise ValueError(f"{name} is {number!r}, not a time")
    return dict(numbers)
