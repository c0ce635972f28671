"""May this model be served? Answered when it is loaded, not found out by a user.

First what is known not to work is refused by name. Then the engine's logits are compared with the plain model's on
ragged sessions and forked trees. Sliding and chunked windows are shortened for both sides while this runs, so that a
window of any size is crossed by a few dozen tokens: both read it from the configuration at every call.
"""

from collections.abc import Iterator, Mapping, Sequence
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

TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest relative error of the logits that rounding explains."""

SERVABLE_LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}
BATCH_DEPENDENT_ROPES = {"dynamic", "longrope"}

_PROMPT_LENGTHS = (23, 4)
_FIRST_TREE = (ROOT, 0, 0, 1, 1, 2, 3, 4, 6)
_SECOND_TREE = (5, 9, 5, 10, 10, 8)
"""More tokens below the first tree, sent later, as a drafter growing depth by depth does."""
_KEPT = (0, 2, 5, 9, 10, 12)
_LAST_TREE = (ROOT, 0, 0, 2)

Path = list[int]
"""All tokens of a session down to one node."""

Probed = list[tuple[list[Path], Tensor]]
"""See `probe`."""


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
    if ropes := sorted(_rope_types(config) & BATCH_DEPENDENT_ROPES):
        raise UnservableModelError(
            name, f"uses {', '.join(ropes)} rope, where a token's encoding depends on the longest session of the batch"
        )
    if not model._can_set_attn_implementation():
        raise UnservableModelError(name, "does not use transformers' AttentionInterface")


def _rope_types(config: object) -> set[str]:
    """Rope types a configuration names; newer ones nest one rope per layer type, older ones call the type `type`."""
    ropes = [getattr(config, name, None) for name in ("rope_parameters", "rope_scaling")]
    found = set()
    while ropes:
        rope = ropes.pop()
        if isinstance(rope, Mapping):
            ropes += rope.values()
            found |= {rope.get("rope_type"), rope.get("type")}
    return {name for name in found if isinstance(name, str)}


@torch.inference_mode()
def probe(model: PreTrainedModel, engine: "Engine") -> Probed:
    """What the engine says to all that happens to sessions in service.

    Args:
        model: The model that the engine runs.
        engine: Empty, with PROBE_SLOTS slots of PROBE_LENGTH tokens.

    Returns:
        For each forward the path that leads to every logit row, and the logits (paths, vocab); always the same paths.
    """
    with short_windows(model):
        return _Trial(engine).run()


@torch.inference_mode()
def require_exact(model: PreTrainedModel, probed: Probed) -> float:
    """Compare an engine with the plain model.

    Args:
        model: Not packed.
        probed: What an engine that runs it said.

    Returns:
        The largest relative error of the logits.

    Raises:
        UnservableModelError: It is beyond what rounding explains.
    """
    with short_windows(model), _plain_attention(model):
        expected = [(paths, _plain_logits(model, paths)) for paths, _ in probed]
    return require_agreement(model, probed, expected)


def require_agreement(model: PreTrainedModel, probed: Probed, expected: Probed) -> float:
    """Compare what two said; see `require_exact`."""
    errors = [relative_error(got, wanted) for (_, got), (_, wanted) in zip(probed, expected, strict=True)]
    error, tolerance = max(errors), TOLERANCES[model.dtype]
    if not all(error <= tolerance for error in errors):  # so put that an error that is not a number refuses
        raise UnservableModelError(
            type(model).__name__,
            f"engine and plain model disagree: relative logit error {error:.1e}, {tolerance:.0e} is allowed",
        )
    return error


class _Trial:
    """What happens to a session in service, to several at once, on random tokens."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._generator = torch.Generator().manual_seed(0)
        self._slots = [engine.open() for _ in _PROMPT_LENGTHS]
        self._prefixes: list[Path] = [[] for _ in self._slots]
        self._scratches: list[list[Path]] = [[] for _ in self._slots]

    def run(self) -> Probed:
        """See `probe`."""
        prompt = self._forward([range(ROOT, length - 1) for length in _PROMPT_LENGTHS])
        self._commit(None)
        first, second = self._forward([_FIRST_TREE] * PROBE_SLOTS), self._forward([_SECOND_TREE] * PROBE_SLOTS)
        self._commit(_KEPT)
        return [prompt, first, second, self._forward([_LAST_TREE] * PROBE_SLOTS)]

    def _forward(self, trees: Sequence[Sequence[int]]) -> tuple[list[Path], Tensor]:
        chunks, paths = [], []
        for slot, tree, prefix, scratch in zip(self._slots, trees, self._prefixes, self._scratches, strict=True):
            token_ids = torch.randint(self._engine.vocab_size, (len(tree),), generator=self._generator).tolist()
            for token, parent in zip(token_ids, tree, strict=True):
                scratch.append([*(prefix if parent == ROOT else scratch[parent]), token])
            chunks.append(Chunk(slot=slot, token_ids=token_ids, parents=tree))
            paths += scratch[-len(tree) :]
        return paths, torch.cat(self._engine.forward(chunks))

    def _commit(self, keep: Sequence[int] | None) -> None:
        for index, slot in enumerate(self._slots):
            self._engine.commit(slot, keep)
            self._prefixes[index] = self._scratches[index][-1 if keep is None else keep[-1]]
            self._scratches[index] = []


def _plain_logits(model: PreTrainedModel, paths: Sequence[Path]) -> Tensor:
    """The plain model's logits (paths, vocab) after the last token of each path."""
    longest = _maximal(paths)
    # Padding on the right is invisible to what comes before it in a causal model, so no mask is needed.
    width = max(map(len, longest))
    batch = torch.tensor([path + [0] * (width - len(path)) for path in longest], device=model.device)
    logits = model(input_ids=batch, use_cache=False).logits
    return torch.stack([logits[_row_of(path, longest), len(path) - 1] for path in paths])


def _maximal(paths: Sequence[Path]) -> list[Path]:
    """The paths that are no prefix of another one."""
    kept: list[Path] = []
    for path in sorted(paths, key=len, reverse=True):
        if not any(longer[: len(path)] == path for longer in kept):
            kept.append(path)
    return kept


def _row_of(path: Path, longest: Sequence[Path]) -> int:
    return next(row for row, longer in enumerate(longest) if longer[: len(path)] == path)


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Distance of logit rows from the expected ones, relative to their length; a constant added to a row is none.

    In full precision that of the worst row. In half precision the median row: there a rounded router score sends a few
    tokens to another expert, in the plain model too when its batch changes, while a wrong mask spoils most rows.
    """
    is_half = logits.dtype in (torch.bfloat16, torch.float16)
    logits, expected = logits.double(), expected.double()
    centred = expected - expected.mean(dim=-1, keepdim=True)
    distance = logits - logits.mean(dim=-1, keepdim=True) - centred
    errors = distance.norm(dim=-1) / centred.norm(dim=-1).clamp_min(1e-30)
    return float(errors.median() if is_half else errors.max())


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
def short_windows(model: PreTrainedModel) -> Iterator[None]:
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
