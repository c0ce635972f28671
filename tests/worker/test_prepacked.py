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
from worker.panels import PanelLinear, has_panels
from worker.prepacked import FORMS, Form, PrepackedLinear, prepack_linears, rounded_rows
from worker.probe import TOLERANCES, relative_error
from worker.settings import Prepack, WorkerSettings


def packed(model: PreTrainedModel) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, PrepackedLinear | PanelLinear)]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Form:
    """The only one that there is."""
    form: Form = request.param
    monkeypatch.setattr(worker.prepacked, "FORMS", (form,))
    return form


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_the_same_but_for_rounding(architecture: str, dtype: torch.dtype, form: Form) -> None:
    if form is PanelLinear and not has_panels(dtype):
        pytest.skip(f"this processor has no instruction for products of {dtype}")
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


def test_weights_are_held_once(form: Form) -> None:
    model = served_model("qwen3")
    tied = model.get_input_embeddings().weight.data_ptr()

    Engine(model, slots=1, max_length=64, prepack="on")

    assert packed(model)
    plain = [layer for layer in model.modules() if type(layer) is nn.Linear]
    assert all(layer.weight.data_ptr() == tied for layer in plain), "the head, where it is the embeddings"
    assert not any(parameter.ndim > 1 for layer in packed(model) for parameter in layer.parameters())
    with pytest.raises(RuntimeError, match="belongs to an Engine"):
        model(input_ids=torch.tensor([[1, 2]]), use_cache=False)


def test_embeddings_that_are_the_head_lie_in_its_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker.prepacked, "FORMS", (PanelLinear,))
    model = served_model("llama")
    model.lm_head.weight = model.model.embed_tokens.weight
    token_ids = torch.tensor([[0, 255], [63, 64]])
    expected = model.model.embed_tokens(token_ids)

    Engine(model, slots=1, max_length=64, prepack="on")

    assert torch.equal(model.model.embed_tokens(token_ids), expected)
    assert not any(parameter.ndim > 1 for parameter in model.parameters())


@pytest.mark.parametrize(
    ("prepack", "ratios", "taken"),
    [
        ("auto", (0.5, 0.6), PanelLinear),
        ("auto", (0.9, 0.6), PrepackedLinear),
        ("auto", (0.99, 0.98), None),
        ("on", (0.99, 0.98), PrepackedLinear),
    ],
)
def test_a_trial_decides(
    monkeypatch: pytest.MonkeyPatch, prepack: Prepack, ratios: tuple[float, float], taken: Form | None
) -> None:
    model = served_model("llama")
    monkeypatch.setattr(worker.prepacked, "_least_times", lambda *_: [1.0, *ratios])

    assert prepack_linears(model, prepack) is (taken is not None)

    assert {type(layer) for layer in packed(model)} == ({taken} if taken else set())


def test_the_trial_of_a_real_model_says_what_it_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        prepack_linears(served_model("llama"), "auto")

    assert [message.split(":")[0] for message in caplog.messages] == [form.__name__ for form in FORMS]
    assert all("of the time of plain weights at (1, 5, 16) rows" in message for message in caplog.messages)


@pytest.mark.parametrize("prepack", ["auto", "on"])
def test_a_product_that_is_off_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, prepack: Prepack, form: Form
) -> None:
    model = served_model("llama")
    monkeypatch.setattr(form, "forward", lambda _, rows: torch.zeros(len(rows), 1))

    with caplog.at_level(logging.INFO):
        if prepack == "on":
            with pytest.raises(UnservableModelError, match="cannot be prepacked here, leave it out"):
                prepack_linears(model, prepack)
        else:
            assert not prepack_linears(model, prepack)

    assert "a packed product is off by" in caplog.text
    assert not packed(model)


def test_a_model_that_packing_spoils_is_refused(monkeypatch: pytest.MonkeyPatch, form: Form) -> None:
    """Its layers may be right, and what is made of them not."""

    def spoil(model: PreTrainedModel, prepack: Prepack) -> bool:
        is_packed = prepack_linears(model, prepack)
        if is_packed:
            model.lm_head.register_forward_hook(lambda *given: given[2].flip(-1))
        return is_packed

    monkeypatch.setattr(worker.engine, "prepack_linears", spoil)

    with pytest.raises(UnservableModelError, match="disagree"):
        Engine(served_model("qwen2"), slots=1, max_length=64, prepack="on")


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
