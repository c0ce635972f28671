"""Compiled kernels compute what plain formulas say, a row by itself, and read nothing that a token does not see."""

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

import worker.prepacked
from tests.architectures import served_model
from worker.compiled_model import _places, _related
from worker.engine import Chunk, Engine
from worker.panels import PanelLinear
from worker.probe import relative_error
from worker.scratch import EMPTY, Scratch
from worker.step import Span

kernels = pytest.importorskip("worker.kernels")

SLOT = 400
"""Pool rows of a session."""

Rows = NDArray[np.float32]


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


def attended(spans: list[Span], joined: Rows, pool: Rows, heads: int, size: int) -> Rows:
    """Place and attend, without rotation."""
    turn = np.zeros((SLOT + 16, 2, size // 2), np.float32)
    turn[:, 0] = 1
    places, output = _places(spans), np.empty((len(joined), heads * size), np.float32)
    kernels.place(joined, turn, places, pool[0], pool[1])
    seen, counts = np.empty((len(joined), SLOT + 16), np.int64), np.empty(len(joined), np.int64)
    kernels.see(places, _related(spans), pool[0, 0].size, seen, counts)
    kernels.attend(joined, pool[0], pool[1], seen, counts, size**-0.5, output)
    return output


def expected_attention(spans: list[Span], joined: Rows, pool: Rows, heads: int) -> Tensor:
    """The formula, token by token, on a pool that holds the new keys and values."""
    size = pool.shape[-1]
    rows, related = [], _related(spans)
    for span in spans:
        for token in range(span.start, span.stop):
            scratch = np.flatnonzero(related[token]) + span.first_row + span.num_committed
            seen = [*range(span.first_row, span.first_row + span.num_committed), *scratch]
            keys, values = (torch.from_numpy(half[seen]).transpose(0, 1).double() for half in pool)
            group = heads // keys.shape[0]
            query = torch.from_numpy(joined[token, : heads * size]).view(heads, 1, size).double()
            scores = query @ keys.repeat_interleave(group, 0).transpose(1, 2) * size**-0.5
            rows.append((scores.softmax(-1) @ values.repeat_interleave(group, 0)).flatten())
    return torch.stack(rows)


@settings(max_examples=60, deadline=None)
@given(
    sessions(), st.sampled_from([(4, 4), (4, 2), (6, 1)]), st.sampled_from([2, 8, 32, 64, 80]), st.integers(0, 2**31)
)
def test_attention_is_the_formula_and_reads_only_what_a_token_sees(
    spans: list[Span], heads: tuple[int, int], size: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    joined = generator.standard_normal((spans[-1].stop, (heads[0] + 2 * heads[1]) * size), np.float32)
    pool = np.full((2, 3 * SLOT, heads[1], size), np.nan, np.float32)
    for span in spans:
        last = span.first_row + span.num_keys - span.num_new
        shape = 2, last - span.first_row, heads[1], size
        pool[:, span.first_row : last] = generator.standard_normal(shape, np.float32)

    got = attended(spans, joined, pool, *(heads[0], size))

    expected = expected_attention(spans, joined, pool, heads[0])
    torch.testing.assert_close(torch.from_numpy(got).double(), expected, atol=2e-5, rtol=2e-5)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=70), st.integers(1, 3))
def test_gate_is_silu_times_up(gates: list[float], count: int) -> None:
    gate_up = np.tile(np.array(gates * 2, np.float32), (count, 1))
    gated = np.empty((count, len(gates)), np.float32)

    kernels.gate(gate_up, gated)

    halves = torch.from_numpy(gate_up).double().view(count, 2, -1)
    expected = functional.silu(halves[:, 0]) * halves[:, 1]
    torch.testing.assert_close(torch.from_numpy(gated).double(), expected, atol=1e-30, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 4, 9, 64])
@pytest.mark.parametrize("size", [1, 8, 33, 256])
def test_norms_and_sums_are_the_formulas(count: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(shape, generator=generator) for shape in ((count, size), (size,)))
    normed, heads, total = torch.empty_like(rows), rows.clone(), rows.clone()

    kernels.normalise(rows.numpy(), weight.numpy(), 1e-5, normed.numpy())
    kernels.normalise_heads(heads.numpy(), weight[None].numpy(), 1e-5)
    kernels.add(total.numpy(), normed.numpy())

    expected = functional.rms_norm(rows, (size,), weight, 1e-5)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(heads, expected)
    torch.testing.assert_close(total, rows + normed)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_what_is_no_number_stays_in_its_row(poison: float) -> None:
    rows = np.ones((5, 16), np.float32)
    rows[2, 3] = poison
    outputs = [np.empty((5, 16), np.float32), np.empty((5, 8), np.float32), np.empty((5, 6), np.float32)]
    layer = nn.Linear(16, 6)
    nn.init.ones_(layer.weight)

    kernels.normalise(rows, np.ones(16, np.float32), 1e-5, outputs[0])
    kernels.gate(rows, outputs[1])
    kernels.multiply(rows, PanelLinear.of([layer])[0].panels, outputs[2])

    for output in outputs:
        assert np.isfinite(np.delete(output, 2, axis=0)).all()
        assert not np.isfinite(output[2]).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(0, 100), st.integers(0, 2**31))
def test_a_row_of_a_tree_has_the_bits_of_one_decoded_alone(length: int, committed: int, seed: int) -> None:
    """Two interleaved branches: each sees the keys of its own path only, and in the order of its text."""
    generator = np.random.default_rng(seed)
    joined = generator.standard_normal((2 * length, 3 * 32), np.float32)
    pool = generator.standard_normal((2, SLOT, 2, 16), np.float32)
    tree = EMPTY.grown(2 * length, [node - 2 if node > 1 else -1 for node in range(2 * length)])
    chain = EMPTY.grown(length)

    def run(scratch: Scratch, rows: Rows) -> Rows:
        span = Span(
            start=0,
            stop=len(scratch),
            first_row=0,
            num_committed=committed,
            positions=[committed + depth for depth in scratch.depths],
            ancestry=None if scratch.is_chain else scratch.ancestry(0),
        )
        return attended([span], rows.copy(), pool.copy(), 2, 16)

    both = run(tree, joined)

    np.testing.assert_array_equal(both[::2], run(chain, joined[::2]))
    np.testing.assert_array_equal(both[1::2], run(chain, joined[1::2]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 80), st.integers(1, 200), st.booleans(), st.integers(0, 2**31))
def test_a_product_by_panels_is_that_of_the_layer_and_of_each_row_alone(
    count: int, size: int, outputs: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layer, rows = nn.Linear(size, outputs, bias=bias), torch.randn(count, size)

    with torch.inference_mode():
        _, packed = PanelLinear.of([nn.Linear(3, 3), layer])
        got, expected = packed(rows), layer(rows)
        alone = torch.cat([packed(row[None]) for row in rows])

    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(got, alone), "to the last bit"


@pytest.fixture
def panels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a trial would find."""
    monkeypatch.setattr(worker.prepacked, "FORMS", (PanelLinear,))


@pytest.mark.usefixtures("panels_alone")
def test_the_logits_of_a_row_have_the_same_bits_whatever_is_forwarded_beside_it() -> None:
    engine = Engine(served_model("llama"), slots=1, max_length=128, prepack="on")
    slot = engine.open()
    token_ids = torch.randint(200, (40,), generator=torch.Generator().manual_seed(1)).tolist()

    one_by_one = [engine.forward([Chunk(slot=slot, token_ids=[token])])[0] for token in token_ids]
    engine.commit(slot, ())
    (together,) = engine.forward([Chunk(slot=slot, token_ids=token_ids)])

    assert engine._compiled is not None
    assert torch.equal(together, torch.cat(one_by_one))


@pytest.mark.usefixtures("panels_alone")
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_model_takes_small_forwards_and_leaves_large_ones(architecture: str, tied: bool) -> None:
    """Both ways read and write the same pool, so a text may go from one to the other."""
    model = served_model(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0, 0.3)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    token_ids = torch.randint(200, (110,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
    engine = Engine(model, slots=1, max_length=128, prepack="on")
    slot = engine.open()

    logits = []
    for part in (token_ids[:9], token_ids[9:100], token_ids[100:]):
        logits += engine.forward([Chunk(slot=slot, token_ids=part)])
        engine.commit(slot)

    assert engine._compiled is not None
    assert relative_error(torch.cat(logits), expected) < 1e-5


def test_models_in_other_formats_are_left_to_torch() -> None:
    """Gemma 3 has layers of another form, though its products be by panels."""
    for model in (served_model("llama").to(torch.bfloat16), served_model("gemma3")):
        assert Engine(model, slots=1, max_length=64, prepack="on")._compiled is None
