"""What a verdict rests on: the compiled way and torch's say the same, and what they say is what the names mean."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, ROOT, TokenTree
from tests.architectures import VOCAB_SIZE
from tests.worker.tiny_worker import PROMPT, SAMPLINGS, new_sampler
from worker.evidence import Evidence, Weigh, by_kernel, by_torch
from worker.kernels.verdict import _warm

WAYS = [pytest.param(by_torch, id="torch"), pytest.param(by_kernel(), id="kernel")]
NAN = float("nan")

UNUSUAL = {
    "one penalty alone": SamplingParameters(repetition_penalty=1.3),
    "hardly warm": SamplingParameters(temperature=1e-38, seed=1),
    "hot": SamplingParameters(temperature=100.0, seed=2),
    "a temperature that rounds": SamplingParameters(temperature=0.3, seed=3),
}


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    size = draw(st.integers(0, 12))
    return TokenTree(
        token_ids=tuple(draw(st.integers(0, VOCAB_SIZE - 1)) for _ in range(size)),
        parents=tuple(draw(st.integers(ROOT, node - 1)) for node in range(size)),
        confidences=(0.5,) * size,
    )


@st.composite
def logits_of(draw: st.DrawFn, rows: int, odd: tuple[float, ...]) -> Tensor:
    """Rows such as models make, with equals, and with odd values among them."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(rows, VOCAB_SIZE, generator=generator) * draw(st.sampled_from([0.0, 0.1, 4.0, 1e4]))
    logits = logits.round(decimals=draw(st.sampled_from([0, 1, 7]))) + draw(st.sampled_from([0.0, -1e3, 30.0]))
    share = draw(st.sampled_from([0.0, 0.001, 0.3]))
    logits[torch.rand(logits.shape, generator=generator) < share] = draw(st.sampled_from(odd))
    return logits


def same(one: Evidence, other: Evidence) -> None:
    assert list(one.chosen) == list(other.chosen)
    assert list(one.near) == list(other.near)
    for values, others in ((one.logprobs, other.logprobs), (one.node_probs, other.node_probs)):
        torch.testing.assert_close(
            torch.tensor(values), torch.tensor(others), rtol=4e-6, atol=4e-6, equal_nan=True, check_dtype=False
        )


@pytest.mark.parametrize("sampling", [*SAMPLINGS.values(), *UNUSUAL.values()], ids=[*SAMPLINGS, *UNUSUAL])
@settings(max_examples=60)
@given(data=st.data())
def test_the_compiled_way_says_what_torch_says(sampling: SamplingParameters, data: st.DataObject) -> None:
    tree = data.draw(trees())
    odd = (-torch.inf, NAN) if new_sampler(sampling).is_plain else (-torch.inf,)  # filters fail at what is no number
    logits = data.draw(logits_of(1 + len(tree), odd)).to(data.draw(st.sampled_from([torch.float32, torch.bfloat16])))

    same(
        by_kernel()(new_sampler(sampling), PROMPT, tree, logits),
        by_torch(new_sampler(sampling), PROMPT, tree, logits),
    )


@pytest.mark.parametrize("temperature", [1e-45, 1e-10, 0.3, 0.7, 1.0, 1.7, 100.0])
def test_temperature_has_the_bits_that_torch_gives_it(temperature: float) -> None:
    """What is added to the noise decides the token."""
    sampler = new_sampler(SamplingParameters(temperature=temperature))
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * 4
    warmed = np.empty(VOCAB_SIZE)

    _warm(logits.numpy()[0], np.float32(sampler.divisor), warmed)

    np.testing.assert_array_equal(warmed, sampler.log_probs(logits, PROMPT, [()]).numpy()[0])


@pytest.mark.parametrize("weigh", WAYS)
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_probabilities_are_those_of_the_logits_alone(sampling: SamplingParameters, weigh: Weigh) -> None:
    tree = TokenTree(token_ids=(5, 6, 7), parents=(ROOT, 0, ROOT), confidences=(0.5,) * 3)
    logits = torch.randn(4, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * 4

    evidence = weigh(new_sampler(sampling), PROMPT, tree, logits)

    probs = logits.double().softmax(dim=-1)
    assert evidence.node_probs == pytest.approx([float(probs[at]) for at in [(0, 5), (1, 6), (0, 7)]], rel=1e-5)
    expected = [float(probs[row, token].log()) for row, token in enumerate(evidence.chosen)]
    assert evidence.logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("weigh", WAYS)
def test_of_equals_the_first_is_chosen(weigh: Weigh) -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, [9, 8, 200]] = 3.0

    evidence = weigh(new_sampler(SamplingParameters()), PROMPT, EMPTY_TREE, logits)

    assert list(evidence.chosen) == [8]
    assert list(evidence.near) == [True]


@pytest.mark.parametrize(
    ("weigh", "dtype", "margin", "expected"),
    [
        *(
            pytest.param(*way.values, torch.float32, margin, expected, id=f"{way.id}, float32, {name}")
            for way in WAYS
            for margin, expected, name in [(0.0, True, "equal"), (1e-5, True, "rounding"), (1e-2, False, "apart")]
        ),
        *(
            pytest.param(*way.values, torch.bfloat16, margin, expected, id=f"{way.id}, bfloat16, {name}")
            for way in WAYS
            for margin, expected, name in [(1e-2, True, "as close as rounding"), (1.0, False, "apart")]
        ),
    ],
)
def test_near_is_what_rounding_could_swap(weigh: Weigh, dtype: torch.dtype, margin: float, expected: bool) -> None:
    logits = torch.linspace(-1.5, 1.5, VOCAB_SIZE)[None].clone()
    logits[0, :2] = torch.tensor([5.0, 5.0 + margin])

    evidence = weigh(new_sampler(SamplingParameters()), PROMPT, EMPTY_TREE, logits.to(dtype))

    assert list(evidence.near) == [expected]


@pytest.mark.parametrize("weigh", WAYS)
def test_a_margin_is_one_of_scores(weigh: Weigh) -> None:
    """Not of logits: a bias makes a tie of what was none."""
    logits = torch.linspace(-1.5, 1.5, VOCAB_SIZE)[None].clone()
    tied = SamplingParameters(logit_bias={1: 50.0 - float(logits[0, 1]), 2: 50.0 - float(logits[0, 2])})

    assert list(weigh(new_sampler(tied), PROMPT, EMPTY_TREE, logits).near) == [True]
    assert list(weigh(new_sampler(replace(tied, logit_bias={})), PROMPT, EMPTY_TREE, logits).near) == [False]


@pytest.mark.parametrize("weigh", WAYS)
def test_one_possible_token_is_not_near_another(weigh: Weigh) -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, 3] = 1e-7

    sampler = new_sampler(SamplingParameters(temperature=1.0, top_k=1))

    assert list(weigh(sampler, PROMPT, EMPTY_TREE, logits).near) == [False]
