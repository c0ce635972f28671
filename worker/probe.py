"""May this model be served? Answered when it is loaded, not found out by a user.

First what is known not to work is refused by name. Then the engine's logits are compared with the plain model's on
ragged sessions and forked trees. Sliding and chunked windows are shortened for both sides while this runs, so that a
window of any size is crossed by a few dozen tokens: both read it from the configuration at every call.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from speculation.errors import UnservableModelError
from speculation.tree import ROOT
from worker.scratch import Chunk

if TYPE_CHECKING:
    from worker.engine import Engine

PROBE_SLOTS = 2
PROBE_LENGTH = 48
PROBE_WINDOW = 5

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
"""Largest relative error of one position's logits that rounding explains."""

SERVABLE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
BATCH_DEPENDENT_ROPES = {"dynamic", "longrope"}

_PROMPT_LENGTHS = (23, 4)
_FIRST_TREE = (ROOT, 0, 0, 1, 1, 2, 3, 4, 6)
_SECOND_TREE = (5, 9, 5, 10, 10, 8)
"""Parents of more tokens below the first tree, as a drafter growing depth by depth sends them."""
_KEPT = (0, 2, 5, 9, 10, 12)
_LAST_TREE = (ROOT, 0, 0, 2)


def refuse_unservable(model: PreTrainedModel) -> None:
    """Raise UnservableModelError for architectures known to need what the engine does not offer."""
    name, config = type(model).__name__, model.config.get_text_config()
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnservableModelError(name, "is an encoder-decoder; only decoders are served")
    if model.dtype not in TOLERANCES:
        raise UnservableModelError(name, f"has weights of type {model.dtype}; use float32, bfloat16 or float16")
    if recurrent := sorted(set(getattr(config, "layer_types", None) or ()) - SERVABLE_LAYERS):
        raise UnservableModelError(name, f"has {', '.join(recurrent)} layers, whose state cannot be cut back")
    if getattr(model, "_is_stateful", False):
        raise UnservableModelError(name, "has recurrent layers, whose state cannot be cut back")
    if ropes := sorted(set(_rope_types(config.to_dict())) & BATCH_DEPENDENT_ROPES):
        raise UnservableModelError(
            name, f"uses {', '.join(ropes)} rope, where a token's encoding depends on the longest session of the batch"
        )
    if not model._can_set_attn_implementation():
        raise UnservableModelError(name, "does not use transformers' AttentionInterface")


