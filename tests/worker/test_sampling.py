"""The order of tokens: what sampling parameters mean, at every node of a tree, and that samples follow the target."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare
from torch import Tensor
from transformers import GenerationConfig

from speculation.errors import InvalidRequestError
from speculation.noise import gumbel_noise, key_of_seed, philox4x32
from speculation.sampling import SamplingParameters
from tests.architectures import VOCAB_SIZE, plain_logits, plain_model
from tests.worker.tiny_worker import (
    MODEL,
    PROMPT,
    SAMPLINGS,
    filtered,
    new_sampler,
    reference_scores,
    softmax,
)
from worker import sampling as sampling_module

SEEDS = 20_000


def logits_after(token_ids: tuple[int, ...]) -> Tensor:
    """(1, vocab), what the tiny model says after the tokens."""
    return plain_logits(MODEL, token_ids)[-1:]


def noise_of_seeds(count: int, position: int) -> NDArray[np.float64]:
    """(count, vocab), the noise of one position under the seeds 0 to count - 1, all at once."""
    blocks = np.arange(VOCAB_SIZE // 4, dtype=np.int64)[None, :] + np.zeros((count, 1), np.int64)
    nothing = np.zeros_like(blocks)
    seeds = np.arange(count, dtype=np.int64)[:, None]
    key: tuple[int, int] = (seeds, nothing)  # type: ignore[assignment]
    words = np.stack(philox4x32((blocks, nothing + position, nothing, nothing), key), axis=-1)
    uniform = (words.reshape(count, VOCAB_SIZE) + 0.5) * 2.0**-32
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise


def test_noise_of_many_seeds_is_the_noise_of_each() -> None:
    together = noise_of_seeds(50, position=10)

    assert key_of_seed(49) == (49, 0)
    np.testing.assert_array_equal(together[49], gumbel_noise(49, np.array([10]), VOCAB_SIZE)[0])


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(SamplingParameters(temperature=1.0), id="temperature 1"),
        pytest.param(SamplingParameters(temperature=0.6), id="temperature 0.6"),
        pytest.param(SamplingParameters(temperature=1.0, top_k=5), id="top-k"),
        pytest.param(SamplingParameters(temperature=1.3, top_p=0.7), id="top-p"),
        pytest.param(SamplingParameters(temperature=1.3, min_p=0.1), id="min-p"),
        pytest.param(SamplingParameters(temperature=1.0, repetition_penalty=1.5, logit_bias={8: 2.0}), id="penalised"),
        pytest.param(SamplingParameters(temperature=1.5, top_k=30, top_p=0.9, min_p=0.02), id="all filters"),
    ],
)
def test_first_tokens_over_many_seeds_follow_the_target(parameters: SamplingParameters) -> None:
    """Chi-squared of 20,000 answers, one for each seed, against the target's transformed distribution."""
    noisefree = reference_scores(replace(parameters, temperature=0.0), PROMPT, len(PROMPT))
    probs = softmax(filtered(noisefree / parameters.temperature, parameters))
    log_probs = new_sampler(parameters).log_probs(logits_after(PROMPT), PROMPT, [()])

    chosen = (log_probs.numpy() + noise_of_seeds(SEEDS, position=len(PROMPT))).argmax(axis=1)

    counts = np.bincount(chosen, minlength=VOCAB_SIZE)
    assert counts[probs == 0].sum() == 0
    common = probs * SEEDS >= 5  # the test is an approximation that needs this many; the rest are lumped together
    seen = np.append(counts[common], counts[~common].sum())
    expected = np.append(probs[common], probs[~common].sum()) * SEEDS
    possible = expected > 0
    assert chisquare(seen[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_scores_are_log_probabilities_and_the_noise_of_seed_and_position(seed: int) -> None:
    sampler = new_sampler(SamplingParameters(temperature=1.0, seed=seed))
    logits = logits_after(PROMPT)

    scores = sampler.scores(logits, PROMPT, [()])

    noise = gumbel_noise(seed, np.array([len(PROMPT)]), VOCAB_SIZE)
    np.testing.assert_allclose(scores.numpy(), sampler.log_probs(logits, PROMPT, [()]).numpy() + noise, rtol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_scores_are_what_the_definition_says(sampling: SamplingParameters) -> None:
    token_ids = (*PROMPT, 3, 5, 5, 6, 77)

    scores = new_sampler(sampling).scores(logits_after(token_ids), token_ids, [()])[0].numpy()

    expected = reference_scores(sampling, token_ids, len(PROMPT))
    np.testing.assert_allclose(scores - scores.max(), expected - expected.max(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guess", [4, 256])
@pytest.mark.parametrize(
    "parameters",
    [
        SamplingParameters(temperature=0.7, top_k=20, top_p=0.8, min_p=0.03, repetition_penalty=1.4),
        SamplingParameters(temperature=2.0, top_p=0.5, min_p=0.2),
        SamplingParameters(temperature=0.5, top_k=3),
        SamplingParameters(temperature=20.0, top_p=0.999),
    ],
)
def test_transforms_are_those_of_transformers_in_its_order(
    parameters: SamplingParameters, guess: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling_module, "NUCLEUS_GUESS", guess)
    config = GenerationConfig(
        do_sample=True,
        temperature=parameters.temperature,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        min_p=parameters.min_p or None,
        repetition_penalty=parameters.repetition_penalty,
    )
    processors = plain_model(MODEL)._get_logits_processor(
        generation_config=config, input_ids_seq_length=len(PROMPT), device="cpu"
    )
    logits = logits_after(PROMPT)

    ours = new_sampler(parameters).log_probs(logits, PROMPT, [()]).log_softmax(dim=-1)

    theirs = processors(torch.tensor([PROMPT]), logits).log_softmax(dim=-1)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
@settings(max_examples=12)
@given(data=st.data())
def test_a_node_is_scored_as_if_its_own_path_had_been_emitted(
    sampling: SamplingParameters, data: st.DataObject
) -> None:
    """Penalties count the node's own path, noise belongs to its own position; siblings count for nothing."""
    tokens = st.integers(0, VOCAB_SIZE - 1)
    context = data.draw(st.lists(tokens, min_size=len(PROMPT), max_size=20))
    paths = data.draw(st.lists(st.lists(tokens, max_size=5).map(tuple), min_size=1, max_size=5))
    logits = torch.randn(len(paths), VOCAB_SIZE, generator=torch.Generator().manual_seed(0)) * 4

    together = new_sampler(sampling).scores(logits, context, paths)

    for row, path in enumerate(paths):
        alone = new_sampler(sampling).scores(logits[row : row + 1], [*context, *path], [()])
        torch.testing.assert_close(together[row : row + 1], alone)


def test_presence_and_frequency_count_the_answer_alone_and_repetition_the_prompt_too() -> None:
    logits = torch.full((1, VOCAB_SIZE), 2.0)
    context = [7, 7, 7, 8, 8]  # three tokens of prompt, two of answer

    def penalty(token: int, **fields: float) -> float:
        sampler = new_sampler(SamplingParameters(**fields), prompt_length=3)  # type: ignore[arg-type]
        return 2.0 - float(sampler.scores(logits, context, [(9,)])[0, token])

    assert [penalty(token, presence_penalty=0.5) for token in (7, 8, 9, 10)] == [0.0, 0.5, 0.5, 0.0]
    assert [penalty(token, frequency_penalty=0.5) for token in (7, 8, 9, 10)] == [0.0, 1.0, 0.5, 0.0]
    assert [penalty(token, repetition_penalty=2.0) for token in (7, 8, 9, 10)] == [1.0, 1.0, 1.0, 0.0]


def test_siblings_share_the_noise_of_their_position() -> None:
    sampler = new_sampler(SamplingParameters(temperature=1.0, seed=3))
    logits = torch.zeros(2, VOCAB_SIZE)

    scores = sampler.scores(logits, PROMPT, [(1,), (2,)])

    assert torch.equal(scores[0], scores[1])


@settings(max_examples=20)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=12))
def test_forgotten_noise_comes_back_the_same(lengths: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_module, "NOISE_KEPT_SIZE", 4 * VOCAB_SIZE)
        sampler = new_sampler(SamplingParameters(temperature=1.0, seed=3))
        for length in lengths:
            scores = sampler.scores(torch.zeros(2, VOCAB_SIZE), range(length), [(), (1,)])

            expected = gumbel_noise(3, np.array([length, length + 1]), VOCAB_SIZE)
            np.testing.assert_array_equal(scores.numpy(), expected)


def test_a_greedy_request_without_penalties_leaves_the_logits_untouched() -> None:
    logits = logits_after(PROMPT)

    assert new_sampler(SamplingParameters()).scores(logits, PROMPT, [()]) is logits


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-20, 1e-6])
def test_almost_no_temperature_takes_the_likeliest_token(temperature: float) -> None:
    logits = logits_after(PROMPT)

    scores = new_sampler(SamplingParameters(temperature=temperature, seed=1)).scores(logits, PROMPT, [()])

    assert int(scores.argmax()) == int(logits.argmax())


def test_a_forbidden_token_has_no_chance() -> None:
    logits = logits_after(PROMPT)
    best = int(logits.argmax())

    for parameters in (SamplingParameters(), SamplingParameters(temperature=1.0, top_k=4, top_p=0.9, min_p=0.1)):
        forbidding = replace(parameters, logit_bias={best: -np.inf})
        assert new_sampler(forbidding).scores(logits, PROMPT, [()])[0, best] == -np.inf


@pytest.mark.parametrize(
    "bias",
    [
        pytest.param({VOCAB_SIZE: 1.0}, id="a token that does not exist"),
        pytest.param(dict.fromkeys(range(VOCAB_SIZE), -np.inf), id="every token forbidden"),
    ],
)
def test_an_impossible_bias_is_refused(bias: dict[int, float]) -> None:
    with pytest.raises(InvalidRequestError) as refusal:
        new_sampler(SamplingParameters(logit_bias=bias))

    assert refusal.value.field == "logit_bias"


def test_a_drafter_may_do_without_the_noise() -> None:
    sampler = new_sampler(SamplingParameters(temperature=0.5, seed=3), coupled=False)
    logits = logits_after(PROMPT)

    scores = sampler.scores(logits, PROMPT, [()])

    torch.testing.assert_close(scores.softmax(dim=-1), (logits / 0.5).softmax(dim=-1))
