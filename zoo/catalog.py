"""Where the models of the zoo are: names to folders."""

import os
from pathlib import Path
from typing import Final

from zoo.errors import CorruptModelError, UnknownNameError
from zoo.profiles import materialise
from zoo.recipe import DRAFTERS, MODELS, SPECIALISTS, TARGET

__all__ = [
    "DRAFTERS",
    "MODELS",
    "SPECIALISTS",
    "TARGET",
    "default_cache_dir",
    "is_reference",
    "model_folder",
    "resolve",
]

_SHIPPED: Final = Path(__file__).parent / "models"
_SCHEME: Final = "zoo:"
_NEEDED: Final = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def model_folder(name: str) -> Path:
    """Folder of a shipped model, ready for `from_pretrained`.

    Raises:
        UnknownNameError: No model has that name.
        CorruptModelError: The folder lacks a file.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    folder = _SHIPPED / name
    missing = [file for file in _NEEDED if not (folder / file).is_file()]
    if missing:
        raise CorruptModelError(f"zoo:{name}", f"{folder} lacks {', '.join(missing)}")
    return folder


def is_reference(text: str) -> bool:
    """Whether a model is named as one of the zoo's, like `zoo:target@deep`."""
    return text.startswith(_SCHEME)


def resolve(reference: str, cache_dir: Path | None = None) -> Path:
    """Folder of `zoo:NAME` or `zoo:NAME@PROFILE`; an inflated model is written to the cache at first use.

    Raises:
        UnknownNameError: The reference names no model, or no profile, of the zoo.
    """
    if not is_reference(reference):
        raise UnknownNameError("model", reference, (f"{_SCHEME}{name}" for name in MODELS))
    name, _, profile = reference.removeprefix(_SCHEME).partition("@")
    folder = model_folder(name)
    return materialise(profile, cache_dir or default_cache_dir(), source=folder) if profile else folder


def default_cache_dir() -> Path:
    """`forerun` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "forerun"
