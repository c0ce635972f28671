"""What real models said, kept so that any policy can be replayed on it.

The text of a request does not depend on what is speculated, so it is recorded once; and at each of its positions, for
each drafter and branching, the whole tree that the drafter grows there, pruned to no budget. A tree of a lesser depth
or budget, or of a least confidence, is part of that one: levels are grown one after the other, and what is kept are the
likeliest nodes of those grown. So every such draft follows exactly, the one that the service would have verified. With
a calibration chains stay exact, and trees as long as the paths that it prefers are among the SPARE ones recorded.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from router_models.policy import TextScores
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.errors import ConfigurationError, InvalidRequestError
from speculation.tree import ROOT, TokenTree, TreeShape

FORMAT = "forerun recording 1"
SPARE = 2
"""Nodes expanded a level beyond the branching: with a calibration other paths are the likeliest."""

FAR_BEHIND = 1000
"""Rank of a token that is not among the recorded candidates."""

_ARRAYS = ("token_ids", "parents", "confidences", "ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRequest:
    """One answer of the target.

    Attributes:
        prompt_set: Which kind of prompt.
        number: Which one of its set.
        temperature: 0 for greedy decoding.
        seed: Of the noise.
        prompt_tokens: Length of the prompt.
        token_ids: What the target goes on to say, recorded beyond an end token, as a verification may look there.
        length: Tokens of the answer, an end token included.
        surprisal: Nats per token of the prompt, by drafter.
        first_draft: Place of its first draft in the recording.
    """

    prompt_set: str
    number: int
    temperature: float
    seed: int
    prompt_tokens: int
    token_ids: tuple[int, ...]
    length: int
    surprisal: Mapping[str, float]
    first_draft: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """Trees one after the other: of each request, drafter, branching and position, in this order.

    Attributes:
        token_ids: (nodes,) of all trees.
        parents: (nodes,), within the tree.
        confidences: (nodes,), float32 as the drafter computes them.
        ends: (trees,), where each ends.
    """

    token_ids: NDArray[np.int32]
    parents: NDArray[np.int16]
    confidences: NDArray[np.float32]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, trees: Iterable[TokenTree]) -> "Drafts":
        """Packed trees."""
        token_ids: list[int] = []
        parents: list[int] = []
        confidences: list[float] = []
        ends: list[int] = []
        for tree in trees:
            token_ids += tree.token_ids
            parents += tree.parents
            confidences += tree.confidences
            ends.append(len(token_ids))
        return cls(
            token_ids=np.array(token_ids, dtype=np.int32),
            parents=np.array(parents, dtype=np.int16),
            confidences=np.array(confidences, dtype=np.float32),
            ends=np.array(ends, dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence["Drafts"]) -> "Drafts":
        """One after the other."""
        offsets = np.cumsum([0, *(len(part.token_ids) for part in parts)])
        return cls(
            token_ids=np.concatenate([part.token_ids for part in parts]),
            parents=np.concatenate([part.parents for part in parts]),
            confidences=np.concatenate([part.confidences for part in parts]),
            ends=np.concatenate([part.ends + offset for part, offset in zip(parts, offsets, strict=False)]),
        )

    def cut(self, place: int, shape: TreeShape, calibration: Calibration = UNCALIBRATED) -> TokenTree:
        """One tree, grown to a shape as its drafter would have: see worker/drafting.py."""
        start, end = int(self.ends[place - 1]) if place else 0, int(self.ends[place])
        token_ids = self.token_ids[start:end].tolist()
        own: list[float] = self.confidences[start:end].tolist()
        confidences = own if calibration == UNCALIBRATED else [calibration(confidence) for confidence in own]
        children = _children(self.parents[start:end].tolist())
        chances: dict[int, float] = {ROOT: 1.0}
        parents: dict[int, int] = {}
        frontier = [ROOT]
        for _ in range(shape.depth):
            level = []
            for parent in frontier:
                for node in children.get(parent, ())[: shape.branching]:
                    chance = confidences[node] * chances[parent]
                    if chance >= shape.least_confidence:
                        chances[node], parents[node] = chance, parent
                        level.append(node)
            frontier = sorted(level, key=lambda node: -chances[node])[: shape.branching]
        best = set(sorted(parents, key=lambda node: -chances[node])[: shape.budget])
        kept = [node for node in parents if node in best]
        place_of = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
        return TokenTree(
            token_ids=tuple(token_ids[node] for node in kept),
            parents=tuple(place_of[parents[node]] for node in kept),
            confidences=tuple(confidences[node] for node in kept),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Requests, and what every drafter would have drafted at every position of their answers.

    Attributes:
        drafters: Their names.
        depths: For each branching that was recorded how deep it was grown.
        revisions: Of the models, by drafter; the target's under "target".
        requests: In the order of the prompts.
        drafts: All trees.
    """

    drafters: tuple[str, ...]
    depths: Mapping[int, int]
    revisions: Mapping[str, str]
    requests: tuple[RecordedRequest, ...]
    drafts: Drafts
    _places: Mapping[str, int] = field(init=False, repr=False, compare=False)
    _columns: Mapping[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.drafters)})
        object.__setattr__(self, "_columns", {branching: place for place, branching in enumerate(sorted(self.depths))})

    def tree(
        self,
        request: RecordedRequest,
        drafter: str,
        position: int,
        shape: TreeShape,
        calibration: Calibration = UNCALIBRATED,
    ) -> TokenTree:
        """What a drafter would draft after `position` tokens of the answer.

        Raises:
            InvalidRequestError: No recorded tree contains this shape.
        """
        if shape.depth > self.depths.get(shape.branching, 0):
            raise InvalidRequestError("shape", f"{shape} was not recorded; {_in_words(self.depths)} were: record anew")
        row = self._places[drafter] * len(self._columns) + self._columns[shape.branching]
        return self.drafts.cut(request.first_draft + row * request.length + position, shape, calibration)

    def scores(self, request: RecordedRequest, drafter: str) -> TextScores:
        """How a drafter ranks the tokens of an answer.

        A recording holds the first candidates only; a token that is none of them counts as far behind.
        """
        widest = max(self.depths)
        shape = TreeShape(depth=1, branching=widest, budget=widest)
        trees = [self.tree(request, drafter, position, shape) for position in range(request.length)]
        ranked = [_rank(tree, token) for tree, token in zip(trees, request.token_ids[: request.length], strict=True)]
        return TextScores(
            ranks=tuple(rank for rank, _ in ranked), confidences=tuple(confidence for _, confidence in ranked)
        )

    def save(self, file: Path) -> None:
        """Write everything as one safetensors file: arrays, and JSON in its header."""
        about = {
            "format": FORMAT,
            "drafters": self.drafters,
            "depths": {str(branching): depth for branching, depth in self.depths.items()},
            "revisions": dict(self.revisions),
            "requests": [asdict(request) for request in self.requests],
        }
        arrays = {name: getattr(self.drafts, name) for name in _ARRAYS}
        save_file(arrays, file, metadata={"forerun": json.dumps(about)})

    @classmethod
    def load(cls, file: Path) -> "Recording":
        """Read what `save` wrote.

        Raises:
            ConfigurationError: It is no recording of this format.
        """
        try:
            with safe_open(file, framework="numpy") as opened:
                about = json.loads(opened.metadata()["forerun"])
                if about["format"] != FORMAT:
                    raise ConfigurationError(str(file), f"has format {about['format']!r}, not {FORMAT!r}: record anew")
                drafts = Drafts(**{name: opened.get_tensor(name) for name in _ARRAYS})
            return cls(
                drafters=tuple(about["drafters"]),
                depths={int(branching): int(depth) for branching, depth in about["depths"].items()},
                revisions=dict(about["revisions"]),
                requests=tuple(_request(row) for row in about["requests"]),
                drafts=drafts,
            ).checked(file)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(str(file), f"is no recording ({type(error).__name__}: {error})") from error

    def checked(self, file: Path) -> "Recording":
        """Itself, if its parts fit together.

        Raises:
            ConfigurationError: They do not.
        """
        trees = sum(request.length for request in self.requests) * len(self.drafters) * len(self.depths)
        ends = self.drafts.ends
        if (
            len(ends) != trees
            or (np.diff(ends, prepend=0) < 0).any()
            or (trees and ends[-1] != len(self.drafts.parents))
        ):
            raise ConfigurationError(str(file), "is damaged: its drafts do not fit its requests")
        return self


