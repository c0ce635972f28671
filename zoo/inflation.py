"""Making the target cost what a large model costs without changing what it computes.

A model of five million parameters is too cheap for speculation to pay, on any machine. An inflated copy computes the
same function with more arithmetic, so acceptance is that of the small model and timing that of a larger one. It is a
folder like any other, labelled "cost-padded": whatever loads a folder can use it, and nobody takes it for a real model.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from safetensors.torch import load_file, save_file

from zoo.errors import UnknownNameError

LABEL: Final = "cost-padded"

_LAYOUT_VERSION = 1  # raise it when the same profile starts to write different folders
_DECIDING_FILES = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_TARGET = Path(__file__).parent / "models" / "target"

Weights = dict[str, torch.Tensor]
Config = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How far to inflate.

    Attributes:
        layers: Layers in all; those added write nothing to the residual stream.
        widening: Factor on channels, heads and hidden units. A power of four rescales the norms without rounding.
        dtype: Number format of the written weights.
    """

    summary: str
    layers: int
    widening: int
    dtype: torch.dtype


PROFILES: Final[Mapping[str, Profile]] = {
    "deep": Profile(
        summary="24 layers in float32: for a CPU; logits are equal to the last bit",
        layers=24,
        widening=1,
        dtype=torch.float32,
    ),
    "wide": Profile(
        summary="12 layers of 1024 channels, 156 million parameters in bfloat16: for a GPU; logits are within "
        "0.0001 of the target's when both run in float32, and within 0.35 when both run in bfloat16",
        layers=12,
        widening=4,
        dtype=torch.bfloat16,
    ),
}


def materialise(profile: str, cache_dir: Path, *, source: Path = _TARGET) -> Path:
    """Folder of the inflated model, written at first use and found again afterwards.

    The folder's name carries a hash of the source weights and the profile, so a retrained source never meets a stale
    copy; it is written beside its place and renamed, so that two processes never see half a folder.

    Raises:
        UnknownNameError: No profile has that name.
    """
    if profile not in PROFILES:
        raise UnknownNameError("profile", profile, PROFILES)
    folder = cache_dir / "zoo" / f"{source.name}-{profile}-{_key(source, profile)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as partial:
        written = Path(partial) / folder.name
        _write(written, source, profile)
        try:
            written.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same bytes
                raise
    return folder


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


def _write(folder: Path, source: Path, name: str) -> None:
    profile = PROFILES[name]
    weights: Weights = {key: tensor.float() for key, tensor in load_file(source / "model.safetensors").items()}
    config: Config = json.loads((source / "config.json").read_text())
    weights, config = deepen(weights, config, profile.layers)
    if profile.widening > 1:
        weights, config = widen(weights, config, profile.widening)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors", "README.md"))
    weights = {key: tensor.to(profile.dtype).contiguous() for key, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config |= {"dtype": str(profile.dtype).removeprefix("torch."), "forerun_label": LABEL, "forerun_profile": name}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(_readme(source.name, name, sum(tensor.numel() for tensor in weights.values())))


def _readme(source: str, name: str, num_parameters: int) -> str:
    return (
        f"# zoo:{source}@{name} ({LABEL})\n\n"
        f"{PROFILES[name].summary}. {num_parameters / 1e6:.1f} million parameters, of which only those of "
        f"`zoo:{source}` matter: the rest is arithmetic whose result is multiplied by zero.\n"
        f"It computes what `zoo:{source}` computes and knows no more. Use it to time speculation at a larger model's "
        "cost, and say so wherever you report the time.\n"
    )


def _key(source: Path, profile: str) -> str:
    digest = hashlib.sha256(f"{_LAYOUT_VERSION}:{profile}:{PROFILES[profile]}".encode())
    for name in _DECIDING_FILES:
        digest.update((source / name).read_bytes())
    return digest.hexdigest()[:16]
