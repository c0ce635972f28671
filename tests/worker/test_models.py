"""Loading: what arrives is what was saved, and what cannot be loaded is told in one line."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast, ViTConfig

from speculation.errors import (
    ConfigurationError,
    CorruptModelError,
    ForerunError,
    ModelNotFoundError,
    UnservableModelError,
)
from tests.architectures import VOCAB_SIZE, plain_logits, plain_model
from worker import models
from worker.engine import Chunk, Engine
from worker.models import content_hash, load_model


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Loading sets the number of torch threads of the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    plain_model("llama").save_pretrained(tmp_path)
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_is_loaded_as_it_was_saved(folder: Path) -> None:
    loaded = load_model(str(folder))

    engine = Engine(loaded.model, slots=1, max_length=16)
    (logits,) = engine.forward([Chunk(slot=engine.open(), token_ids=[1, 2, 3])])
    torch.testing.assert_close(logits, plain_logits("llama", [1, 2, 3]))
    assert loaded.tokenizer.encode("w5") == [5]
    assert loaded.context_length == 256
    assert loaded.name == str(folder)
    assert not loaded.model.training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_get_the_dtype_asked_for(folder: Path, dtype: str) -> None:
    assert load_model(str(folder), dtype=dtype).model.dtype == getattr(torch, dtype)


def test_threads_are_those_asked_for(folder: Path) -> None:
    load_model(str(folder), threads=2)

    assert torch.get_num_threads() == 2


def test_the_revision_names_the_content_and_not_the_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy")
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "notes.json").write_text("{}")
    before = content_hash(copy)

    weights = load_file(copy / "model.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})

    assert load_model(str(folder)).revision == content_hash(folder) == before
    assert content_hash(copy) != before


def damage_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)


def cut_weights(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickle_weights(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    lose_weights(folder)


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def misshape_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')


def invent_architecture(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "no_such_architecture"}))


def lose_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def damage_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_header, "model.safetensors cannot be read"),
        (cut_weights, "model.safetensors cannot be read"),
        (lose_weights, "no \\*.safetensors"),
        (pickle_weights, "pickled weights are never loaded"),
        (lose_a_tensor, "1 weights are missing or misshapen, such as model.layers.1.mlp.up_proj.weight"),
        (misshape_a_tensor, "lm_head.weight"),
        (lose_config, "no config.json"),
        (damage_config, "config.json cannot be used"),
        (invent_architecture, "config.json cannot be used"),
        (lose_tokenizer, "no usable tokenizer"),
        (damage_tokenizer, "no usable tokenizer"),
    ],
)
def test_damage_is_told_in_one_line(folder: Path, damage: object, told: str) -> None:
    assert callable(damage)
    damage(folder)

    with pytest.raises(CorruptModelError, match=told) as caught:
        load_model(str(folder))

    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_model_that_writes_no_text_is_refused(folder: Path) -> None:
    ViTConfig().save_pretrained(folder)

    with pytest.raises(UnservableModelError, match="vit models are not causal language models"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "~/nowhere-at-all", "a/b/c", "not a name"])
def test_a_name_that_leads_nowhere_is_told_in_one_line(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        load_model(name)

    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_not_a_model(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        load_model(str(folder / "config.json"))


def test_an_unreachable_hub_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("name resolution failed\nwith more lines")

    monkeypatch.setattr(models, "snapshot_download", unreachable)

    with pytest.raises(ModelNotFoundError, match=r"reachable hub id \(name resolution failed\)$"):
        load_model("someone/some-model")


def test_a_hub_model_is_fetched_without_pickles_or_code_and_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object, object]] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        asked.append((name, revision, [pattern for pattern in allow_patterns if pattern.endswith(("bin", "py"))]))
        return str(folder)

    monkeypatch.setattr(models, "snapshot_download", download)

    loaded = load_model("someone/some-model", revision="v1")

    assert asked == [("someone/some-model", "v1", [])]
    assert loaded.name == "someone/some-model"
    assert loaded.revision == content_hash(folder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"dtype": "float12"}, "dtype: 'float12' is not one of float32, bfloat16, float16"),
        ({"device": "abacus"}, "device: 'abacus' cannot be used here"),
        ({"device": "cuda:99"}, "device: 'cuda:99' cannot be used here"),
        ({"device": "meta"}, "device: 'meta' cannot be used here"),
        ({"threads": 0}, "threads: 0 is not a positive number"),
    ],
    ids=str,
)
def test_settings_that_do_not_exist_are_told_before_anything_is_loaded(options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        load_model("/no/such/folder", **options)  # type: ignore[arg-type]


def test_loading_writes_nothing_and_leaves_the_log_level(
    folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    capfd.readouterr()

    with caplog.at_level(logging.DEBUG):
        load_model(str(folder))

    assert capfd.readouterr() == ("", "")
    assert transformers_logging.get_verbosity() == level


def test_every_failure_can_be_told_to_a_client() -> None:
    for error in (ConfigurationError, CorruptModelError, ModelNotFoundError, UnservableModelError):
        assert issubclass(error, ForerunError)
