"""Teaching a drafter to think like the frozen target instead of like the text."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows

from zoo.lean_model import LeanLlama
from zoo.training import Loss
from zoo.vocabulary import VOCABULARY_SIZE


def divergence_from(target: LeanLlama, *, compiled: bool = True) -> Loss:
    """A loss: forward divergence KL(target || drafter), in nats per token, on whatever text is read."""
    target.eval().requires_grad_(False)
    teacher = torch.compile(target) if compiled else target

    def loss(logits: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            wanted = teacher(inputs).float().view(-1, VOCABULARY_SIZE)
        drafted = logits.float().view(-1, VOCABULARY_SIZE)
        return F.kl_div(F.log_softmax(drafted, -1), F.log_softmax(wanted, -1), log_target=True, reduction="batchmean")

    return loss
