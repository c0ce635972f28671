"""The bench of accelerators, for real, on a model that a processor runs."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from bench.__main__ import app
from bench.gpu.measure import measure_engine
from bench.gpu.models import TINY, bytes_of_a_forward, target_and_drafter
from bench.runs.run import Run
from speculation.errors import ConfigurationError


def test_the_drafter_is_the_beginning_of_the_target_and_not_the_whole() -> None:
    torch.manual_seed(1)
    target, drafter = target_and_drafter(TINY, "cpu", torch.float32)
    token_ids = torch.randint(TINY.vocabulary, (1, 64))

    with torch.inference_mode():
        theirs, ours = target(token_ids).logits, drafter(token_ids).logits

    assert drafter.lm_head.weight.data_ptr() == target.lm_head.weight.data_ptr()
    assert not torch.equal(theirs, ours)
    assert (theirs.argmax(dim=-1) == ours.argmax(dim=-1)).float().mean() > 0.5


def test_a_forward_reads_every_weight_but_the_embeddings_and_the_whole_context() -> None:
    model, _ = target_and_drafter(TINY, "cpu", torch.bfloat16)
    size, ffn, of_kv = TINY.hidden, TINY.ffn, TINY.kv_heads * TINY.hidden // TINY.heads
    of_a_layer = 2 * size * size + 2 * size * of_kv + 3 * size * ffn + 2 * size + 2 * TINY.hidden // TINY.heads
    weights = TINY.layers * of_a_layer + size + size * TINY.vocabulary

    assert bytes_of_a_forward(model, 100) == 2 * (weights + 100 * 2 * TINY.layers * of_kv)


def test_verifications_and_answers_are_measured() -> None:
    figures = {entry.name: entry for entry in measure_engine(TINY, device="cpu", dtype="float32", seed=1)}

    for nodes in (1, 16, 64):
        for context in TINY.contexts:
            assert figures[f"gpu.verify_ms.nodes_{nodes}.context_{context}"].value > 0
            assert figures[f"gpu.verify_over_floor.nodes_{nodes}.context_{context}"].value > 0
    assert figures["gpu.differing_answers"].value == 0
    assert 1 < figures["gpu.tokens_per_round"].value <= 5


def test_the_command_keeps_its_run(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--tiny", "--no-exactness", "--json", "--output", str(tmp_path / "run.json")]

    done = CliRunner().invoke(app, ["gpu", *options])

    assert done.exit_code == 0, done.output
    names = {entry.name for entry in Run.load(tmp_path / "run.json").figures}
    assert names == {entry["name"] for entry in json.loads(done.stdout.splitlines()[-1])["figures"]}
    assert "gpu.speculative_over_plain" in names


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_without_a_device_it_says_so() -> None:
    with pytest.raises(ConfigurationError, match=r"no CUDA device is here.*--device cpu --tiny"):
        measure_engine(TINY, device="cuda", dtype="bfloat16", seed=1)
