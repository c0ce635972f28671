"""Loading a model from a folder or the hub: safetensors only, no code from the model, one clear line per failure."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.utils import logging as transformers_logging

from speculation.errors import ConfigurationError, CorruptModelError, ModelNotFoundError, UnservableModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

NEEDED_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What is fetched from the hub: never pickled weights or Python code."""

UNNEEDED_FILES = ("*/*", "consolidated*")
"""Subfolders and second copies of the weights in other people's layouts."""

IDENTIFYING_FILES = ("*.safetensors", "config.json", "tokenizer*", "vocab.*", "merges.txt", "*.model")
"""What decides the output; notes and training logs kept beside it do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A causal LM ready for an engine.

    Attributes:
        model: In evaluation mode, on its device.
        tokenizer: Its tokenizer.
        revision: Hash of the files it was loaded from: equal revisions mean equal weights and tokenizer.
        name: The folder or hub id it was asked for by.
        context_length: Positions the model was built for; None when its configuration names no bound.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    revision: str
    name: str
    context_length: int | None


def load_model(
    name_or_folder: str,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int = 1,
    revision: str | None = None,
    ranks: int = 1,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        name_or_folder: A local folder, or a hub id such as "org/model".
        dtype: float32, bfloat16 or float16.
        device: A torch device, such as "cpu" or "cuda:0".
        threads: Torch threads of this process. Processes that spin on more threads than cores lose tenfold.
        revision: Hub branch, tag or commit; ignored for a folder.
        ranks: Processes that load it together, each its part; they have met before.

    Raises:
        ConfigurationError: The dtype, device or number of threads does not exist here.
        ModelNotFoundError: There is no such folder or reachable hub id.
        CorruptModelError: Files are missing or damaged.
        UnservableModelError: It is not a causal LM that transformers knows, or cannot be parted among so many ranks.
    """
    torch_dtype, torch_device = _dtype(dtype), _device(device)
    if threads < 1:
        raise ConfigurationError("threads", f"{threads} is not a positive number")
    torch.set_num_threads(threads)
    with _quiet():
        folder = _folder(name_or_folder, revision)
        _require_files(name_or_folder, folder)
        model = _load_weights(name_or_folder, folder, torch_dtype, ranks)
        nn.Module.to(model, torch_device)
        tokenizer = _load_tokenizer(name_or_folder, folder)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        revision=content_hash(folder),
        name=name_or_folder,
        context_length=context_length(model),
    )


def load_vocabulary(name_or_folder: str, *, revision: str | None = None) -> tuple[PreTrainedTokenizerBase, int]:
    """A model's tokenizer and the number of its tokens, those that only pad it included, without its weights.

    Raises:
        ModelNotFoundError: There is no such folder or reachable hub id.
        CorruptModelError: Files are missing or damaged.
    """
    with _quiet():
        folder = _folder(name_or_folder, revision)
        tokenizer = _load_tokenizer(name_or_folder, folder)
        config = _load_config(name_or_folder, folder).get_text_config()
    return tokenizer, max(len(tokenizer), getattr(config, "vocab_size", 0))


def context_length(model: PreTrainedModel) -> int | None:
    """Positions the model was built for; None when its configuration names no bound."""
    length = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


def content_hash(folder: Path) -> str:
    """SHA-256 over a model's weights, configuration and tokenizer files, shortened to 16 digits."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in IDENTIFYING_FILES for path in folder.glob(pattern)):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()[:16]


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigurationError("dtype", f"{name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three for absent devices
        raise ConfigurationError("device", f"{name!r} cannot be used here ({_first_line(error)})") from error
    return device


def _folder(name: str, revision: str | None) -> Path:
    """The local folder, fetched from the hub if need be."""
    local = Path(name).expanduser()
    if local.is_dir():
        return local
    if local.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFoundError(name, "there is no such folder")
    try:
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=list(NEEDED_FILES), ignore_patterns=list(UNNEEDED_FILES)
            )
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(name, f"neither a folder nor a reachable hub id ({_first_line(error)})") from error


def _require_files(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise CorruptModelError(name, "has no config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CorruptModelError(name, "has no *.safetensors weights (pickled weights are never loaded)")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CorruptModelError(name, f"{path.name} cannot be read ({_first_line(error)})") from error


def _load_config(name: str, folder: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise CorruptModelError(name, f"config.json cannot be used ({_first_line(error)})") from error
    return config


def _load_weights(name: str, folder: Path, dtype: torch.dtype, ranks: int) -> PreTrainedModel:
    config = _load_config(name, folder)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise UnservableModelError(name, f"{config.model_type} models are not causal language models")
    if ranks > 1:
        _require_parts(name, config, ranks)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, with the name of the weight
            output_loading_info=True,
            distributed_config=DistributedConfig(tp_size=ranks) if ranks > 1 else None,
        )
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CorruptModelError(name, f"weights cannot be loaded ({_first_line(error)})") from error
    model: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    # transformers fills what is missing with random numbers and goes on.
    missing = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if missing:
        raise CorruptModelError(name, f"{len(missing)} weights are missing or misshapen, such as {sorted(missing)[0]}")
    return model


def _require_parts(name: str, config: PreTrainedConfig, ranks: int) -> None:
    """Raise UnservableModelError for a model that so many ranks cannot share: heads are not cut."""
    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise UnservableModelError(name, f"transformers has no plan to part {config.model_type} models among ranks")
    for field in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(text, field, None) or ranks
        if heads % ranks:
            raise UnservableModelError(name, f"{heads} {field} cannot be shared evenly by {ranks} ranks")


def _load_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizer libraries raise anything, bare Exception included, on a damaged file
        raise CorruptModelError(name, f"has no usable tokenizer ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(" .:") if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice from transformers: a worker's log is its own."""
    level = transformers_logging.get_verbosity()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
