"""Decoder layers of the Llama family, computed with half the operators that transformers' own layers call.

In a small model on a CPU most of a forward is not arithmetic but the calling of operators: seven products a layer, each
with views around it, and two norms and a rotation of half a dozen operators each. Here queries, keys and values are one
product, so are gate and up, queries and keys are rotated together, and a norm is one call. What is computed is the same
but for rounding, which the engine's check holds against transformers' layers when a model is loaded.
"""

from typing import Any, cast

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers import PreTrainedModel

from worker.attention import Scoring, running_step

FAMILY = frozenset({"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"})
"""Layers of one form: norm, rotated attention, norm, gated feed-forward, with or without biases and norms of heads."""

MODELS = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})
"""Models that are embeddings, such layers, a norm and a head, and nothing else."""


def make_layers_lean(model: PreTrainedModel) -> None:
    """Let the layers of a known form be computed with fewer operators; others stay as they are."""
    for module in list(model.modules()):
        if isinstance(module, nn.ModuleList):
            for place, layer in enumerate(module):
                if type(layer).__name__ in FAMILY and _has_known_form(layer):
                    module[place] = LeanLayer(layer)


def lean_model(model: PreTrainedModel) -> "LeanModel | None":
    """The forward of a model of the family, whose layers are lean and look at all before them; None for others."""
    return LeanModel(model) if can_be_lean(model) and all(map(_is_lean, model.model.layers)) else None


def can_be_lean(model: PreTrainedModel) -> bool:
    """Whether there is a lean model of it, or would be if its layers were made lean."""
    config: Any = model.config
    if type(model).__name__ not in MODELS or getattr(config, "sliding_window", None) is not None:
        return False
    return all(_is_lean(layer) or _has_known_form(layer) for layer in cast(Any, model).model.layers)


def forget_plain_layers(model: PreTrainedModel) -> None:
    """Let go of transformers' layers, and with them of weights that somebody is about to replace."""
    for module in model.modules():
        if isinstance(module, LeanLayer):
            module.forget_plain()


class LeanModel:
    """Token ids to logits: what transformers' forward does around the layers takes as long as two of them.

    Args:
        model: Of the family, with lean layers.
    """

    def __init__(self, model: Any) -> None:
        decoder = model.model
        self.rotary = decoder.rotary_emb
        self.layers: tuple[LeanLayer, ...] = tuple(decoder.layers)
        self.norm, self._model = RootMeanSquareNorm(decoder.norm), model

    @property
    def embed(self) -> nn.Module:
        """From token ids to rows, as it is now: it may be packed later, with the head."""
        return cast(nn.Module, self._model.model.embed_tokens)

    @property
    def head(self) -> nn.Module:
        """From normed rows to logits, as it is now."""
        return cast(nn.Module, self._model.lm_head)

    def __call__(self, token_ids: Tensor, positions: Tensor, wanted: Tensor | None) -> Tensor:
        """Logits (wanted, vocab) of a packed row; None wants all, in order."""
        hidden = self.embed(token_ids)[None]
        rotation = self.rotary(hidden, positions[None])
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotation)
        rows = hidden[0] if wanted is None else hidden[0][wanted]
        return cast(Tensor, self.head(self.norm(rows)))


