"""An engine over several ranks: rank 0's tells the others what it does, theirs do it after.

Each rank has an engine of its own over its part of the model, and a pool that holds its part of the heads. What an
engine does follows from its orders alone, so slots, prefixes and scratches are the same everywhere and never travel.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from worker.engine import Engine
from worker.ranks import END, Order, RankLostError, Ranks
from worker.scratch import Chunk, Scratch

MOST_UNTOLD = 256
"""Orders that may wait for the next forward."""


class LeadingEngine(Engine):
    """Rank 0's. Orders are cheap to carry out, so they wait, and go out with the next forward.

    Args:
        model: This rank's part.
        ranks: The others.
        options: As for `Engine`; the same on all ranks.
    """

    def __init__(self, model: PreTrainedModel, ranks: Ranks, **options: Any) -> None:
        super().__init__(model, **options)
        self._ranks = ranks
        self._untold: list[Order] = []

    def open(self) -> int:
        slot = super().open()
        self._order("open")
        return slot

    def close(self, slot: int) -> None:
        super().close(slot)
        self._order("close", slot)

    def commit(self, slot: int, keep: Sequence[int] | None = None) -> None:
        super().commit(slot, keep)
        self._order("commit", slot, _numbers(keep))

    def truncate(self, slot: int, length: int) -> None:
        super().truncate(slot, length)
        self._order("truncate", slot, length)

    def copy(self, source: int, target: int, length: int) -> None:
        super().copy(source, target, length)
        self._order("copy", source, target, length)

    def _run(self, chunks: Sequence[Chunk], grown: Sequence[Scratch]) -> Tensor:
        """Reached when nothing is wrong with the chunks."""
        self._untold.append(["forward", [_told(chunk) for chunk in chunks]])
        try:
            self._tell()
            return super()._run(chunks, grown)
        except Exception as error:  # whatever it is, the others are inside of the same forward, or never will be
            self._ranks.abandon(error)

    def _order(self, name: str, *arguments: Any) -> None:
        self._untold.append([name, *arguments])
        if len(self._untold) > MOST_UNTOLD:
            try:
                self._tell()
            except RuntimeError as error:
                self._ranks.abandon(error)

    def _tell(self) -> None:
        self._ranks.tell(self._untold)
        self._untold = []


def follow(engine: Engine, ranks: Ranks) -> None:
    """Do what rank 0 does, until it says that this is the end.

    Raises:
        RankLostError: Rank 0 is gone, or this rank can no longer do the same.
    """
    while True:
        for name, *arguments in ranks.hear():
            if name == END:
                return
            try:
                _obey(engine, name, arguments)
            except Exception as error:  # rank 0 could do it; from here on the two would differ
                raise RankLostError(f"rank {ranks.rank} cannot {name} as rank 0 did: {error}") from error


def _obey(engine: Engine, name: str, arguments: Sequence[Any]) -> None:
    match name:
        case "open":
            engine.open()
        case "close":
            engine.close(*arguments)
        case "commit":
            engine.commit(*arguments)
        case "truncate":
            engine.truncate(*arguments)
        case "copy":
            engine.copy(*arguments)
        case "forward":
            engine.forward(
                [
                    Chunk(slot=slot, token_ids=token_ids, parents=parents, wanted=wanted)
                    for slot, token_ids, parents, wanted in arguments[0]
                ]
            )
        case _:
            raise ValueError("it is not known here")


def _told(chunk: Chunk) -> Order:
    return chunk.slot, _numbers(chunk.token_ids), _numbers(chunk.parents), _numbers(chunk.wanted)


def _numbers(numbers: Sequence[int] | None) -> list[int] | None:
    return None if numbers is None else [int(number) for number in numbers]
