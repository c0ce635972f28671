"""Linear layers whose weights are packed once, when the model is loaded, for the kernels that read them.

torch hands a small product to a kernel that reads plain weights, or has oneDNN pack them anew in every call. oneDNN can
pack them once, too, and a kernel of our own reads them in panels. Which is fastest depends on the processor and the
number of threads by a factor of two either way (docs/log.md), so a trial on the model's own layers says so. Packed
weights stand in the place of plain ones, so that memory holds them once.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import PreTrainedModel

from speculation.errors import UnservableModelError
from worker.lean_layers import forget_plain_layers, lean_model
from worker.panels import PanelEmbedding, PanelLinear
from worker.probe import TOLERANCES, relative_error
from worker.settings import PACKABLE, Prepack

PACKED_ROWS = 16
"""Rows that weights are packed for: those of a verification. Any number may be multiplied."""

EXACT_ROWS = 32
"""Up to so many rows a product is of just these: they are what verifications have, and each row costs."""

WARM_ROWS = 128
"""Products of up to so many rows are tried when a model is loaded: those of a prompt's slice."""

TRIAL_ROWS = (1, 5, 16)
"""Plain decoding, a chain, a tree."""

TRIAL_BYTES = 128 * 2**20
"""Weights of the layers that a trial multiplies in turn: more than caches hold, as in a forward."""

TRIAL_TURNS = 5

WORTH = 0.95
"""Packed layers that need no less of the time of plain ones are not worth an operator that is torch's own."""

_logger = logging.getLogger(__name__)


class PrepackedLinear(nn.Module):
    """What a `nn.Linear` on a CPU computes, by packed weights alone.

    oneDNN makes a kernel for each number of rows that it meets, which takes half a millisecond and 0.3 MiB for a small
    layer (docs/log.md, "Memory of a worker"), and it keeps up to a thousand. So larger numbers are rounded up.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._weights: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), PACKED_ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach()

    @classmethod
    def of(cls, layers: Sequence[nn.Linear]) -> list["PrepackedLinear"]:
        """Those layers.

        Raises:
            AttributeError: Another torch, which lacks the operators.
            RuntimeError: This processor, or torch, does not do that.
        """
        return [cls(layer) for layer in layers]

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        rows = inputs.shape[-2]
        missing = rounded_rows(rows) - rows
        given = functional.pad(inputs, (0, 0, 0, missing)) if missing else inputs
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._weights, self._bias, "none", [], "")
        return outputs[..., :rows, :] if missing else outputs


Form = type[PanelLinear] | type[PrepackedLinear]

FORMS: tuple[Form, ...] = (PanelLinear, PrepackedLinear)
"""What a trial compares with plain weights."""


def rounded_rows(rows: int) -> int:
    """The next number of rows that products are made for: beyond EXACT_ROWS one of at most four binary digits."""
    step = 1 if rows <= EXACT_ROWS else 2 ** (rows.bit_length() - 4)
    return -(-rows // step) * step


@torch.inference_mode()
def prepack_linears(model: Any, prepack: Prepack = "auto") -> bool:
    """Pack the linear layers of a model that engines have taken over, unless plain ones are as fast.

    Returns:
        Whether they were packed.

    Raises:
        UnservableModelError: Packing was asked for, and neither torch nor the processor offers it here.
    """
    if prepack == "off" or (str(model.dtype).removeprefix("torch."), model.device.type) not in PACKABLE:
        return False
    ratios = _trial(model, FORMS)
    form = min(ratios, key=lambda form: ratios[form], default=None)
    if form is None and prepack == "on":
        raise UnservableModelError(type(model).__name__, "cannot be prepacked here, leave it out")
    if form is None or (prepack == "auto" and ratios[form] > WORTH):
        return False
    _pack(model, form)
    return True


@torch.inference_mode()
def pack_in_panels(model: Any) -> bool:
    """The same in panels, whatever is fastest.

    Raises:
        UnservableModelError: Their products are others, on this processor.
    """
    if PanelLinear not in _trial(model, (PanelLinear,)):
        raise UnservableModelError(type(model).__name__, "cannot be prepacked here, leave it out")
    _pack(model, PanelLinear)
    return True


def _pack(model: Any, form: Form) -> None:
    """A head that shares its weights with the embeddings stays as it is, unless both can read them in panels."""
    linears = _plain_linears(model)
    tied_head = _tied_head(model) if form is PanelLinear else None
    if tied_head is not None:
        linears.append((model, "lm_head", tied_head))
    forget_plain_layers(model)
    for (parent, name, _), packed in zip(linears, form.of([layer for _, _, layer in linears]), strict=True):
        setattr(parent, name, packed)
    if tied_head is not None:
        model.model.embed_tokens = PanelEmbedding(model.lm_head)
    _warm_up(model)


def _tied_head(model: Any) -> nn.Linear | None:
    """A lean model's head that shares its weights with the embeddings, which can then be looked up in its panels."""
    if lean_model(model) is None or model.lm_head.weight is not model.model.embed_tokens.weight:
        return None
    return cast(nn.Linear, model.lm_head)


