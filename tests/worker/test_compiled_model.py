"""A compiled model takes every forward, and gives a token the same bits whatever is beside it."""

import random

import pytest
import torch
from torch import Tensor

import worker.compiled_model
import worker.prepacked
from tests.architectures import VOCAB_SIZE, served_model
from worker.engine import ROOT, Chunk, Engine
from worker.panels import PanelLinear, has_panels
from worker.probe import relative_error

IN_BOTH_FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def _panels_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a trial would find, if this processor can have them."""
    if "dtype" in request.fixturenames and not has_panels(request.getfixturevalue("dtype")):
        pytest.skip("this processor has no kernels for that format")
    monkeypatch.setattr(worker.prepacked, "FORMS", (PanelLinear,))


def compiled_engine(architecture: str, dtype: torch.dtype, *, slots: int = 1) -> Engine:
    engine = Engine(served_model(architecture).to(dtype), slots=slots, max_length=128, prepack="on")
    assert engine._compiled is not None
    return engine


def random_tokens(count: int) -> list[int]:
    token_ids: list[int] = torch.randint(200, (count,), generator=torch.Generator().manual_seed(1)).tolist()
    return token_ids


@IN_BOTH_FORMATS
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_logits_of_a_row_have_the_same_bits_whatever_is_forwarded_beside_it(
    architecture: str, dtype: torch.dtype
) -> None:
    """In a chain of any length, in a tree, and in a crowd."""
    engine = compiled_engine(architecture, dtype, slots=3)
    token_ids, slots = random_tokens(40), [engine.open() for _ in range(3)]
    alone = torch.cat([engine.forward([Chunk(slot=slots[0], token_ids=[token])])[0] for token in token_ids])
    engine.commit(slots[0], ())

    for count in range(1, 41):
        (together,) = engine.forward([Chunk(slot=slots[0], token_ids=token_ids[:count])])
        engine.commit(slots[0], ())
        assert torch.equal(together, alone[:count])

    twice = [token for token in token_ids for _ in range(2)]
    forked = Chunk(slot=slots[1], token_ids=twice, parents=[node - 2 if node > 1 else ROOT for node in range(80)])
    others, chain = Chunk(slot=slots[2], token_ids=random_tokens(7)), Chunk(slot=slots[0], token_ids=token_ids)
    _, tree, beside = engine.forward([others, forked, chain])
    assert torch.equal(tree[::2], alone)
    assert torch.equal(tree[1::2], alone)
    assert torch.equal(beside, alone)


@IN_BOTH_FORMATS
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_it_computes_what_the_plain_model_computes(architecture: str, tied: bool, dtype: torch.dtype) -> None:
    model = served_model(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.3)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.to(dtype)
    token_ids = random_tokens(110)
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    engine = Engine(model, slots=1, max_length=128, prepack="on")
    slot = engine.open()

    logits = []
    for part in (token_ids[:9], token_ids[9:100], token_ids[100:]):
        logits += engine.forward([Chunk(slot=slot, token_ids=part)])
        engine.commit(slot)

    assert engine._compiled is not None
    assert relative_error(torch.cat(logits), expected) < {torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]


@IN_BOTH_FORMATS
def test_a_large_forward_goes_through_the_layers_in_pieces(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut anywhere: in sessions and between them, in chains and trees, behind a prefix and a scratch."""
    engine = compiled_engine("llama", dtype, slots=3)
    rng = random.Random(0)
    prompts = [random_tokens(count) for count in (30, 11, 50)]
    trees = [[rng.randrange(ROOT, node) if node else ROOT for node in range(count)] for count in (1, 23, 9)]

    def logits() -> Tensor:
        slots = [engine.open() for _ in prompts]
        read = [Chunk(slot=slot, token_ids=prompt) for slot, prompt in zip(slots, prompts, strict=True)]
        parts = engine.forward(read)
        for slot in slots[1:]:  # the first one's stays in its scratch
            engine.commit(slot)
        drafts = zip(slots, trees, strict=True)
        parts += engine.forward(
            [Chunk(slot=slot, token_ids=random_tokens(len(tree)), parents=tree) for slot, tree in drafts]
        )
        for slot in slots:
            engine.close(slot)
        return torch.cat(parts)

    whole = logits()
    for most in (1, 100, 500, 1000, 3000):
        monkeypatch.setattr(worker.compiled_model, "MAX_SEEN", most)
        assert torch.equal(logits(), whole), most


@IN_BOTH_FORMATS
def test_what_is_no_number_in_one_session_reaches_no_other(dtype: torch.dtype) -> None:
    model = served_model("qwen3").to(dtype)
    with torch.no_grad():
        model.model.embed_tokens.weight[VOCAB_SIZE - 1] = torch.nan
    engine = Engine(model, slots=3, max_length=128, prepack="on", check=False)
    slots = [engine.open() for _ in range(3)]
    token_ids = random_tokens(21)
    (alone,) = engine.forward([Chunk(slot=slots[1], token_ids=token_ids)])
    engine.commit(slots[1], ())

    poisoned = [*random_tokens(4), VOCAB_SIZE - 1]
    chunks = [Chunk(slot=slot, token_ids=token_ids if slot == slots[1] else poisoned) for slot in slots]
    before, beside, after = engine.forward(chunks)

    assert before[-1].isnan().all()
    assert after[-1].isnan().all()
    assert beside.isfinite().all()
    assert torch.equal(beside, alone)


@IN_BOTH_FORMATS
def test_models_of_another_form_are_left_to_torch(dtype: torch.dtype) -> None:
    """Gemma 3, though its products be by panels."""
    model = served_model("gemma3").to(dtype)

    assert Engine(model, slots=1, max_length=64, prepack="on")._compiled is None
    assert any(isinstance(layer, PanelLinear) for layer in model.modules())
