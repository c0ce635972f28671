"""Packed weights change what a product takes, and nothing of what it is."""

import copy

import pytest
import torch
from torch import nn

from speculation.errors import ConfigurationError
from tests.architectures import served_model
from worker.engine import Chunk, Engine
from worker.prepacked import PrepackedLinear, prepack_linears
from worker.probe import TOLERANCES, relative_error
from worker.settings import WorkerSettings


@pytest.mark.parametrize("architecture", ["qwen3", "gemma3"])
def test_logits_are_the_same_but_for_rounding(architecture: str) -> None:
    plain = served_model(architecture).bfloat16()
    packed = copy.deepcopy(plain)
    prepack_linears(packed)
    engines = [Engine(model, slots=1, max_length=64) for model in (plain, packed)]
    slots = [engine.open() for engine in engines]

    for count in (1, 3, 16, 33):
        chunk = [Chunk(slot=slot, token_ids=list(range(1, count + 1))) for slot in slots]
        expected, got = (engine.forward([one])[0] for engine, one in zip(engines, chunk, strict=True))
        assert relative_error(got, expected) <= TOLERANCES[torch.bfloat16], count
        for engine, slot in zip(engines, slots, strict=True):
            engine.commit(slot, ())


def test_weights_are_held_once() -> None:
    model = served_model("qwen3").bfloat16()
    tied = model.get_input_embeddings().weight.data_ptr()

    prepack_linears(model)

    plain = [layer for layer in model.modules() if type(layer) is nn.Linear]
    assert all(layer.weight.data_ptr() == tied for layer in plain), "the head, where it is the embeddings"
    assert any(isinstance(layer, PrepackedLinear) for layer in model.modules())
    assert not any(
        parameter.ndim > 1
        for layer in model.modules()
        if isinstance(layer, PrepackedLinear)
        for parameter in layer.parameters()
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({}, "is for bfloat16 on the cpu, not for float32"),
        ({"dtype": "bfloat16", "device": "cuda:0"}, "not for bfloat16 on cuda:0"),
        ({"dtype": "bfloat16", "role": "verify", "exact": True}, "is not for an exact target"),
    ],
)
def test_it_is_refused_where_it_is_not_offered(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        WorkerSettings(**{"role": "draft", "model": "m", "name": "n", "prepacked": True} | settings)