class LeanLayer(nn.Module):
    """One decoder layer over a packed row. Without a running step it is the layer that it was made of.

    Args:
        layer: transformers' layer. Its weights become views of this one's, so that memory holds them once.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        attention, feed_forward = layer.self_attn, layer.mlp
        self._plain: tuple[nn.Module, ...] = (layer,)  # in a tuple, and so no part of this module
        self.query_key_value = _joined(attention.q_proj, attention.k_proj, attention.v_proj)
        self.output = attention.o_proj
        self.gate_up = _joined(feed_forward.gate_proj, feed_forward.up_proj)
        self.down = feed_forward.down_proj
        self.norms = RootMeanSquareNorm(layer.input_layernorm), RootMeanSquareNorm(layer.post_attention_layernorm)
        self.head_size: int = attention.head_dim
        self._num_queries: int = attention.q_proj.out_features // attention.head_dim
        self._num_keys: int = attention.k_proj.out_features // attention.head_dim
        self._hidden_units: int = feed_forward.up_proj.out_features
        self.scoring = Scoring(scale=attention.scaling)
        self.head_norms = _head_norms(attention, self._num_queries, self._num_keys)
        # rotate_half(x) is x with its halves swapped and the first one negated: one `roll` and these signs.
        signs = torch.ones(self.head_size, dtype=layer.input_layernorm.weight.dtype, device=self.down.weight.device)
        signs[: self.head_size // 2] = -1
        self._signs = signs
        self.attention_type = getattr(layer, "attention_type", None)  # some models pick the mask by it

    def forget_plain(self) -> None:
        """It cannot be run without a step afterwards."""
        self._plain = ()

    def forward(self, hidden_states: Tensor, **options: Any) -> Tensor:
        """(1, tokens, channels) to the same."""
        step = running_step()
        if step is None:
            if not self._plain:
                raise RuntimeError("this model belongs to an Engine; load another copy to call it directly")
            return cast(Tensor, self._plain[0](hidden_states, **options))
        rows = hidden_states[0]
        query, key, value = self._rotated(self.norms[0](rows), *options["position_embeddings"])
        attended = step.attend(self, query, key, value, options["attention_mask"], self.scoring)
        rows = self.output(attended.reshape(len(rows), -1)).add_(rows)
        gate_up = self.gate_up(self.norms[1](rows))
        gated = functional.silu(gate_up[:, : self._hidden_units]).mul_(gate_up[:, self._hidden_units :])
        return cast(Tensor, self.down(gated)).add_(rows)[None]

    def _rotated(self, rows: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, each (1, heads, tokens, head size), the first two turned to their positions."""
        heads = self.query_key_value(rows).view(len(rows), -1, self.head_size).transpose(0, 1)[None]
        num_rotated = self._num_queries + self._num_keys
        flat = heads[:, :num_rotated]
        if self.head_norms is not None:
            weight, eps = self.head_norms
            flat = functional.rms_norm(flat, (self.head_size,), eps=eps) * weight
        swapped = flat.roll(self.head_size // 2, -1)
        rotated = torch.addcmul(flat * cos[:, None], swapped, (sin * self._signs)[:, None])
        return rotated[:, : self._num_queries], rotated[:, self._num_queries :], heads[:, num_rotated:]


class RootMeanSquareNorm:
    """Root mean square norm with a weight (Zhang and Sennrich 2019, arXiv:1910.07467)."""

    def __init__(self, norm: Any) -> None:
        self.weight: Tensor = norm.weight.detach()
        self.eps: float = norm.variance_epsilon

    def __call__(self, rows: Tensor) -> Tensor:
        return functional.rms_norm(rows, self.weight.shape, self.weight, self.eps)


def _is_lean(layer: nn.Module) -> bool:
    return isinstance(layer, LeanLayer)


def _has_known_form(layer: Any) -> bool:
    """Whether a layer of the family is as the library builds it: not quantised, adapted or cut up among ranks."""
    attention, feed_forward = layer.self_attn, layer.mlp
    projections = [getattr(attention, f"{name}_proj") for name in "qkvo"]
    projections += [getattr(feed_forward, f"{name}_proj") for name in ("gate", "up", "down")]
    plain = all(type(layer) is nn.Linear and type(layer.weight) is nn.Parameter for layer in projections)
    return plain and attention.config.hidden_act == "silu"


def _joined(*layers: nn.Linear) -> nn.Linear:
    """One layer for several that read the same input; their weights become views of its weights."""
    first = layers[0]
    width = sum(layer.out_features for layer in layers)
    joined = nn.Linear(first.in_features, width, bias=first.bias is not None, device="meta")
    joined.weight = _joined_parameter([layer.weight for layer in layers])
    if first.bias is not None:
        joined.bias = _joined_parameter([layer.bias for layer in layers])
    return joined


def _joined_parameter(parts: list[Tensor]) -> nn.Parameter:
    joined = torch.cat([part.detach() for part in parts])
    for part, view in zip(parts, torch.split(joined, [len(part) for part in parts]), strict=True):
        part.data = view
    return nn.Parameter(joined, requires_grad=False)


def _head_norms(attention: Any, num_queries: int, num_keys: int) -> tuple[Tensor, float] | None:
    """Weights (query and key heads, 1, head size) and epsilon of the norms of heads, where a layer has them."""
    if not hasattr(attention, "q_norm"):
        return None
    query, key = attention.q_norm, attention.k_norm
    weights = [query.weight.detach().expand(num_queries, -1), key.weight.detach().expand(num_keys, -1)]
    return torch.cat(weights)[:, None].contiguous(), query.variance_epsilon
