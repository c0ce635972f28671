"""Tiny randomly initialised models of many architectures, drawn sharp enough that their outputs vary with context."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

torch.set_num_threads(1)

VOCAB_SIZE = 256
WINDOW = 12

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}


def _config(name: str, **fields: Any) -> Callable[[], PreTrainedConfig]:
    return lambda: getattr(transformers, name)(**{**_COMMON, **fields})


_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}

SERVABLE: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": _config("LlamaConfig"),
    "qwen2": _config("Qwen2Config", sliding_window=WINDOW, use_sliding_window=True, max_window_layers=1),
    "qwen3": _config("Qwen3Config", head_dim=8),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=VOCAB_SIZE, n_embd=32, n_layer=3, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=None
    ),
    "mistral": _config("MistralConfig", sliding_window=WINDOW),
    "gemma2": _config("Gemma2Config", head_dim=8, sliding_window=WINDOW, num_hidden_layers=4, query_pre_attn_scalar=8),
    "gemma3": _config(
        "Gemma3TextConfig", head_dim=8, sliding_window=WINDOW, num_hidden_layers=6, query_pre_attn_scalar=8
    ),
    "mixtral": _config("MixtralConfig", **_EXPERTS),
    "gpt_oss": _config(
        "GptOssConfig",
        head_dim=8,
        sliding_window=WINDOW,
        num_hidden_layers=4,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        **_EXPERTS,
    ),
    # floor_scale makes Llama 4's query temperature depend on the position from the start, not from token 8192 on.
    "llama4": _config(
        "Llama4TextConfig",
        head_dim=8,
        attention_chunk_size=WINDOW,
        num_hidden_layers=4,
        intermediate_size_mlp=64,
        floor_scale=8,
        **_EXPERTS,
    ),
    "deepseek_v3": _config(
        "DeepseekV3Config",
        num_key_value_heads=4,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=12,
        n_shared_experts=1,
    ),
    "gemma3n": _config(
        "Gemma3nTextConfig",
        head_dim=8,
        sliding_window=WINDOW,
        num_hidden_layers=6,
        num_kv_shared_layers=2,
        vocab_size_per_layer_input=VOCAB_SIZE,
        hidden_size_per_layer_input=8,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 6,
        layer_types=["sliding_attention", "full_attention"] * 3,
    ),
}

_GPT_LIKE: dict[str, Any] = {"vocab_size": VOCAB_SIZE, "bos_token_id": 1, "eos_token_id": 2}
_LONG_ROPE = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}

UNSERVABLE: dict[str, tuple[Callable[[], PreTrainedConfig], str]] = {
    "bloom": (lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **_GPT_LIKE), "AttentionInterface"),
    "falcon": (
        lambda: transformers.FalconConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **_GPT_LIKE),
        "AttentionInterface",
    ),
    "gptj": (
        lambda: transformers.GPTJConfig(n_embd=32, n_layer=2, n_head=4, rotary_dim=4, **_GPT_LIKE),
        "AttentionInterface",
    ),
    "qwen3_next": (_config("Qwen3NextConfig", head_dim=8), "linear_attention layers"),
    "mamba": (
        lambda: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, **_GPT_LIKE),
        "linear_attention layers",
    ),
    "dynamic rope": (_config("LlamaConfig", rope_parameters=_LONG_ROPE), "dynamic rope"),
    "dynamic rope in one layer type": (
        _config(
            "Gemma3TextConfig",
            head_dim=8,
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": _LONG_ROPE,
            },
        ),
        "dynamic rope",
    ),
}


def new_model(config: PreTrainedConfig, *, sharpness: float = 3.0, seed: int = 0) -> PreTrainedModel:
    """A random model of that configuration; matrices are `sharpness` times as large as transformers draws them."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim >= 2:
                weights.mul_(sharpness)
    model.generation_config.eos_token_id = None
    return model


# One model per architecture and process: nothing in a test may change it.
@functools.cache
def plain_model(architecture: str) -> PreTrainedModel:
    """The reference of that architecture; never give it to an engine."""
    return new_model(SERVABLE[architecture]())


def served_model(architecture: str) -> PreTrainedModel:
    """A copy of the reference that an engine may take over."""
    return copy.deepcopy(plain_model(architecture))


@torch.inference_mode()
def plain_logits(architecture: str, token_ids: Sequence[int]) -> Tensor:
    """What the reference says after every token: (tokens, vocab)."""
    logits: Tensor = plain_model(architecture)(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    return logits


def greedy_continuation(architecture: str, prompt: Sequence[int], count: int) -> list[int]:
    """What `generate` of the reference appends to a prompt."""
    output = plain_model(architecture).generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=count,
        do_sample=False,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens
