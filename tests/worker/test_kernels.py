"""Compiled kernels compute what plain formulas say, a row by itself, and read nothing that a token does not see."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from worker.compiled_model import _places, _related
from worker.panels import PanelEmbedding, PanelLinear, Rows, has_panels, kept, tensor_of
from worker.scratch import EMPTY, Scratch
from worker.step import Span

kernels = pytest.importorskip("worker.kernels")

SLOT = 400
"""Pool rows of a session."""

IN_BOTH_FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def _with_kernels_for(request: pytest.FixtureRequest) -> None:
    """The kernels for the format that a test asks for, if this processor can have them."""
    if "dtype" in request.fixturenames and request.getfixturevalue("dtype") == torch.bfloat16:
        if not kernels.MULTIPLIES_BFLOAT16:
            pytest.skip("this processor has no instruction for products of bfloat16")
        kernels.compile_for_bfloat16()


def numbers(generator: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(generator.standard_normal(shape, np.float32))


@st.composite
def sessions(draw: st.DrawFn) -> list[Span]:
    """One to three sessions: a committed prefix, a scratch grown before, and new tokens that form a tree below it."""
    spans: list[Span] = []
    for index in range(draw(st.integers(1, 3))):
        scratch = _grown(draw, EMPTY, draw(st.integers(0, 6)))
        new = draw(st.integers(1, 9))
        scratch, committed = _grown(draw, scratch, new), draw(st.integers(0, 300))
        start = spans[-1].stop if spans else 0
        spans.append(
            Span(
                start=start,
                stop=start + new,
                first_row=index * SLOT,
                num_committed=committed,
                positions=[committed + depth for depth in scratch.depths],
                ancestry=None if scratch.is_chain else scratch.ancestry(len(scratch) - new),
            )
        )
    return spans


def _grown(draw: st.DrawFn, scratch: Scratch, count: int) -> Scratch:
    parents = [draw(st.integers(-1, len(scratch) + place - 1)) for place in range(count)]
    return scratch.grown(count, parents if draw(st.booleans()) else None)


def attended(spans: list[Span], joined: Rows, keys: Rows, values: Rows, heads: int) -> Rows:
    """Place and attend, without rotation."""
    size = keys.shape[-1]
    turn = np.zeros((SLOT + 16, 2, size // 2), np.float32)
    turn[:, 0] = 1
    places, output = _places(spans), np.empty((len(joined), heads * size), joined.dtype)
    kernels.place(joined, turn, places, keys, values)
    seen, counts = np.empty((len(joined), SLOT + 16), np.int64), np.empty(len(joined), np.int64)
    kernels.see(places, _related(spans), keys[0].size, seen, counts)
    control = np.zeros(kernels.CONTROL_SIZE, np.int64)
    memory = np.full((1, len(joined) * (size + seen.shape[1])), np.nan, np.float32)
    kernels.attend(joined, keys, values, seen, counts, size**-0.5, output, control, memory)
    return output


def expected_attention(spans: list[Span], joined: Tensor, pool: Sequence[Tensor], heads: int) -> Tensor:
    """The formula, token by token, on a pool that holds the new keys and values."""
    size = pool[0].shape[-1]
    rows, related = [], _related(spans)
    for span in spans:
        for token in range(span.start, span.stop):
            scratch = np.flatnonzero(related[token]) + span.first_row + span.num_committed
            seen = [*range(span.first_row, span.first_row + span.num_committed), *scratch]
            keys, values = (half[seen].transpose(0, 1).double() for half in pool)
            group = heads // keys.shape[0]
            query = joined[token, : heads * size].view(heads, 1, size).double()
            scores = query @ keys.repeat_interleave(group, 0).transpose(1, 2) * size**-0.5
            rows.append((scores.softmax(-1) @ values.repeat_interleave(group, 0)).flatten())
    return torch.stack(rows)


@IN_BOTH_FORMATS
@settings(max_examples=60, deadline=None)
@given(
    sessions(), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.sampled_from([2, 8, 32, 64, 80]), st.integers(0, 2**31)
)
def test_attention_is_the_formula_and_reads_only_what_a_token_sees(
    dtype: torch.dtype, spans: list[Span], heads: tuple[int, int], size: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    joined = numbers(generator, spans[-1].stop, (heads[0] + 2 * heads[1]) * size).to(dtype)
    pool = [torch.full((3 * SLOT, heads[1], size), torch.nan, dtype=dtype) for _ in range(2)]
    for span in spans:
        last = span.first_row + span.num_keys - span.num_new
        for half in pool:
            half[span.first_row : last] = numbers(generator, last - span.first_row, heads[1], size)

    got = attended(spans, kept(joined), *map(kept, pool), heads[0])

    expected = expected_attention(spans, joined, pool, heads[0])
    rounding = {torch.float32: 0.0, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(tensor_of(got).double(), expected, atol=2e-5, rtol=2e-5 + rounding)


@IN_BOTH_FORMATS
@pytest.mark.parametrize("size", [2, 6, 32, 64])
def test_queries_and_keys_are_turned_as_transformers_turns_them(dtype: torch.dtype, size: int) -> None:
    """In bfloat16 to the last bit: each product and the sum are rounded."""
    generator = np.random.default_rng(0)
    joined, tables = numbers(generator, 3, 5 * size).to(dtype), numbers(generator, 9, 2, size // 2).to(dtype)
    heads = joined.view(3, 5, size).clone()
    cos, sin = (tables[[7, 0, 3], half].repeat(1, 2)[:, None] for half in range(2))
    turned = heads * cos + torch.cat((-heads[..., size // 2 :], heads[..., : size // 2]), dim=-1) * sin
    keys, values = (torch.zeros(9, 2, size, dtype=dtype) for _ in range(2))

    places = np.array([(4, 7, 0, 0), (1, 0, 0, 0), (8, 3, 0, 0)], np.int64)
    kernels.place(kept(joined), tables.float().numpy(), places, kept(keys), kept(values))

    atol = 0.0 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(joined.view(3, 5, size)[:, :3], turned[:, :3], atol=atol, rtol=0.0)
    assert torch.equal(keys[[4, 1, 8]], joined.view(3, 5, size)[:, 1:3])
    assert torch.equal(values[[4, 1, 8]], heads[:, 3:])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: torch.dtype, given: list[float]) -> None:
    sums = torch.tensor([given])
    rows = torch.empty(sums.shape, dtype=dtype)

    kernels.keep(kept(rows), 0, sums.numpy())

    torch.testing.assert_close(rows, sums.to(dtype), atol=0.0, rtol=0.0, equal_nan=True)


@IN_BOTH_FORMATS
@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=70), st.integers(1, 3))
def test_gate_is_silu_times_up(dtype: torch.dtype, gates: list[float], count: int) -> None:
    gate_up = torch.tensor(gates * 2).repeat(count, 1).to(dtype)
    gated = torch.empty(count, len(gates), dtype=dtype)

    kernels.gate(kept(gate_up), kept(gated))

    halves = gate_up.double().view(count, 2, -1)
    expected = functional.silu(halves[:, 0]) * halves[:, 1]
    rtol = {torch.float32: 1e-6, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(gated.double(), expected, atol=1e-30, rtol=rtol)


@IN_BOTH_FORMATS
@pytest.mark.parametrize("count", [1, 3, 4, 9, 64])
@pytest.mark.parametrize("size", [1, 8, 33, 256])
def test_norms_and_sums_are_the_formulas(dtype: torch.dtype, count: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((count, size), (size,)))
    normed, heads, total = torch.empty_like(rows), rows.clone(), rows.clone()

    kernels.normalise(kept(rows), weight.float().numpy(), 1e-5, kept(normed))
    kernels.normalise_heads(kept(heads), weight[None].float().numpy(), 1e-5)
    kernels.add(kept(total), kept(normed))

    expected = functional.rms_norm(rows.float(), (size,), eps=1e-5).to(dtype) * weight
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(heads, expected)
    assert torch.equal(total, rows + normed)


@IN_BOTH_FORMATS
@pytest.mark.parametrize("poison", [np.nan, np.inf])
@pytest.mark.parametrize("size", [16, 15])
def test_what_is_no_number_stays_in_its_row(dtype: torch.dtype, poison: float, size: int) -> None:
    """Of an odd size, too, where the first number of a row is read beside the last one of the row before, if at all."""
    rows = torch.ones(5, size, dtype=dtype)
    rows[2, 0] = poison
    outputs = [torch.empty(5, columns, dtype=dtype) for columns in (size, size // 2, 6)]
    layer = nn.Linear(size, 6, dtype=dtype)
    nn.init.ones_(layer.weight)

    kernels.normalise(kept(rows), np.ones(size, np.float32), 1e-5, kept(outputs[0]))
    kernels.gate(kept(rows[:, : size // 2 * 2]), kept(outputs[1]))
    kernels.multiply(kept(rows), PanelLinear.of([layer])[0].panels, kept(outputs[2]))

    for output in outputs:
        assert output[[0, 1, 3, 4]].isfinite().all()
        assert not output[2].isfinite().all()


@IN_BOTH_FORMATS
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 100), st.integers(0, 2**31))
def test_a_row_of_a_tree_has_the_bits_of_one_decoded_alone(
    dtype: torch.dtype, length: int, committed: int, seed: int
) -> None:
    """Two interleaved branches: each sees the keys of its own path only, and in the order of its text."""
    generator = np.random.default_rng(seed)
    joined = numbers(generator, 2 * length, 3 * 32).to(dtype)
    pool = [numbers(generator, SLOT, 2, 16).to(dtype) for _ in range(2)]
    tree = EMPTY.grown(2 * length, [node - 2 if node > 1 else -1 for node in range(2 * length)])
    chain = EMPTY.grown(length)

    def run(scratch: Scratch, rows: Tensor) -> Rows:
        span = Span(
            start=0,
            stop=len(scratch),
            first_row=0,
            num_committed=committed,
            positions=[committed + depth for depth in scratch.depths],
            ancestry=None if scratch.is_chain else scratch.ancestry(0),
        )
        keys, values = (kept(half.clone()) for half in pool)
        return attended([span], kept(rows.clone()), keys, values, 2)

    both = run(tree, joined)

    np.testing.assert_array_equal(both[::2], run(chain, joined[::2]))
    np.testing.assert_array_equal(both[1::2], run(chain, joined[1::2]))


@IN_BOTH_FORMATS
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 80), st.integers(1, 200), st.booleans(), st.integers(0, 2**31))
def test_a_product_by_panels_is_that_of_the_layer_and_of_each_row_alone(
    dtype: torch.dtype, count: int, size: int, outputs: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, rows = nn.Linear(size, outputs, bias=bias, dtype=dtype), torch.randn(count, size).to(dtype)

    with torch.inference_mode():
        _, packed = PanelLinear.of([nn.Linear(3, 3, dtype=dtype), layer])
        got, expected = packed(rows), layer.double()(rows.double())
        alone = torch.cat([packed(row[None]) for row in rows])

    rounding = {torch.float32: 0.0, torch.bfloat16: 2**-8}[dtype]
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=rounding + 1e-5)
    assert torch.equal(got, alone), "to the last bit"


@IN_BOTH_FORMATS
@pytest.mark.parametrize("channels", [1, 7, 32])
def test_embeddings_that_lie_in_the_panels_of_a_head_are_its_weights(dtype: torch.dtype, channels: int) -> None:
    head = nn.Linear(channels, 70, bias=False, dtype=dtype)
    token_ids = torch.tensor([[0, 69], [31, 32], [64, 0]])

    embedding = PanelEmbedding(PanelLinear.of([head])[0])

    assert torch.equal(embedding(token_ids), head.weight[token_ids])


def test_a_processor_without_the_instruction_has_no_panels_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MULTIPLIES_BFLOAT16", False)

    assert not has_panels(torch.bfloat16)
    assert has_panels(torch.float32)
    with pytest.raises(ValueError, match=r"no panels of torch\.bfloat16 on this processor"):
        PanelLinear.of([nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.bfloat16)])


def test_there_are_no_panels_of_other_formats() -> None:
    with pytest.raises(ValueError, match=r"no panels of torch\.float16"):
        PanelLinear.of([nn.Linear(2, 2, dtype=torch.float16)])


ATTENDED = f"""
import hashlib
import numpy as np
from worker import kernels

rng = np.random.default_rng(0)
rows = {32 * kernels.LANES}
keys, values = rng.standard_normal((2, rows, 1, 32)).astype(np.float32)
joined = rng.standard_normal((rows, 96)).astype(np.float32)
seen = np.tile(np.arange(rows) * 32, (rows, 1))
counts, attended = np.arange(1, rows + 1), np.empty((rows, 32), np.float32)
control, memory = np.zeros(kernels.CONTROL_SIZE, np.int64), np.zeros((1, rows * (32 + rows)), np.float32)
kernels.attend(joined, keys, values, seen, counts, 0.2, attended, control, memory)
print(hashlib.sha256(attended.tobytes()).hexdigest())
"""


def test_code_from_the_cache_has_the_bits_of_code_just_compiled(tmp_path: Path) -> None:
    """Else two workers of a fleet might decide a near tie otherwise."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", ATTENDED]
    told = [
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120.0).stdout
        for _ in range(2)
    ]

    assert list(tmp_path.rglob("*.nbc"))
    assert told[0] == told[1] != ""
