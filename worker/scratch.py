"""New tokens, and those forwarded but not yet committed: a forest below a session's committed prefix."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speculation.errors import InvalidTreeError
from speculation.tree import ROOT


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """New tokens of one session.

    Attributes:
        slot: The session, from `Engine.open`.
        token_ids: At least one token.
        parents: For each token the index of its parent in the slot's scratch, where tokens forwarded since the last
            commit come first, then this chunk's own; ROOT for the committed prefix. None: a chain continuing the
            scratch.
        wanted: Indices into token_ids whose logits are returned, in that order; None for all, () for none.
        in_run: Whether its call has been judged already: with whom this forward is shared says nothing of that.
    """

    slot: int
    token_ids: Sequence[int]
    parents: Sequence[int] | None = None
    wanted: Sequence[int] | None = None
    in_run: bool = False

    @property
    def num_wanted(self) -> int:
        """Tokens whose logits are returned."""
        return len(self.token_ids) if self.wanted is None else len(self.wanted)

    @property
    def num_nodes(self) -> int:
        """Of a verification, those of its tree; its first wanted token is the root."""
        return max(self.num_wanted - 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scratch:
    """Uncommitted tokens of one session, in the order they were forwarded.

    Growing returns a new value, so a forward that fails leaves the old one in place.

    Attributes:
        parents: Index of each token's parent in this scratch, or ROOT for the committed prefix.
        depths: Distance of each token from the committed prefix; 0 follows it directly.
        ancestor_bits: For each token the set of its ancestors and itself, bit i standing for token i. None for a
            chain, where a prompt of n tokens would need n * n bits to say nothing.
    """

    parents: Sequence[int] = ()
    depths: Sequence[int] = ()
    ancestor_bits: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def is_chain(self) -> bool:
        """Whether every token follows the one before it."""
        return self.ancestor_bits is None

    def grown(self, count: int, parents: Sequence[int] | None = None) -> "Scratch":
        """This scratch with `count` more tokens below it.

        Args:
            count: Number of new tokens.
            parents: Index of each new token's parent in the grown scratch, or ROOT; None continues the chain.

        Raises:
            InvalidTreeError: A token comes before its parent, or lengths differ.
        """
        total = len(self) + count
        continuing = range(len(self) - 1, total - 1)
        if parents is not None and len(parents) != count:
            raise InvalidTreeError(f"{count} tokens and {len(parents)} parents")
        if self.is_chain and (parents is None or list(parents) == list(continuing)):
            return Scratch(parents=range(ROOT, total - 1), depths=range(total))
        return self._grown_into_tree(continuing if parents is None else parents)

    def _grown_into_tree(self, parents: Sequence[int]) -> "Scratch":
        depths = list(self.depths)
        bits = list(self._bits())
        for parent in parents:
            node = len(bits)
            if not ROOT <= parent < node:
                raise InvalidTreeError(f"token {node} names parent {parent}; parents must come first")
            depths.append(0 if parent == ROOT else depths[parent] + 1)
            bits.append(1 << node | (0 if parent == ROOT else bits[parent]))
        return Scratch(parents=(*self.parents, *parents), depths=depths, ancestor_bits=bits)

    def _bits(self) -> Iterable[int]:
        if self.ancestor_bits is None:
            return ((2 << node) - 1 for node in range(len(self)))
        return self.ancestor_bits

    def ancestry(self, first: int) -> NDArray[np.bool_]:
        """Which tokens the tokens from `first` on descend from; each descends from itself.

        Returns:
            (len - first, len) boolean matrix.
        """
        num_bytes = (len(self) + 7) // 8
        packed = b"".join(bits.to_bytes(num_bytes, "little") for bits in list(self._bits())[first:])
        rows = np.frombuffer(packed, dtype=np.uint8).reshape(-1, num_bytes)
        return np.unpackbits(rows, axis=1, count=len(self), bitorder="little").astype(np.bool_)

    def path(self, keep: Sequence[int] | None) -> Sequence[int]:
        """The tokens to keep, checked to be a path down from the committed prefix; None asks for all of them.

        Raises:
            InvalidTreeError: A kept token does not follow the one kept before it.
        """
        kept: Sequence[int] = range(len(self)) if keep is None else keep
        if self.is_chain and kept == range(len(self)):
            return kept
        previous = ROOT
        for node in kept:
            if not 0 <= node < len(self) or self.parents[node] != previous:
                raise InvalidTreeError(f"token {node} does not follow token {previous} on a path; cannot keep both")
            previous = node
        return kept


EMPTY = Scratch()
