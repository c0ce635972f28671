"""What is wrong is refused where it arrives, in words, and disturbs nobody else."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from forerun.client import Client, GenerateOptions
from speculation.errors import ForerunError, InvalidRequestError, PromptTooLongError, UnknownNameError
from speculation.v1 import router_pb2
from tests.end_to_end.processes import Fleet, Process, eventually, failed_start, fleet, worker, worker_of
from zoo.catalog import model_folder

GRPC_LOG_LINE = re.compile(r"[EIW]\d{4} ")
"""gRPC's core writes to stderr on its own account, and before we can speak."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A target, a drafter, and a drafter that speaks another vocabulary."""
    alien = with_two_tokens_swapped(model_folder("docs"), tmp_path_factory.mktemp("alien") / "model")
    workers = {
        "target": worker("verify", "target"),
        "code": worker("draft", "code"),
        "alien": worker_of("draft", alien, name="alien"),
    }
    with fleet(tmp_path_factory.mktemp("fleet"), workers=workers, expected=("target", "code")) as started:
        yield started


def with_two_tokens_swapped(model: Path, folder: Path) -> Path:
    """A copy of the model whose tokenizer numbers two tokens the other way round."""
    shutil.copytree(model, folder)
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = [token for token, number in vocabulary.items() if number in (300, 301)]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(tokenizer))
    return folder


def test_a_drafter_with_another_tokenizer_is_refused_in_words(running: Fleet) -> None:
    def refusal() -> str:
        states = [state for state in running.show().workers if state.address == running.workers["alien"].address]
        return states[0].problem if states[0].health == router_pb2.WORKER_HEALTH_REFUSED else ""

    eventually(lambda: "tokenizer" in refusal(), within_s=10)


@pytest.mark.parametrize(
    ("prompt", "options", "error", "field"),
    [
        pytest.param("", {}, InvalidRequestError, "text", id="empty prompt"),
        pytest.param("word " * 2000, {}, PromptTooLongError, "prompt", id="too long a prompt"),
        pytest.param(None, {"token_ids": [99_999]}, InvalidRequestError, "tokens", id="token out of range"),
        pytest.param("a", {"temperature": -1.0}, InvalidRequestError, "temperature", id="negative temperature"),
        pytest.param("a", {"drafters": ["alien"]}, UnknownNameError, None, id="a refused drafter"),
        pytest.param("a", {"drafters": ["cobol"]}, UnknownNameError, None, id="an unknown drafter"),
        pytest.param("a", {"policy": "psychic"}, UnknownNameError, None, id="an unknown policy"),
    ],
)
def test_a_wrong_request_is_refused_by_its_field(
    running: Fleet, prompt: str | None, options: GenerateOptions, error: type[ForerunError], field: str | None
) -> None:
    with Client(running.address) as client:
        with pytest.raises(error) as caught:
            client.generate(prompt, **options)

        assert field is None or caught.value.metadata["field"] == field
        assert client.generate("def f(", max_new_tokens=4).token_ids, "the next request is served as ever"


def one_line_of(said: str) -> str:
    """What a program that cannot start says; it must be one line."""
    ours = [line for line in said.splitlines() if line and not GRPC_LOG_LINE.match(line)]
    assert len(ours) == 1, said
    return ours[0]


def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path) -> None:
    damaged = shutil.copytree(model_folder("code"), tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])

    said = failed_start("worker", "--role", "draft", "--model", str(damaged), "--name", "damaged")

    assert "damaged" in one_line_of(said)


def test_a_configuration_error_names_file_line_and_field(tmp_path: Path) -> None:
    config = tmp_path / "controller.yaml"
    config.write_text(f"tokenizer: {model_folder('target')}\nrouter:\n  policy: psychic\n")

    said = one_line_of(failed_start("controller", "--config", str(config)))

    assert "controller.yaml:3" in said
    assert "router.policy" in said


def test_a_process_started_on_a_taken_address_says_so(running: Fleet) -> None:
    taken: Process = running.workers["code"]

    said = failed_start(
        "worker", "--role", "draft", "--model", str(model_folder("code")), "--name", "x", "--listen", taken.address
    )

    assert taken.address in one_line_of(said)
