"""The trainer: the library's function, and weights that follow from the recipe."""

from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.build import build
from zoo.lean_model import DRAFTER_SHAPE, LeanLlama, Shape, to_hugging_face
from zoo.measurement import num_target_calls
from zoo.muon import orthogonalise
from zoo.recipe import FULL, QUICK, TARGET, Schedule
from zoo.token_stream import Mixture, TokenStream
from zoo.training import final_loss, load_weights, save_weights

TINY = Shape(width=32, layers=2, heads=2, hidden=48)


def stream(seed: int, tokens: int = 5000) -> TokenStream:
    token_ids = np.random.default_rng(seed).integers(5, 2048, tokens).astype(np.uint16)
    return TokenStream(token_ids, np.arange(0, tokens, 256))


@pytest.mark.parametrize("shape", [TINY, DRAFTER_SHAPE])
def test_the_lean_model_computes_what_its_export_computes(shape: Shape) -> None:
    lean = LeanLlama(shape).initialise(1)
    token_ids = torch.from_numpy(stream(1).window(0, 300))[None]

    with torch.no_grad():
        difference = (lean(token_ids) - to_hugging_face(lean)(input_ids=token_ids).logits).abs().max()

    assert difference < 1e-4


def test_the_seed_decides_the_first_weights() -> None:
    first, again, other = (LeanLlama(TINY).initialise(seed).embedding.weight for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_seed_decides_every_batch() -> None:
    streams = {"a": stream(1), "b": stream(2)}
    first, again = (Mixture(streams, {"a": 0.7, "b": 0.3}, seed=3) for _ in range(2))

    for _ in range(3):
        assert torch.equal(first.batch(4, 32)[0], again.batch(4, 32)[0])


def test_targets_are_the_inputs_one_token_later() -> None:
    inputs, targets = Mixture({"a": stream(1)}, {"a": 1.0}, seed=3).batch(4, 32)

    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_a_window_past_the_end_goes_on_at_the_start() -> None:
    ring = stream(1)

    assert ring.window(4990, 20)[10:].tolist() == ring.token_ids[:10].tolist()


def test_the_pace_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule(steps=1000)

    assert schedule.pace(0) < schedule.pace(10) < schedule.pace(300) == 1.0
    assert schedule.pace(300) > schedule.pace(700) > schedule.pace(999) > 0


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 64, 32, generator=torch.Generator().manual_seed(1))

    values = torch.linalg.svdvals(orthogonalise(matrices))

    assert values.min() > 0.5
    assert values.max() < 1.5


def test_weights_come_back_with_the_loss_they_ended_with(tmp_path: Path) -> None:
    model = LeanLlama(TINY).initialise(1)
    save_weights(model, tmp_path / "tiny.safetensors", loss=1.25)

    loaded = load_weights(LeanLlama(TINY), tmp_path / "tiny.safetensors")

    assert torch.equal(loaded.embedding.weight, model.embedding.weight)
    assert final_loss(tmp_path / "tiny.safetensors") == 1.25
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.safetensors"]


@pytest.mark.parametrize(
    ("hits", "calls"),
    [
        pytest.param([False] * 6, 6, id="nothing drafted rightly: one token per call"),
        pytest.param([True] * 10, 2, id="everything drafted rightly: four and one more per call"),
        pytest.param([True, True, False, True, False], 2, id="a call ends at the first wrong token"),
        pytest.param([], 0, id="no text, no call"),
    ],
)
def test_target_calls_are_counted_as_the_loop_would_make_them(hits: list[bool], calls: int) -> None:
    assert num_target_calls(hits) == calls


def test_no_two_stages_share_a_seed() -> None:
    seeds = [FULL.seed_of(model, stage) for model in (TARGET, "code", "mixed") for stage in (0, 1)]

    assert len(seeds) == len(set(seeds))


@pytest.mark.slow
def test_the_quick_build_makes_a_whole_zoo(tmp_path: Path) -> None:
    models = build(tmp_path, QUICK, lambda stage: lambda progress: None)

    assert (models / "target" / "README.md").exists()
    assert (models / "mixed" / "model.safetensors").exists()
