"""A drafter for texts of one's own."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from speculation.errors import ConfigurationError, InvalidRequestError
from zoo.catalog import model_folder
from zoo.lean_model import from_hugging_face
from zoo.own_drafter import read_texts, train_own_drafter
from zoo.tokenizer import fingerprint
from zoo.training import Progress

TEXT = "Dear friend, the harbour was quiet again this morning, and the gulls had nothing to say.\n" * 400


def test_a_shipped_model_is_read_back_as_it_was_trained() -> None:
    folder = model_folder("target")
    token_ids = torch.arange(5, 105)[None]

    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids=token_ids).logits
        difference = (from_hugging_face(folder)(token_ids) - expected).abs().max()

    assert difference < 1e-3


def test_a_drafter_learns_to_follow_the_target_and_is_a_folder_like_any(tmp_path: Path) -> None:
    told: dict[str, list[Progress]] = {"reading": [], "following": []}

    folder = train_own_drafter([TEXT], tmp_path / "own", steps=12, seed=1, begin=lambda stage: told[stage].append)

    assert [len(stage) for stage in told.values()] == [2, 10]
    assert told["following"][-1].loss < told["following"][0].loss
    assert fingerprint(folder) == fingerprint(model_folder("target"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model(**tokenizer("Dear", return_tensors="pt")).logits.shape[-1] == len(tokenizer)


@pytest.mark.parametrize("name", [".", "mine"])
def test_what_is_there_already_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").touch()

    with pytest.raises(ConfigurationError, match="not an empty folder"):
        train_own_drafter([TEXT], tmp_path / name, steps=2, seed=1, begin=lambda stage: lambda progress: None)


@pytest.mark.parametrize("texts", [[], ["too little"]])
def test_too_little_text_is_refused_before_anything_is_trained(tmp_path: Path, texts: list[str]) -> None:
    with pytest.raises(InvalidRequestError, match="name more files"):
        train_own_drafter(texts, tmp_path / "own", steps=2, seed=1, begin=lambda stage: lambda progress: None)


def test_texts_are_those_of_the_files_that_are_meant(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.sql").write_text("select 1")
    (tmp_path / "b.sql").write_text("select 2")
    (tmp_path / "c.txt").write_text("not this")
    (tmp_path / "d.sql").write_bytes(b"\xff\xfe\x00")

    assert sorted(read_texts([tmp_path], "*.sql")) == ["select 1", "select 2"]
    assert read_texts([tmp_path / "c.txt"], "*.sql") == ["not this"]


@pytest.mark.parametrize("name", ["nowhere", "d.sql"])
def test_a_named_file_that_is_no_text_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "d.sql").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(InvalidRequestError, match=name):
        read_texts([tmp_path / name])
