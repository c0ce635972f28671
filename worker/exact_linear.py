"""Linear layers in which the bits of a row do not depend on the other rows.

oneDNN picks a kernel by the shape of a product, and its bfloat16 kernels add in different orders: from 33 rows on most
layers of 512 inputs and more give other bits than for a single row. So rows come in multiples of ROWS, the product is
taken the other way round, weights times transposed rows, whose kernels agree for longer (and are faster), and when a
model is loaded every number of rows that may occur is compared with the smallest.
"""

from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from speculation.errors import UnservableModelError

ROWS = 16
"""Rows come in multiples of this, as a tile of AMX has them. What an elementwise kernel computes apart from the rest,
the end of a tensor that fills no two vectors, is then empty as well."""

MOST_ROWS = 128
"""More rows are multiplied in groups of at most so many."""

_ROLLED = 5


def pad_rows(count: int) -> int:
    """The number of rows that `count` rows are padded to."""
    return -(-count // ROWS) * ROWS


@torch.inference_mode()
def make_linears_exact(model: PreTrainedModel) -> None:
    """Change every linear layer of a bfloat16 model to one whose rows do not depend on each other.

    Raises:
        UnservableModelError: A layer multiplies by weights in another way, or no number of rows will do.
    """
    most_rows: dict[torch.Size, int] = {}
    for layer in model.modules():
        matrices = [weights for weights in layer.parameters(recurse=False) if weights.ndim > 1]
        if not matrices or isinstance(layer, nn.Embedding) or "forward" in vars(layer):  # the last: done before
            continue
        if not isinstance(layer, nn.Linear):
            raise _unservable(model, f"has {type(layer).__name__} layers, which are not known to keep rows apart")
        shape = layer.weight.shape
        if shape not in most_rows:
            most_rows[shape] = _most_rows(layer.weight)
        if not most_rows[shape]:
            raise _unservable(model, f"has a product with {tuple(shape)} weights that does not keep rows apart")
        setattr(layer, "forward", partial(_forward, layer, most_rows[shape]))  # noqa: B010 (a method, to mypy)


def _unservable(model: PreTrainedModel, problem: str) -> UnservableModelError:
    return UnservableModelError(type(model).__name__, f"cannot be served bit for bit: it {problem}")


def _forward(layer: nn.Linear, most_rows: int, inputs: Tensor) -> Tensor:
    """What the layer makes of (..., in_features)."""
    rows = inputs.reshape(-1, layer.in_features)
    if len(rows) <= most_rows:
        outputs = _product(layer.weight, rows)
    else:
        outputs = torch.cat([_product(layer.weight, group) for group in torch.split(rows, most_rows)])
    if layer.bias is not None:
        outputs += layer.bias
    return outputs.view(*inputs.shape[:-1], layer.out_features)


def _product(weights: Tensor, rows: Tensor) -> Tensor:
    """(rows, out_features)."""
    return torch.mm(weights, rows.t()).t().contiguous()


def _most_rows(weights: Tensor) -> int:
    """How many rows may be multiplied at once, found by comparing the bits; 0 for none."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(MOST_ROWS, weights.shape[1], generator=generator).to(weights.dtype)
    expected = torch.cat([_product(weights, group) for group in torch.split(rows, ROWS)])
    rolled = torch.cat(
        [_product(weights, group.roll(_ROLLED, 0)).roll(-_ROLLED, 0) for group in torch.split(rows, ROWS)]
    )
    if not torch.equal(rolled, expected):
        return 0
    most = ROWS
    while most < MOST_ROWS and _agrees(weights, rows, expected, most + ROWS):
        most += ROWS
    return most


def _agrees(weights: Tensor, rows: Tensor, expected: Tensor, count: int) -> bool:
    """Whether products of so many rows have the expected bits, for the first and for the last of the rows."""
    return all(
        torch.equal(_product(weights, rows[part]), expected[part]) for part in (slice(count), slice(-count, None))
    )
