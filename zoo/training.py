"""Training a model for a fixed number of steps: the weights are a function of recipe, seed and corpora."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from zoo.lean_model import Block, LeanLlama
from zoo.muon import Muon
from zoo.recipe import Schedule
from zoo.token_stream import Mixture
from zoo.vocabulary import VOCABULARY_SIZE

_LOSS_SMOOTHING = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run is; the loss is smoothed over about twenty steps."""

    step: int
    steps: int
    loss: float


class Loss(Protocol):
    def __call__(self, logits: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss per token of logits (rows, length, vocabulary)."""


Report = Callable[[Progress], None]


def cross_entropy(logits: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """How surprised the model is by the text, in nats per token."""
    return F.cross_entropy(logits.float().view(-1, VOCABULARY_SIZE), targets.reshape(-1))


class Optimiser:
    """Muon for the matrices of the blocks, AdamW for embedding and norms."""

    def __init__(self, model: LeanLlama, schedule: Schedule) -> None:
        matrices = _matrices(model)
        held = {id(weight) for weight, _ in matrices}
        vectors = [weight for weight in model.parameters() if id(weight) not in held]
        self._schedule = schedule
        self._muon = Muon(matrices)
        self._adam = torch.optim.AdamW(vectors, betas=(0.9, 0.95), weight_decay=0.0, fused=True)

    def step(self, step: int) -> None:
        """Apply the gradients of that step and clear them."""
        pace = self._schedule.pace(step)
        self._muon.step(self._schedule.matrix_rate * pace)
        for group in self._adam.param_groups:
            group["lr"] = self._schedule.vector_rate * pace
        self._adam.step()
        self._adam.zero_grad(set_to_none=True)


def train(
    model: LeanLlama,
    batches: Mixture,
    schedule: Schedule,
    *,
    loss: Loss = cross_entropy,
    report: Report = lambda progress: None,
    compiled: bool = True,
) -> float:
    """Train in place and return the smoothed loss at the end, in nats per token.

    Compiling makes steps faster, takes a minute first, and needs a C++ compiler: it does not pay for a short training.
    """
    forward = torch.compile(model) if compiled else model
    optimiser = Optimiser(model, schedule)
    smoothed = float("nan")
    for step in range(schedule.steps):
        inputs, targets = batches.batch(schedule.rows, schedule.length)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = forward(inputs)
        value = loss(logits, inputs, targets)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step(step)
        smoothed = value.item() if step == 0 else smoothed + _LOSS_SMOOTHING * (value.item() - smoothed)
        report(Progress(step + 1, schedule.steps, smoothed))
    return smoothed


def save_weights(model: LeanLlama, path: Path, *, loss: float) -> None:
    """Write weights and the loss they ended with; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, partial, metadata={"loss": f"{loss:.4f}"})
    partial.replace(path)


def load_weights(model: LeanLlama, path: Path) -> LeanLlama:
    model.load_state_dict(load_file(path))
    return model


def final_loss(path: Path) -> float:
    """The loss saved with the weights."""
    with safe_open(path, framework="pt") as file:
        return float(file.metadata()["loss"])


def _matrices(model: LeanLlama) -> list[tuple[torch.Tensor, int]]:
    """Every block's matrices, with the number of projections fused in each."""
    matrices: list[tuple[torch.Tensor, int]] = []
    for block in model.blocks:
        assert isinstance(block, Block)
        matrices += [
            (block.qkv.weight, 3),
            (block.attention_out.weight, 1),
            (block.gate_up.weight, 2),
            (block.down.weight, 1),
        ]
    return matrices
