"""What sessions and jobs need of an engine, and what stands in its place where no model runs."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from speculation.errors import CapacityError
from worker.scratch import Chunk


class NoFreeSlotError(CapacityError):
    """Every slot is open; expected under load: close one or try later."""


class Slots(Protocol):
    """Places for sessions, and forwards over them. See `Engine` for what each method promises."""

    slots: int
    vocab_size: int
    device: torch.device

    @property
    def num_free(self) -> int:
        """Slots that nobody has reserved."""

    @property
    def cache_bytes(self) -> int:
        """Memory held for keys and values."""

    @property
    def cache_tokens(self) -> int:
        """Tokens that fit into it."""

    def open(self) -> int:
        """Reserve an empty slot."""

    def close(self, slot: int) -> None:
        """Give it back."""

    def length(self, slot: int) -> int:
        """Tokens whose keys and values are kept."""

    def scratch(self, slot: int) -> list[tuple[int, int]]:
        """(token, parent) of what was forwarded beyond them."""

    def commit(self, slot: int, keep: Sequence[int] | None = None) -> None:
        """Keep a path of that."""

    def truncate(self, slot: int, length: int) -> None:
        """Drop what lies beyond."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a slot hold the beginning of another one."""

    def forward(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """Run the model."""


class NoModel:
    """Slots for drafters that have no model: nothing is cached in them, and nothing can be forwarded.

    Args:
        slots: Sessions at once.
        vocab_size: Of the tokens that they hold.
    """

    def __init__(self, *, slots: int, vocab_size: int) -> None:
        self.slots, self.vocab_size = slots, vocab_size
        self.device = torch.device("cpu")
        self._free = list(reversed(range(slots)))

    @property
    def num_free(self) -> int:
        """Slots that nobody has reserved."""
        return len(self._free)

    @property
    def cache_bytes(self) -> int:
        """Nothing is cached."""
        return 0

    @property
    def cache_tokens(self) -> int:
        """Nothing is cached."""
        return 0

    def open(self) -> int:
        """Reserve a slot.

        Raises:
            NoFreeSlotError: All are open.
        """
        if not self._free:
            raise NoFreeSlotError(f"all {self.slots} slots are in use")
        return self._free.pop()

    def close(self, slot: int) -> None:
        """Give it back."""
        self._free.append(slot)

    def length(self, slot: int) -> int:
        """Nothing is cached."""
        return 0

    def scratch(self, slot: int) -> list[tuple[int, int]]:
        """Nothing is there."""
        return []

    def commit(self, slot: int, keep: Sequence[int] | None = None) -> None:
        """Nothing is kept."""

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is there to be dropped."""

    def copy(self, source: int, target: int, length: int) -> None:
        """Nothing is there to be copied."""

    def forward(self, chunks: Sequence[Chunk]) -> list[Tensor]:
        """There is nothing to run."""
        raise RuntimeError("a drafter without a model wants no forward")
