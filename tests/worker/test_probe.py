"""What is refused at load time, and that the check notices every fault it exists for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.masking_utils import causal_mask_function

from speculation.errors import UnservableModelError
from tests.architectures import SERVABLE, UNSERVABLE, new_model, served_model
from worker.attention import IMPLEMENTATION
from worker.cache import KeyValuePool, PackedRow
from worker.engine import Engine
from worker.probe import PROBE_WINDOW, TOLERANCES, relative_error
from worker.scratch import Scratch

WINDOWED = ("mistral", "gemma2", "gemma3", "gemma3n", "gpt_oss", "llama4")


def serve(model: PreTrainedModel, *, padded: bool = False) -> Engine:
    return Engine(model, slots=1, max_length=8, padded=padded)


@pytest.mark.parametrize("padded", [False, True], ids=["one by one", "padded"])
@pytest.mark.parametrize("architecture", SERVABLE)
def test_a_servable_model_agrees_to_rounding(architecture: str, padded: bool) -> None:
    engine = serve(served_model(architecture), padded=padded)

    assert 0 < engine.probe_error < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("architecture", SERVABLE)
def test_a_servable_model_agrees_in_half_precision(architecture: str, dtype: torch.dtype) -> None:
    assert serve(served_model(architecture).to(dtype)).probe_error < TOLERANCES[dtype]


@pytest.mark.parametrize("architecture", UNSERVABLE)
def test_an_unservable_architecture_is_refused_with_its_reason(architecture: str) -> None:
    config, reason = UNSERVABLE[architecture]

    with pytest.raises(UnservableModelError, match=reason):
        serve(new_model(config()))


def test_an_encoder_decoder_is_refused() -> None:
    model = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=64))

    with pytest.raises(UnservableModelError, match="encoder-decoder"):
        serve(model)


def drop_windows(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(AttentionMaskInterface._global_mapping, IMPLEMENTATION, lambda **_: causal_mask_function)


def flatten_trees(patch: pytest.MonkeyPatch) -> None:
    def ancestry(scratch: Scratch, first: int) -> NDArray[np.bool_]:
        return np.tri(len(scratch), dtype=np.bool_)[first:]

    patch.setattr(Scratch, "ancestry", ancestry)


def show_siblings(patch: pytest.MonkeyPatch) -> None:
    honest = Scratch.ancestry

    def ancestry(scratch: Scratch, first: int) -> NDArray[np.bool_]:
        related = honest(scratch, 0)
        parents = np.array(scratch.parents)
        return (related | np.tril(parents[:, None] == parents))[first:]

    patch.setattr(Scratch, "ancestry", ancestry)


def forget_to_compact(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyValuePool, "move", lambda *_: None)


def misplace_tokens(patch: pytest.MonkeyPatch) -> None:
    honest = Scratch._grown_into_tree

    def grown(scratch: Scratch, parents: list[int]) -> Scratch:
        tree = honest(scratch, parents)
        return Scratch(parents=tree.parents, depths=range(len(tree)), ancestor_bits=tree.ancestor_bits)

    patch.setattr(Scratch, "_grown_into_tree", grown)


Damage = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", WINDOWED)
def test_a_dropped_window_is_noticed(
    monkeypatch: pytest.MonkeyPatch, architecture: str, dtype: torch.dtype, sharpness: float
) -> None:
    model = new_model(SERVABLE[architecture](), sharpness=sharpness).to(dtype)
    drop_windows(monkeypatch)

    with pytest.raises(UnservableModelError, match="disagree"):
        serve(model)


@pytest.mark.parametrize("window", [40, 4096])
@pytest.mark.parametrize("architecture", WINDOWED)
def test_a_dropped_window_is_noticed_however_long_it_is(
    monkeypatch: pytest.MonkeyPatch, architecture: str, window: int
) -> None:
    config = SERVABLE[architecture]()
    name = "attention_chunk_size" if architecture == "llama4" else "sliding_window"
    setattr(config, name, window)
    model = new_model(config)
    drop_windows(monkeypatch)

    with pytest.raises(UnservableModelError, match="disagree"):
        serve(model)

    assert getattr(model.config, name) == window > PROBE_WINDOW


@pytest.mark.parametrize("padded", [False, True], ids=["one by one", "padded"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("damage", [flatten_trees, show_siblings, forget_to_compact, misplace_tokens])
def test_a_fault_of_the_engine_is_noticed(
    monkeypatch: pytest.MonkeyPatch, damage: Damage, architecture: str, padded: bool
) -> None:
    model = new_model(SERVABLE[architecture](), sharpness=1.0)
    damage(monkeypatch)

    with pytest.raises(UnservableModelError, match="disagree"):
        serve(model, padded=padded)


def test_a_query_scale_that_follows_the_row_instead_of_the_position_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model(SERVABLE["llama4"](), sharpness=1.0)
    monkeypatch.setattr(PackedRow, "get_seq_length", lambda *_: 0)

    with pytest.raises(UnservableModelError, match="disagree"):
        serve(model)


def test_the_probe_leaves_windows_and_slots_as_they_were() -> None:
    model = served_model("gemma3")
    window = model.config.sliding_window

    engine = Engine(model, slots=2, max_length=64)

    assert model.config.sliding_window == window > PROBE_WINDOW
    assert {engine.length(engine.open()) for _ in range(2)} == {0}


def test_an_engine_smaller_than_the_probe_is_probed_all_the_same() -> None:
    assert Engine(served_model("llama"), slots=1, max_length=2).probe_error > 0


def test_the_check_can_be_switched_off() -> None:
    assert Engine(served_model("llama"), slots=1, max_length=8, check=False).probe_error == 0.0


def test_logits_that_are_no_numbers_are_refused() -> None:
    model = served_model("llama")
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan

    with pytest.raises(UnservableModelError, match="nan"):
        serve(model)


def test_an_error_inside_a_foreign_model_becomes_a_refusal() -> None:
    model = served_model("gemma3")
    model.model.norm.register_forward_pre_hook(lambda *_: 1 / 0)

    with pytest.raises(UnservableModelError, match="ZeroDivisionError"):
        serve(model)


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        pytest.param({"attention_mask": torch.ones(1, 1, 1, 1)}, "own attention masks", id="its own mask"),
        pytest.param({"position_bias": torch.ones(1)}, "position bias", id="position bias"),
        pytest.param({"is_causal": False}, "not causal", id="looks ahead"),
    ],
)
def test_attention_beyond_a_causal_predicate_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: dict[str, object], reason: str
) -> None:
    registered = AttentionInterface._global_mapping[IMPLEMENTATION]

    def with_option(
        module: object, query: object, key: object, value: object, mask: object, **options: object
    ) -> object:
        arguments = {"attention_mask": mask, **options, **option}
        return registered(module, query, key, value, **arguments)

    monkeypatch.setitem(AttentionInterface._global_mapping, IMPLEMENTATION, with_option)

    with pytest.raises(UnservableModelError, match=reason):
        serve(served_model("gemma3"))


def test_relative_error_ignores_what_softmax_ignores() -> None:
    logits = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))

    assert relative_error(logits + 3, logits) < 1e-6
    assert relative_error(logits * 1.01, logits) == pytest.approx(0.01, rel=1e-3)


def test_one_wrong_row_counts_in_full_precision() -> None:
    logits = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    wrong = logits.clone()
    wrong[3] = -wrong[3]

    assert relative_error(wrong, logits) == pytest.approx(2, rel=1e-3)
    assert relative_error(wrong.bfloat16(), logits.bfloat16()) == 0
