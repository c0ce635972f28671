"""A Llama that trains fast on a CPU, and its export to the Hugging Face form.

The library's own model spends most of a small forward pass outside of matrix products; this one fuses the
projections, keeps no cache and compiles in one piece. Both compute the same function, which a test holds them to.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from zoo.vocabulary import ANSWER_END_ID, CONTEXT_TOKENS, DOCUMENT_START_ID, PADDING_ID, VOCABULARY_SIZE

ROPE_BASE: Final = 10_000.0
NORM_EPS: Final = 1e-5
_STRIP: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Size of a model."""

    width: int
    layers: int
    heads: int
    hidden: int

    @property
    def head_width(self) -> int:
        return self.width // self.heads


TARGET_SHAPE: Final = Shape(width=256, layers=6, heads=4, hidden=704)
DRAFTER_SHAPE: Final = Shape(width=128, layers=2, heads=4, hidden=352)


class Norm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), NORM_EPS)


class Block(nn.Module):
    """Attention and gated feed-forward, each added to the residual stream."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.attention_norm = Norm(shape.width)
        self.feed_forward_norm = Norm(shape.width)
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.attention_out = nn.Linear(shape.width, shape.width, bias=False)
        self.gate_up = nn.Linear(shape.width, 2 * shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self._attend(self.attention_norm(x), cos, sin)
        gate, up = self.gate_up(self.feed_forward_norm(x)).chunk(2, -1)
        return cast(torch.Tensor, x + self.down(F.silu(gate) * up))

    def _attend(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = self.qkv(x).view(batch, length, 3, self.shape.heads, self.shape.head_width)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = _causal_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v)
        return cast(torch.Tensor, self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width)))


class LeanLlama(nn.Module):
    """Token ids (batch, length) to logits (batch, length, vocabulary)."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(VOCABULARY_SIZE, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        cos, sin = _rotary_tables(shape.head_width)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        length = token_ids.shape[1]
        # Under autocast the residual stream is bfloat16 too: half the memory traffic of a memory-bound step.
        dtype = torch.bfloat16 if torch.is_autocast_enabled("cpu") else self.embedding.weight.dtype
        x = self.embedding(token_ids).to(dtype)
        cos, sin = self.cos[:length].to(dtype), self.sin[:length].to(dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return F.linear(self.norm(x), self.embedding.weight.to(dtype))

    def initialise(self, seed: int) -> "LeanLlama":
        """Small random weights; what writes to the residual stream starts near zero."""
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.embedding.weight, std=0.02, generator=generator)
        for block in self.blocks:
            assert isinstance(block, Block)
            for reading in (block.qkv, block.gate_up):
                nn.init.normal_(reading.weight, std=0.7 * self.shape.width**-0.5, generator=generator)
            for writing in (block.attention_out, block.down):
                nn.init.normal_(writing.weight, std=0.02 / (2 * self.shape.layers) ** 0.5, generator=generator)
        return self


def to_hugging_face(model: LeanLlama, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The same function as a library model."""
    exported = LlamaForCausalLM(hugging_face_config(model.shape))
    weights = {
        "model.embed_tokens.weight": model.embedding.weight,
        "lm_head.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
    }
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        weights |= {f"model.layers.{index}.{name}": weight for name, weight in _named_weights(block).items()}
    exported.load_state_dict({name: weight.detach().clone() for name, weight in weights.items()})
    return cast(LlamaForCausalLM, exported.to(dtype).eval())  # type: ignore[arg-type]


def from_hugging_face(folder: Path) -> LeanLlama:
    """The model of a folder that `to_hugging_face` was written to, in float32."""
    config = LlamaConfig.from_pretrained(folder)
    shape = Shape(
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=config.num_attention_heads,
        hidden=config.intermediate_size,
    )
    model = LeanLlama(shape)
    weights = load_file(folder / "model.safetensors")
    with torch.no_grad():
        model.embedding.weight.copy_(weights["model.embed_tokens.weight"])
        model.norm.weight.copy_(weights["model.norm.weight"])
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            # The parts of a fused projection are views into it.
            for name, weight in _named_weights(block).items():
                weight.copy_(weights[f"model.layers.{index}.{name}"])
    return model


def hugging_face_config(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=shape.width,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_BASE},
        rms_norm_eps=NORM_EPS,
        tie_word_embeddings=True,
        bos_token_id=DOCUMENT_START_ID,
        eos_token_id=[ANSWER_END_ID, DOCUMENT_START_ID],
        pad_token_id=PADDING_ID,
    )


def _named_weights(block: Block) -> dict[str, torch.Tensor]:
    q, k, v = block.qkv.weight.chunk(3)
    gate, up = block.gate_up.weight.chunk(2)
    return {
        "self_attn.q_proj.weight": q,
        "self_attn.k_proj.weight": k,
        "self_attn.v_proj.weight": v,
        "self_attn.o_proj.weight": block.attention_out.weight,
        "mlp.gate_proj.weight": gate,
        "mlp.up_proj.weight": up,
        "mlp.down_proj.weight": block.down.weight,
        "input_layernorm.weight": block.attention_norm.weight,
        "post_attention_layernorm.weight": block.feed_forward_norm.weight,
    }


def _rotary_tables(head_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, each (context, head width), halves repeated as the library lays them out."""
    frequencies = ROPE_BASE ** -(torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(CONTEXT_TOKENS, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _causal_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Every position looks at itself and what came before. All (batch, heads, length, head width).

    Spelt out because the fused kernel's backward pass takes a third of a training step on a CPU in bfloat16, and in
    strips of queries because a strip need not score the keys after its end: that saves three eighths at 512 tokens.
    """
    q = q * q.shape[-1] ** -0.5
    strips = []
    for start in range(0, q.shape[2], _STRIP):
        end = min(start + _STRIP, q.shape[2])
        scores = (q[:, :, start:end] @ k[:, :, :end].mT).float()
        future = torch.ones(end - start, end, dtype=torch.bool, device=q.device).triu(start + 1)
        strips.append(scores.masked_fill(future, float("-inf")).softmax(-1).to(v.dtype) @ v[:, :, :end])
    return torch.cat(strips, dim=2)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
