"""How far the target may be inflated, and where the inflated copies are; the arithmetic is in `zoo.inflation`.

A model of five million parameters is too cheap for speculation to pay, on any machine. An inflated copy computes the
same function with more arithmetic, so acceptance is that of the small model and timing that of a larger one. It is a
folder like any other, labelled "cost-padded": whatever loads a folder can use it, and nobody takes it for a real model.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from zoo.errors import UnknownNameError

_LAYOUT_VERSION = 1  # raise it when the same profile starts to write different folders
_DECIDING_FILES = (
    "model.safetensors",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
_TARGET = Path(__file__).parent / "models" / "target"


Dtype = Literal["float32", "bfloat16"]
"""Number formats of written weights, as torch calls them."""


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
    dtype: Dtype


PROFILES: Final[Mapping[str, Profile]] = {
    "deep": Profile(
        summary="24 layers in float32: for a CPU; logits are equal to the last bit",
        layers=24,
        widening=1,
        dtype="float32",
    ),
    "wide": Profile(
        summary="12 layers of 1024 channels, 156 million parameters in bfloat16: for a GPU; logits are within "
        "0.0001 of the target's when both run in float32, and within 0.35 when both run in bfloat16",
        layers=12,
        widening=4,
        dtype="bfloat16",
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
    # Here and not above: it brings torch, which takes seconds to load, and a folder once written is found without.
    from zoo.inflation import write_inflated

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as partial:
        written = Path(partial) / folder.name
        write_inflated(written, source, profile, PROFILES[profile])
        try:
            written.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first, with the same bytes
                raise
    return folder


def _key(source: Path, profile: str) -> str:
    digest = hashlib.sha256(f"{_LAYOUT_VERSION}:{profile}:{PROFILES[profile]}".encode())
    for name in _DECIDING_FILES:
        digest.update((source / name).read_bytes())
    return digest.hexdigest()[:16]
