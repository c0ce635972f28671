"""The arithmetic of cost-padded models (`zoo.profiles` says what they are for): more of it, with the same result."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:  # the profiles import us when something has to be written
    from zoo.profiles import Profile

LABEL: Final = "cost-padded"

Weights = dict[str, torch.Tensor]
Config = dict[str, Any]


def deepen(weights: Weights, config: Config, layers: int) -> tuple[Weights, Config]:
    """Put idle layers after every layer until there are `layers`.

    An idle layer reads, attends and multiplies like the layer before it, and then writes nothing: its two output
    matrices are zero.
    """
    present = int(config["num_hidden_layers"])
    origin = [index * present // layers for index in range(layers)]
    deeper = {name: tensor for name, tensor in weights.items() if ".layers." not in name}
    for index, taken in enumerate(origin):
        idle = index > 0 and origin[index - 1] == taken
        prefix = f"model.layers.{taken}."
        for name, tensor in weights.items():
            if name.startswith(prefix):
                silent = idle and name.endswith(("o_proj.weight", "down_proj.weight"))
                deeper[f"model.layers.{index}.{name.removeprefix(prefix)}"] = (
                    torch.zeros_like(tensor) if silent else tensor.clone()
                )
    return deeper, config | {"num_hidden_layers": layers}


def widen(weights: Weights, config: Config, factor: int) -> tuple[Weights, Config]:
    """Multiply channels, heads and hidden units by `factor`.

    New channels of the residual stream carry zeros. A norm over them sees the same sum of squares spread over more
    channels, so its mean is divided by the factor: its epsilon is divided likewise and its weight by the root. New
    heads and hidden units are copies of the old ones whose outputs are multiplied by zero.
    """
    wider = {name: _widened(name, tensor, factor) for name, tensor in weights.items()}
    sizes = {
        name: config[name] * factor
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    }
    return wider, config | sizes | {"rms_norm_eps": config["rms_norm_eps"] / factor}


def _widened(name: str, tensor: torch.Tensor, factor: int) -> torch.Tensor:
    if name.endswith("norm.weight"):
        return _with_zeros(tensor * factor**-0.5, columns=factor)
    if name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return _with_zeros(tensor, columns=factor)
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        return _with_zeros(tensor, rows=factor, columns=factor)
    return _with_zeros(tensor.repeat(factor, 1), columns=factor)


def _with_zeros(tensor: torch.Tensor, *, rows: int = 1, columns: int = 1) -> torch.Tensor:
    padding = [0, tensor.shape[-1] * (columns - 1)]
    if tensor.ndim == 2:
        padding += [0, tensor.shape[0] * (rows - 1)]
    return F.pad(tensor, padding)


def write_inflated(folder: Path, source: Path, name: str, profile: "Profile") -> None:
    """Write the model in `source`, inflated to the profile of that name, to a folder that does not exist yet."""
    weights: Weights = {key: tensor.float() for key, tensor in load_file(source / "model.safetensors").items()}
    config: Config = json.loads((source / "config.json").read_text())
    weights, config = deepen(weights, config, profile.layers)
    if profile.widening > 1:
        weights, config = widen(weights, config, profile.widening)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors", "README.md"))
    dtype = getattr(torch, profile.dtype)
    weights = {key: tensor.to(dtype).contiguous() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config |= {"dtype": profile.dtype, "forerun_label": LABEL, "forerun_profile": name}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    (folder / "README.md").write_text(_readme(f"zoo:{source.name}", name, profile.summary, num_parameters))


def _readme(source: str, name: str, summary: str, num_parameters: int) -> str:
    return (
        f"# {source}@{name} ({LABEL})\n\n"
        f"{summary}. {num_parameters / 1e6:.1f} million parameters, of which only those of "
        f"`{source}` matter: the rest is arithmetic whose result is multiplied by zero.\n"
        f"It computes what `{source}` computes and knows no more. Use it to time speculation at a larger model's "
        "cost, and say so wherever you report the time.\n"
    )