def _rope_types(config: Mapping[str, object]) -> Iterator[str]:
    """Every rope type named in a configuration; newer ones nest a rope per layer type."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _rope_types(value)
        elif key in ("rope_type", "type") and isinstance(value, str):
            yield value


@torch.inference_mode()
def require_exact(model: PreTrainedModel, engine: "Engine") -> float:
    """Compare the engine with the plain model.

    Args:
        model: The model that the engine runs.
        engine: Empty, with PROBE_SLOTS slots of PROBE_LENGTH tokens.

    Returns:
        The largest relative error of the logits after one token.

    Raises:
        UnservableModelError: It is beyond what rounding explains.
    """
    with _short_windows(model):
        seen = _run_engine(engine)
        with _plain_attention(model):
            errors = [_worst_error(model, paths, logits) for paths, logits in seen]
    error, tolerance = max(errors), TOLERANCES[model.dtype]
    if not all(error <= tolerance for error in errors):  # written so that an error that is not a number refuses
        raise UnservableModelError(
            type(model).__name__,
            f"engine and plain model disagree: relative logit error {error:.1e}, {tolerance:.0e} is allowed",
        )
    return error


def _run_engine(engine: "Engine") -> list[tuple[list[list[int]], Tensor]]:
    """What happens to a session in service, for several at once.

    Returns:
        For each session the token path that leads to every logit row, and the logits (paths, vocab).
    """
    generator = torch.Generator().manual_seed(0)

    def some_tokens(count: int) -> list[int]:
        return torch.randint(engine.vocab_size, (count,), generator=generator).tolist()

    slots = [engine.open() for _ in _PROMPT_LENGTHS]
    prefixes: list[list[int]] = [[] for _ in slots]
    paths: list[list[list[int]]] = [[] for _ in slots]
    logits: list[list[Tensor]] = [[] for _ in slots]

    def forward(trees: Sequence[Sequence[int]], scratches: list[list[list[int]]]) -> None:
        """Forward one tree per session; a scratch lists the path to each of its tokens."""
        chunks = []
        for slot, tree, prefix, scratch in zip(slots, trees, prefixes, scratches, strict=True):
            tokens = some_tokens(len(tree))
            for token, parent in zip(tokens, tree, strict=True):
                scratch.append([*(prefix if parent == ROOT else scratch[parent]), token])
            chunks.append(Chunk(slot=slot, token_ids=tokens, parents=tree))
        for session, rows in enumerate(engine.forward(chunks)):
            logits[session].append(rows)
            paths[session] += scratches[session][-len(trees[session]) :]

    def commit(scratches: list[list[list[int]]], keep: Sequence[int] | None) -> None:
        for session, slot in enumerate(slots):
            engine.commit(slot, keep)
            prefixes[session] = scratches[session][-1 if keep is None else keep[-1]]

    def fresh() -> list[list[list[int]]]:
        return [[] for _ in slots]

    scratch = fresh()
    forward([range(ROOT, length - 1) for length in _PROMPT_LENGTHS], scratch)
    commit(scratch, None)
    scratch = fresh()
    forward([_FIRST_TREE] * len(slots), scratch)
    forward([_SECOND_TREE] * len(slots), scratch)
    commit(scratch, _KEPT)
    forward([_LAST_TREE] * len(slots), fresh())
    return [(paths[session], torch.cat(logits[session])) for session in range(len(slots))]


def _worst_error(model: PreTrainedModel, paths: list[list[int]], logits: Tensor) -> float:
    """Largest relative error over paths, each compared with the plain model's last logits on that path alone."""
    longest = _maximal(paths)
    # Padding on the right is invisible to what comes before it in a causal model, so no mask is needed.
    width = max(map(len, longest))
    batch = torch.tensor([path + [0] * (width - len(path)) for path in longest], device=logits.device)
    plain = model(input_ids=batch, use_cache=False).logits
    expected = torch.stack([plain[_row_of(path, longest), len(path) - 1] for path in paths])
    return relative_error(logits, expected)


def _maximal(paths: Iterable[list[int]]) -> list[list[int]]:
    """The paths that are no prefix of another one."""
    kept: list[list[int]] = []
    for path in sorted(paths, key=len, reverse=True):
        if not any(longer[: len(path)] == path for longer in kept):
            kept.append(path)
    return kept


def _row_of(path: list[int], longest: list[list[int]]) -> int:
    return next(row for row, longer in enumerate(longest) if longer[: len(path)] == path)


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Largest distance of a row from the expected one, in lengths of that; a constant added to a row is no error."""
    logits, expected = logits.double(), expected.double()
    centred = expected - expected.mean(dim=-1, keepdim=True)
    distance = logits - logits.mean(dim=-1, keepdim=True) - centred
    return float((distance.norm(dim=-1) / centred.norm(dim=-1).clamp_min(1e-30)).max())


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """The model as transformers runs it; `eager` is the one implementation that every score function supports."""
    used = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(used)


@contextmanager
def _short_windows(model: PreTrainedModel) -> Iterator[None]:
    """Attention windows no longer than PROBE_WINDOW."""
    configs = {id(config): config for module in model.modules() if (config := getattr(module, "config", None))}
    saved = [
        (config, name, window)
        for config in configs.values()
        for name in ("sliding_window", "attention_chunk_size")
        if isinstance(window := getattr(config, name, None), int) and window > PROBE_WINDOW
    ]
    try:
        for config, name, _ in saved:
            setattr(config, name, PROBE_WINDOW)
        yield
    finally:
        for config, name, window in saved:
            setattr(config, name, window)
