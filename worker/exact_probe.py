"""Are a token's logits the same to the last bit, however it is forwarded? Asked of every model that is served so."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from speculation.errors import UnservableModelError
from speculation.tree import ROOT
from worker.probe import short_windows
from worker.scratch import Chunk

if TYPE_CHECKING:
    from worker.engine import Engine

_PROMPT_LENGTH = 56
_ONE_BY_ONE = 50
"""From this token of the prompt on."""

_TREE = (*range(ROOT, 11), 9, 12, 3, 14, 0)
"""Its longest path reaches beyond the 64 positions that are attended to in one piece."""

BITS_LENGTH = _PROMPT_LENGTH + len(_TREE)
"""Tokens a slot must have room for."""


@torch.inference_mode()
def require_equal_bits(model: PreTrainedModel, engine: "Engine") -> None:
    """Compare a prompt and a tree, each forwarded at once beside another session, with the same in pieces and alone.

    Args:
        model: The model that the engine runs.
        engine: Exact and empty, with two slots of BITS_LENGTH tokens.

    Raises:
        UnservableModelError: A bit differs.
    """
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(engine.vocab_size, (BITS_LENGTH,), generator=generator).tolist()
    with short_windows(model):
        together, apart = _together(engine, token_ids), _apart(engine, token_ids)
    if not torch.equal(together, apart):
        share = (together != apart).any(dim=-1).float().mean()
        raise UnservableModelError(
            type(model).__name__, f"cannot be served bit for bit: {share:.0%} of the logits of a trial depend on drafts"
        )


def _together(engine: "Engine", token_ids: list[int]) -> Tensor:
    """Logits (tokens, vocab) of a prompt and a tree below it, each in one forward with another session."""
    prompt, tree = token_ids[:_PROMPT_LENGTH], token_ids[_PROMPT_LENGTH:]
    slots = [engine.open(), engine.open()]
    read = engine.forward([Chunk(slot=slots[0], token_ids=prompt[1:]), Chunk(slot=slots[1], token_ids=prompt)])
    for slot in slots:
        engine.commit(slot)
    drafted = engine.forward([Chunk(slot=slot, token_ids=tree, parents=_TREE) for slot in slots])
    for slot in slots:
        engine.close(slot)
    return torch.cat([read[1], drafted[1]])


def _apart(engine: "Engine", token_ids: list[int]) -> Tensor:
    """The same by plain decoding, the beginning of the prompt in two slices."""
    slot = engine.open()
    logits: list[Tensor] = []
    cuts = (0, 5, *range(_ONE_BY_ONE, _PROMPT_LENGTH + 1))
    for start, stop in pairwise(cuts):
        logits += engine.forward([Chunk(slot=slot, token_ids=token_ids[start:stop])])
        engine.commit(slot)
    for node, depth in _walk():
        engine.truncate(slot, _PROMPT_LENGTH + depth)
        logits += engine.forward([Chunk(slot=slot, token_ids=[token_ids[_PROMPT_LENGTH + node]])])
        engine.commit(slot)
    engine.close(slot)
    return torch.cat(logits)


def _walk() -> Iterator[tuple[int, int]]:
    """The tree's nodes and depths; when a node's turn comes, all its ancestors came before it and lie where they were,
    since branches leave the longest path from below upwards."""
    depths: list[int] = []
    for node, parent in enumerate(_TREE):
        depths.append(0 if parent == ROOT else depths[parent] + 1)
        yield node, depths[node]
