"""llama.cpp's server is found, started, asked and ended, and says what transformers says."""

import os
from collections.abc import Iterator
from math import isnan
from pathlib import Path

import pytest

import bench.llama_server
from bench.llama_peer import LlamaModels, crowd_rate, llama_models, llama_peer
from bench.llama_server import LlamaServerError, find_llama_server, llama_server, timed_answer
from forerun.models import model_folder
from forerun.reference import Reference
from forerun.workload import tasks
from speculation.errors import ConfigurationError

LLAMA_SERVER = find_llama_server()


def program(folder: Path, script: str) -> Path:
    file = folder / "llama-server"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file


def test_decoding_is_timed_from_the_first_token() -> None:
    reply = {"tokens": [7, 8, 9], "timings": {"predicted_n": 3, "predicted_ms": 40.0, "prompt_ms": 12.5}}

    answer = timed_answer(reply)

    assert answer.token_ids == (7, 8, 9)
    assert answer.decode_rate == pytest.approx(50.0)
    assert isnan(timed_answer(reply | {"tokens": [7]}).decode_rate)


def test_the_environment_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = program(tmp_path, "exit 0")
    monkeypatch.setenv("LLAMA_SERVER", str(named))

    assert find_llama_server() == named


def test_a_server_that_is_named_must_be_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER", str(tmp_path))

    with pytest.raises(ConfigurationError, match=r"LLAMA_SERVER: .* is no program"):
        find_llama_server()


def test_without_a_server_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bench.llama_server, "BUILT", tmp_path / "llama-server")

    assert find_llama_server() is None


def test_a_server_that_does_not_start_has_the_last_word(tmp_path: Path) -> None:
    broken = program(tmp_path, "echo loading; echo 'error: no such model' >&2; exit 1")

    with (
        pytest.raises(LlamaServerError, match="it said last: error: no such model"),
        llama_server(broken, tmp_path / "model.gguf", "target", threads=1),
    ):
        pass


@pytest.fixture(scope="module")
def models() -> Iterator[LlamaModels]:
    if LLAMA_SERVER is None:
        pytest.skip("needs llama-server: `make llama-server` builds it")
    folders = {"code": model_folder("zoo:code")}
    with llama_models(LLAMA_SERVER, model_folder("zoo:target"), folders, dtype="float32") as written:
        yield written


@pytest.mark.slow
def test_every_setting_says_what_transformers_says(models: LlamaModels) -> None:
    """Else their speeds could not be compared."""
    reference = Reference.load(model_folder("zoo:target"))
    prompt = reference.encode(tasks(("code",), 1)[0].prompt)

    with llama_peer(models, prompt, cores=os.cpu_count() or 1, max_new_tokens=24) as peer:
        answers = {name: server.answer(prompt, 24) for name, server in peer.settings("code").items()}

    expected = reference.greedy(prompt, 24)
    assert {name: answer.token_ids for name, answer in answers.items()} == dict.fromkeys(answers, expected)
    assert all(answer.decode_rate > 0 for answer in answers.values())


@pytest.mark.slow
def test_a_crowd_is_served_at_once(models: LlamaModels) -> None:
    reference = Reference.load(model_folder("zoo:target"))
    prompts = [reference.encode(task.prompt) for task in tasks(("code", "docs"), 2)]

    with models.server(threads=1, slots=2, drafter="code", setting=("--spec-draft-n-max", "2")) as server:
        assert crowd_rate(server, prompts, streams=2, max_new_tokens=16) > 0


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_refused_in_words(models: LlamaModels) -> None:
    with models.server(threads=1) as server, pytest.raises(LlamaServerError, match="refused a prompt of 2000 tokens"):
        server.answer([5] * 2000, 4)
