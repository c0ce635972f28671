"""Lean layers compute what transformers' layers compute, with their weights and no others."""

import copy

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from tests.architectures import served_model
from worker.engine import Chunk, Engine
from worker.lean_layers import LeanLayer, forget_plain_layers, make_layers_lean
from worker.probe import relative_error

TOKENS = list(range(1, 40))


def lean_layers(model: PreTrainedModel) -> list[LeanLayer]:
    return [layer for layer in model.modules() if isinstance(layer, LeanLayer)]


def plain_logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3"])
def test_they_compute_the_same(architecture: str) -> None:
    model = served_model(architecture)
    with torch.no_grad():  # norms and biases of a new model are ones and zeros, which would show nothing
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.3)
    expected = plain_logits(model)

    engine = Engine(model, slots=1, max_length=64)

    assert lean_layers(model)
    assert relative_error(engine.forward([Chunk(slot=engine.open(), token_ids=TOKENS)])[0], expected) < 1e-5


def test_without_a_step_they_are_the_layers_they_were_made_of() -> None:
    model = served_model("qwen2")
    expected = plain_logits(model)

    make_layers_lean(model)

    assert torch.equal(plain_logits(model), expected)


def test_weights_are_held_once() -> None:
    model = served_model("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    plain = list(model.model.layers)

    make_layers_lean(model)

    held = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    for place, layer in enumerate(plain):
        for name, parameter in layer.named_parameters():
            assert torch.equal(parameter, before[f"model.layers.{place}.{name}"])
            assert "norm" in name or parameter.untyped_storage().data_ptr() in held


def test_plain_layers_can_be_let_go() -> None:
    model = served_model("llama")
    make_layers_lean(model)
    forget_plain_layers(model)

    with pytest.raises(RuntimeError, match="belongs to an Engine"):
        plain_logits(model)


def test_layers_of_another_form_stay_as_they_are() -> None:
    adapted, other_activation = served_model("llama"), served_model("llama")
    adapted.model.layers[0].self_attn.q_proj = nn.Sequential(copy.deepcopy(adapted.model.layers[0].self_attn.q_proj))
    other_activation.config.hidden_act = "gelu"

    for model in (adapted, other_activation, served_model("gemma3")):
        make_layers_lean(model)

    assert len(lean_layers(adapted)) == len(adapted.model.layers) - 1
    assert not lean_layers(other_activation)


def test_making_lean_twice_changes_nothing() -> None:
    model = served_model("llama")
    make_layers_lean(model)
    layers = lean_layers(model)
    make_layers_lean(model)
    assert lean_layers(model) == layers
