"""A Llama model as a file that llama.cpp reads: the same numbers, and tokens that are known by their ids alone.

Names and layout are the `gguf` package's. llama.cpp turns neighbouring channels of a head by one angle, transformers
channels that lie half a head apart: rows of the query and key matrices change places accordingly.
"""

import json
from pathlib import Path
from typing import Any, Final

import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map
from safetensors.torch import load_file

from speculation.errors import ModelError

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def write_gguf(folder: Path, file: Path, *, dtype: str) -> None:
    """Write the model in `folder` to `file`.

    Args:
        folder: As transformers saves a Llama model.
        file: To be written.
        dtype: Number format of the matrices, one of DTYPES; vectors are float32, which llama.cpp insists on.

    Raises:
        ModelError: It is not a Llama model, or one whose positions are scaled.
    """
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    rope = config["rope_parameters"]
    if (config["model_type"], rope["rope_type"]) != ("llama", "default"):
        raise ModelError(str(folder), "only Llama models with default positions can be written for llama.cpp")
    writer = GGUFWriter(file, "llama")
    _add_sizes(writer, config)
    _add_tokens(writer, config["vocab_size"], json.loads((folder / "generation_config.json").read_text()))
    _add_weights(writer, config, load_file(folder / "model.safetensors"), DTYPES[dtype])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])


def _add_tokens(writer: GGUFWriter, vocab_size: int, generation: dict[str, Any]) -> None:
    """Every token is called by its number: by the names of some, llama.cpp would guess that they end an answer.

    It has room for three tokens that do: end of sequence, of turn and of message.
    """
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"[{token}]" for token in range(vocab_size)])
    writer.add_token_types([TokenType.NORMAL] * vocab_size)
    writer.add_token_merges(["[ 0"])  # it must have one
    writer.add_add_bos_token(False)
    ends = generation["eos_token_id"]
    places = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    for add, end in zip(places, ends if isinstance(ends, list) else [ends], strict=False):
        add(end)


def _add_weights(
    writer: GGUFWriter, config: dict[str, Any], weights: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in weights.items():
        name_there = names.get_name(name, try_suffixes=(".weight",))
        if name_there is None:
            raise ModelError(name, "llama.cpp's Llama has no such weight")
        if (projection := name.split(".")[-2]) in heads:
            tensor = _neighbours_turned_together(tensor, heads[projection])
        if tensor.ndim == 1 or dtype == torch.float32:
            writer.add_tensor(name_there, tensor.float().numpy())
        else:
            # numpy knows no bfloat16: the bits travel as integers.
            bits = tensor.to(dtype).contiguous().view(torch.int16).numpy()
            writer.add_tensor(name_there, bits, raw_dtype=GGMLQuantizationType.BF16)


def _neighbours_turned_together(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads, 2, half, columns) in the order (heads, half, 2, columns)."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)
