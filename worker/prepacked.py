"""Linear layers whose weights are packed once, when the model is loaded, for the kernels that read them.

oneDNN otherwise packs the weights of a bfloat16 product anew in every call, or takes a kernel that does without. Packed
weights stand in the place of plain ones, so that memory holds them once. Where it was measured products were the same
bit for bit (docs/log.md).
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from speculation.errors import UnservableModelError

ROWS = 16
"""Rows that weights are packed for: those of a verification. Any number may be multiplied."""


class PrepackedLinear(nn.Module):
    """What a bfloat16 `nn.Linear` on a CPU computes, by packed weights alone."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._weights: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weights, self._bias, "none", [], "")
        return outputs


@torch.inference_mode()
def prepack_linears(model: PreTrainedModel) -> None:
    """Pack the linear layers of a bfloat16 model on a CPU; a head that shares its weights with the embeddings stays.

    Raises:
        UnservableModelError: torch or the processor does not offer it here.
    """
    embeddings: Any = model.get_input_embeddings()
    shared = embeddings.weight.data_ptr()
    try:
        for module in list(model.modules()):
            for name, layer in list(module.named_children()):
                if type(layer) is nn.Linear and layer.weight.data_ptr() != shared:
                    setattr(module, name, PrepackedLinear(layer))
    except (AttributeError, RuntimeError) as error:  # operators are torch's own: another release may lack them
        problem = str(error).splitlines()[0]
        raise UnservableModelError(
            type(model).__name__, f"cannot be prepacked here, leave it out: {problem}"
        ) from error
