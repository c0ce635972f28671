"""Packed weights change what a product takes, and nothing of what it is."""

import copy
import logging

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

import worker.prepacked
from speculation.errors import ConfigurationError, UnservableModelError
from tests.architectures import served_model
from worker.engine import Chunk, Engine
from worker.prepacked import PrepackedLinear, prepack_linears, rounded_rows
from worker.probe import TOLERANCES, relative_error
from worker.settings import Prepack, WorkerSettings


def packed(model: PreTrainedModel) -> list[PrepackedLinear]:
    return [layer for layer in model.modules() if isinstance(layer, PrepackedLinear)]


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_same_but_for_rounding(architecture: str, dtype: torch.dtype) -> None:
    model = served_model(architecture).to(dtype)
    prepacks: list[Prepack] = ["off", "on"]
    engines = [Engine(copy.deepcopy(model), slots=1, max_length=64, prepack=prepack) for prepack in prepacks]
    slots = [engine.open() for engine in engines]

    for count in (1, 3, 16, 33):
        chunk = [Chunk(slot=slot, token_ids=list(range(1, count + 1))) for slot in slots]
        expected, got = (engine.forward([one])[0] for engine, one in zip(engines, chunk, strict=True))
        assert relative_error(got, expected) <= TOLERANCES[dtype], count
        for engine, slot in zip(engines, slots, strict=True):
            engine.commit(slot, ())


def test_weights_are_held_once() -> None:
    model = served_model("qwen3")
    tied = model.get_input_embeddings().weight.data_ptr()

    Engine(model, slots=1, max_length=64, prepack="on")

    assert packed(model)
    plain = [layer for layer in model.modules() if type(layer) is nn.Linear]
    assert all(layer.weight.data_ptr() == tied for layer in plain), "the head, where it is the embeddings"
    assert not any(parameter.ndim > 1 for layer in packed(model) for parameter in layer.parameters())
    with pytest.raises(RuntimeError, match="belongs to an Engine"):
        model(input_ids=torch.tensor([[1, 2]]), use_cache=False)


@pytest.mark.parametrize(("ratio", "is_taken"), [(0.5, True), (0.99, False)])
def test_a_trial_decides(monkeypatch: pytest.MonkeyPatch, ratio: float, is_taken: bool) -> None:
    model = served_model("llama")
    monkeypatch.setattr(worker.prepacked, "_least_times", lambda *_: [1.0, ratio])

    prepack_linears(model, "auto")

    assert bool(packed(model)) is is_taken


def test_the_trial_of_a_real_model_says_what_it_found(caplog: pytest.LogCaptureFixture) -> None:
    model = served_model("llama")
    with caplog.at_level(logging.DEBUG):
        prepack_linears(model, "auto")

    assert caplog.messages[0].startswith("packed weights take ")
    assert caplog.messages[0].endswith("taken" if packed(model) else "left")


@pytest.mark.parametrize("prepack", ["auto", "on"])
def test_a_product_that_is_off_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, prepack: Prepack
) -> None:
    model = served_model("llama")
    monkeypatch.setattr(PrepackedLinear, "forward", lambda _, rows: torch.zeros(len(rows), 1))

    with caplog.at_level(logging.INFO):
        if prepack == "on":
            with pytest.raises(UnservableModelError, match="cannot be prepacked here, leave it out"):
                prepack_linears(model, prepack)
        else:
            prepack_linears(model, prepack)
            assert "weights stay as they are" in caplog.text

    assert not packed(model)


def test_nothing_is_packed_unasked() -> None:
    model = served_model("llama")
    prepack_linears(model, "off")
    assert not packed(model)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"prepack": "maybe"}, "'maybe' is not one of auto, on, off"),
        ({"dtype": "float16"}, "is for float32 and bfloat16 on the cpu, not for float16"),
        ({"dtype": "bfloat16", "device": "cuda:0"}, "not for bfloat16 on cuda:0"),
        ({"dtype": "bfloat16", "role": "verify", "exact": True}, "is not for an exact target"),
    ],
)
def test_it_is_refused_where_it_is_not_offered(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        WorkerSettings(**{"role": "draft", "model": "m", "name": "n", "prepack": "on"} | settings)


@pytest.mark.parametrize("rows", [1, 17, 32, 33, 47, 100, 129, 1000])
@torch.inference_mode()
def test_products_of_any_number_of_rows_are_those_of_a_few_numbers(rows: int) -> None:
    layer = nn.Linear(24, 40)
    inputs = torch.randn(2, rows, 24)

    outputs = PrepackedLinear(layer)(inputs)

    assert outputs.shape == (2, rows, 40)
    assert relative_error(outputs, layer(inputs)) <= TOLERANCES[torch.float32]


def test_rows_are_rounded_up_to_few_numbers_that_are_near() -> None:
    rounded = [rounded_rows(rows) for rows in range(1, 513)]

    assert rounded[:32] == list(range(1, 33)), "verifications are paid by the row"
    assert all(rows <= known <= 1.13 * rows for rows, known in enumerate(rounded, start=1))
    assert len(set(rounded)) == 64
