"""Inflation: the same function, at a larger model's cost."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.catalog import model_folder, resolve
from zoo.errors import UnknownNameError
from zoo.inflation import LABEL, deepen, widen
from zoo.profiles import PROFILES, materialise
from zoo.prompts import load_prompts

TARGET = model_folder("target")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def logits(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    """Logits of a few held-out prompts in a row."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "".join(prompt.text for prompt in load_prompts("json")[:3])
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits.float()


def test_the_deep_copy_computes_the_same_to_the_last_bit(cache: Path) -> None:
    deep = materialise("deep", cache)

    assert torch.equal(logits(deep, torch.float32), logits(TARGET, torch.float32))


def test_the_wide_copy_computes_the_same_up_to_the_order_of_summation(cache: Path) -> None:
    wide = materialise("wide", cache)

    exact = (logits(wide, torch.float32) - logits(TARGET, torch.float32)).abs().max()
    rounded = (logits(wide, torch.bfloat16) - logits(TARGET, torch.bfloat16)).abs().max()

    assert exact < 1e-3
    # Far less than what bfloat16 costs the target itself, which is up to 1.1 on the shipped prompts.
    assert rounded < 0.5


@pytest.mark.parametrize("profile", PROFILES)
def test_an_inflated_model_says_what_it_is(profile: str, cache: Path) -> None:
    folder = materialise(profile, cache)

    assert json.loads((folder / "config.json").read_text())["forerun_label"] == LABEL
    assert LABEL in (folder / "README.md").read_text()


@pytest.mark.parametrize("profile", PROFILES)
def test_an_inflated_model_shares_the_tokenizer_of_its_source(profile: str, cache: Path) -> None:
    folder = materialise(profile, cache)

    assert (folder / "tokenizer.json").read_bytes() == (TARGET / "tokenizer.json").read_bytes()


def test_a_second_request_finds_the_first_ones_folder(cache: Path) -> None:
    first = materialise("deep", cache)
    written = (first / "model.safetensors").stat().st_mtime_ns

    second = resolve("zoo:target@deep", cache)

    assert second == first
    assert (second / "model.safetensors").stat().st_mtime_ns == written
    assert not list(first.parent.glob(".writing-*"))


def test_another_source_gets_another_folder(cache: Path) -> None:
    assert materialise("deep", cache, source=model_folder("math")) != materialise("deep", cache)


def test_an_unknown_profile_is_named(cache: Path) -> None:
    with pytest.raises(UnknownNameError, match="tall"):
        materialise("tall", cache)


def test_added_layers_follow_every_layer_and_write_nothing() -> None:
    weights, config = load_file(TARGET / "model.safetensors"), json.loads((TARGET / "config.json").read_text())

    deeper, _ = deepen(weights, config, 12)

    idle = [index for index in range(12) if not deeper[f"model.layers.{index}.mlp.down_proj.weight"].any()]
    assert idle == [1, 3, 5, 7, 9, 11]


def test_widening_multiplies_every_size_but_the_vocabulary() -> None:
    weights, config = load_file(TARGET / "model.safetensors"), json.loads((TARGET / "config.json").read_text())

    wider, sizes = widen(weights, config, 4)

    assert wider["model.embed_tokens.weight"].shape == (config["vocab_size"], 4 * config["hidden_size"])
    assert sizes["hidden_size"] == 4 * config["hidden_size"]
    assert sizes["rms_norm_eps"] == config["rms_norm_eps"] / 4
