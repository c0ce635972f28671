"""A target with the form of an 8B model (Qwen3-8B's) and random weights, and a drafter that agrees with it.

No drafter of other random weights would ever be right. Here it is the target's own first layers, and what the later
layers add is damped, so that both agree often (evidence: engine, section 3). Its acceptance is therefore made up: what
it brings shows what a round costs, and no more.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

DAMPED_TO = 0.02
ROOM = 256
"""Tokens of a slot beyond context, answer and tree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """A target, its drafter, and how much is measured.

    Attributes:
        hidden: Width of the residual stream.
        ffn: Width of a feed-forward layer.
        layers: Of the target.
        drafter_layers: Of these the drafter has the first.
        heads: Attention heads; hidden / heads is the size of one.
        kv_heads: Heads of keys and values.
        vocabulary: Tokens.
        contexts: Tokens before the tree; the first is the prompt of answers, too.
        copied: Bytes of the copy that measures bandwidth.
        answer: Tokens of an answer.
        repeats: Times that everything is measured.
        goal: Most that a verification of up to 16 nodes should take of its floor.
    """

    hidden: int
    ffn: int
    layers: int
    drafter_layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    contexts: tuple[int, ...]
    copied: int
    answer: int
    repeats: int
    goal: float | None = None

    def config(self, layers: int) -> Qwen3Config:
        """Of a model of so many layers."""
        return Qwen3Config(
            hidden_size=self.hidden,
            intermediate_size=self.ffn,
            num_hidden_layers=layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.hidden // self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=max(self.contexts) + self.answer + ROOM,
            tie_word_embeddings=False,
        )


EIGHT_BILLION = Sizes(
    hidden=4096,
    ffn=12288,
    layers=36,
    drafter_layers=2,
    heads=32,
    kv_heads=8,
    vocabulary=151_936,
    contexts=(1024, 8192),
    copied=2**30,
    answer=128,
    repeats=30,
    goal=1.3,
)
TINY = Sizes(
    hidden=64,
    ffn=128,
    layers=4,
    drafter_layers=2,
    heads=4,
    kv_heads=2,
    vocabulary=512,
    contexts=(64, 256),
    copied=2**20,
    answer=24,
    repeats=3,
)


def target_and_drafter(sizes: Sizes, device: str, dtype: torch.dtype) -> tuple[Qwen3ForCausalLM, Qwen3ForCausalLM]:
    """Both in evaluation mode; the drafter's weights are the target's."""
    target = _model(sizes.config(sizes.layers), device, dtype)
    drafter = _model(sizes.config(sizes.drafter_layers), device, dtype)
    with torch.no_grad():
        for layer in target.model.layers[sizes.drafter_layers :]:
            layer.self_attn.o_proj.weight *= DAMPED_TO
            layer.mlp.down_proj.weight *= DAMPED_TO
    weights = target.state_dict()
    drafter.load_state_dict({name: weights[name] for name in drafter.state_dict()}, assign=True)
    return target, drafter


def _model(config: Qwen3Config, device: str, dtype: torch.dtype) -> Qwen3ForCausalLM:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(usual)
    model.train(False)
    return model


def bytes_of_a_forward(model: PreTrainedModel, context: int) -> int:
    """Weights, of which embeddings are looked up and not read through, and the context's keys and values."""
    config: Any = model.config
    embeddings: Any = model.get_input_embeddings()
    weights = sum(entry.nbytes for entry in model.parameters()) - int(embeddings.weight.nbytes)
    of_a_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    return weights + context * int(of_a_token)
