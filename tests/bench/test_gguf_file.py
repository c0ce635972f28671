"""A model that llama.cpp reads is the model that was written."""

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from bench.gguf_file import write_gguf
from speculation.errors import ModelError
from tests.architectures import new_model

HEADS, HEAD_DIM, VOCAB_SIZE = 4, 8, 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HEADS * HEAD_DIM,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=HEAD_DIM,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    model = new_model(config)
    model.generation_config.eos_token_id = [5, 3]
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def tensors_in(file: Path) -> dict[str, torch.Tensor]:
    """Every tensor as it is multiplied: (rows, columns), float32."""
    found = {}
    for tensor in GGUFReader(file).tensors:
        data = torch.from_numpy(tensor.data.copy())
        found[tensor.name] = data.view(torch.bfloat16).float() if tensor.tensor_type.name == "BF16" else data
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_are_written_as_they_are(folder: Path, tmp_path: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    write_gguf(folder, tmp_path / "model.gguf", dtype=dtype)

    there, here = tensors_in(tmp_path / "model.gguf"), load_file(folder / "model.safetensors")
    rounded = here["model.layers.1.mlp.down_proj.weight"].to(getattr(torch, dtype)).float()
    assert torch.equal(there["blk.1.ffn_down.weight"], rounded)
    assert torch.equal(there["output_norm.weight"], here["model.norm.weight"])
    assert "output.weight" not in there
    assert len(there) == len(here)


def test_attention_is_the_same_with_neighbours_turned_together(folder: Path, tmp_path: Path) -> None:
    """Products of queries and keys: turned by transformers here, and there by llama.cpp's rule."""
    from safetensors.torch import load_file

    write_gguf(folder, tmp_path / "model.gguf", dtype="float32")

    there, here = tensors_in(tmp_path / "model.gguf"), load_file(folder / "model.safetensors")
    inputs = torch.randn(6, HEADS * HEAD_DIM, generator=torch.Generator().manual_seed(1))
    angles = torch.arange(6)[:, None] * 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)

    def of_heads(weight: torch.Tensor) -> torch.Tensor:
        return (inputs @ weight.T).view(6, -1, HEAD_DIM).transpose(0, 1)[:2]

    def neighbours_turned(rows: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(rows.reshape(*rows.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)

    query, key = (of_heads(here[f"model.layers.0.self_attn.{name}_proj.weight"])[None] for name in ("q", "k"))
    both_halves = torch.cat((angles, angles), dim=-1)[None]
    query, key = apply_rotary_pos_emb(query, key, both_halves.cos(), both_halves.sin())
    query_there, key_there = (neighbours_turned(of_heads(there[f"blk.0.attn_{name}.weight"])) for name in ("q", "k"))
    torch.testing.assert_close(query_there @ key_there.mT, (query @ key.mT)[0], rtol=1e-5, atol=1e-4)


def test_an_answer_ends_where_the_model_says(folder: Path, tmp_path: Path) -> None:
    write_gguf(folder, tmp_path / "model.gguf", dtype="float32")

    fields = GGUFReader(tmp_path / "model.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 5
    assert fields["tokenizer.ggml.eot_token_id"].contents() == 3
    assert len(set(fields["tokenizer.ggml.tokens"].contents())) == VOCAB_SIZE


@pytest.mark.parametrize(
    ("field", "value"),
    [("model_type", "qwen3"), ("rope_parameters", {"rope_type": "yarn", "rope_theta": 10000.0})],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    folder: Path, tmp_path: Path, field: str, value: object
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))

    with pytest.raises(ModelError, match="only Llama models"):
        write_gguf(folder, tmp_path / "model.gguf", dtype="float32")