def expanded(branching: int) -> int:
    """Nodes of a level to look beyond: more than a worker does, because a calibrated drafter prefers others."""
    return branching if branching == 1 else branching + SPARE


def _rank(tree: TokenTree, token: int) -> tuple[int, float]:
    """A token's place among the nodes of one level, the likeliest first, and its confidence."""
    if token not in tree.token_ids:
        return FAR_BEHIND, 0.0
    node = tree.token_ids.index(token)
    return 1 + tree.children[ROOT].index(node), tree.confidences[node]


def _children(parents: Sequence[int]) -> dict[int, list[int]]:
    """Of each node, the likeliest first: so they were recorded."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    return children


def depths_of(shapes: Iterable[TreeShape]) -> Mapping[int, int]:
    """How deep each branching must be recorded so that all these shapes can be replayed."""
    depths: dict[int, int] = {}
    for shape in shapes:
        depths[shape.branching] = max(depths.get(shape.branching, 0), shape.depth)
    return depths


def _request(row: Mapping[str, Any]) -> RecordedRequest:
    return RecordedRequest(**{**row, "token_ids": tuple(row["token_ids"])})


def _in_words(depths: Mapping[int, int]) -> str:
    return ", ".join(f"branching {branching} to depth {depth}" for branching, depth in sorted(depths.items()))