def _warm_up(model: PreTrainedModel) -> None:
    """Have the kernels made before anybody waits for them; layers of one shape share theirs."""
    packed = (layer for layer in model.modules() if isinstance(layer, PrepackedLinear))
    shapes = {(layer.in_features, layer.out_features): layer for layer in packed}
    for layer in shapes.values():
        for rows in sorted(set(map(rounded_rows, range(1, WARM_ROWS + 1)))):
            layer(torch.zeros(rows, layer.in_features, dtype=model.dtype))


def _plain_linears(model: PreTrainedModel) -> list[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and layer of what can be packed."""
    embeddings: Any = model.get_input_embeddings()
    shared = embeddings.weight.data_ptr()
    return [
        (parent, name, layer)
        for parent in model.modules()
        for name, layer in parent.named_children()
        if type(layer) is nn.Linear and layer.weight.data_ptr() != shared
    ]


def _trial(model: PreTrainedModel, forms: Sequence[Form]) -> dict[Form, float]:
    """Time of layers packed in a form over that of plain ones, in the mean over TRIAL_ROWS, of forms offered here."""
    layers = list(_some([layer for _, _, layer in _plain_linears(model)]))
    packed: dict[Form, Sequence[nn.Module]] = {}
    for form in forms:
        try:
            packed[form] = _packed(form, layers)
        except (AttributeError, ImportError, RuntimeError, ValueError) as error:  # another torch may lack the operators
            _logger.info("weights are not packed as %s: %s", form.__name__, str(error).splitlines()[0])
    ratios: dict[Form, list[float]] = {form: [] for form in packed}
    for count in TRIAL_ROWS:
        inputs = [_rows(count, layer) for layer in layers]
        plain_s, *packed_s = _least_times((layers, *packed.values()), inputs)
        for form, seconds in zip(packed, packed_s, strict=True):
            ratios[form].append(seconds / plain_s)
    for form, found in ratios.items():
        times = ", ".join(f"{ratio:.2f}" for ratio in found)
        _logger.debug("%s: %s of the time of plain weights at %s rows", form.__name__, times, TRIAL_ROWS)
    return {form: sum(found) / len(found) for form, found in ratios.items()}


def _packed(form: Form, layers: Sequence[nn.Linear]) -> Sequence[nn.Module]:
    """The layers in a form.

    Raises:
        ValueError: Their products are others, on this processor.
    """
    packed = form.of(layers)
    for layer, plain in zip(packed, layers, strict=True):
        rows = _rows(TRIAL_ROWS[1], plain)
        error = relative_error(layer(rows), plain(rows))
        if not error <= TOLERANCES[plain.weight.dtype]:
            raise ValueError(f"a packed product is off by {error:.1e}")
    return packed


def _some(layers: Sequence[nn.Linear]) -> Iterator[nn.Linear]:
    """The first layers, up to TRIAL_BYTES of them."""
    sizes = accumulate(layer.weight.nbytes for layer in layers)
    return (layer for layer, size in zip(layers, sizes, strict=True) if size <= TRIAL_BYTES or layer is layers[0])


def _least_times(variants: Sequence[Sequence[Callable[[Tensor], Tensor]]], inputs: Sequence[Tensor]) -> list[float]:
    """Seconds that each variant takes for all inputs: the least of TRIAL_TURNS, taken in turn."""
    least = [float("inf") for _ in variants]
    for _ in range(TRIAL_TURNS):
        for place, layers in enumerate(variants):
            began = time.perf_counter()
            for layer, rows in zip(layers, inputs, strict=True):
                layer(rows)
            least[place] = min(least[place], time.perf_counter() - began)
    return least


def _rows(count: int, layer: nn.Linear) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, layer.in_features, generator=generator).to(layer.weight.dtype)
