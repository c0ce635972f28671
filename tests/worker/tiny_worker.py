"""A tiny model behind the worker's own code, and what it should say, worked out slowly and plainly."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from speculation.noise import gumbel_noise
from speculation.prefix import EMPTY_PREFIX, Context, extend_hash
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TokenTree
from tests.architectures import VOCAB_SIZE, plain_logits, served_model
from worker.batching import Steps
from worker.engine import Engine
from worker.host import TREE_ROOM
from worker.sampling import Sampler
from worker.sessions import Session, SessionTable
from worker.surprisal import PromptSurprisal
from worker.verification import verify

MODEL = "llama"
MAX_LENGTH = 200

PROMPT = (7, 3, 99, 180, 3, 42, 7, 250, 11, 64)

Result = TypeVar("Result")

SAMPLINGS = {
    "greedy": SamplingParameters(),
    "greedy with penalties": SamplingParameters(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25),
    "greedy with bias": SamplingParameters(logit_bias={3: 4.0, 9: -np.inf}),
    "temperature 0.7": SamplingParameters(temperature=0.7, seed=11),
    "temperature 1": SamplingParameters(temperature=1.0, seed=2**64 - 1),
    "top-k": SamplingParameters(temperature=1.0, top_k=5, seed=5),
    "top-p": SamplingParameters(temperature=0.7, top_p=0.8, seed=6),
    "min-p": SamplingParameters(temperature=1.0, min_p=0.05, seed=7),
    "everything": SamplingParameters(
        temperature=0.9,
        top_k=40,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        presence_penalty=0.4,
        frequency_penalty=0.3,
        logit_bias={5: 1.5, 6: -1.5},
        seed=8,
    ),
}


def run(test: Awaitable[Result]) -> Result:
    """Run the asynchronous body of a test, which must end within a minute."""

    async def bounded() -> Result:
        async with asyncio.timeout(60):
            return await test

    return asyncio.run(bounded())


def tiny_engine(*, slots: int = 4, architecture: str = MODEL) -> Engine:
    """An engine over a tiny model of random weights."""
    return Engine(served_model(architecture), slots=slots, max_length=MAX_LENGTH + TREE_ROOM, check=False)


def new_sampler(sampling: SamplingParameters, *, prompt_length: int = len(PROMPT), coupled: bool = True) -> Sampler:
    """The sampler of a session on the tiny model."""
    device = plain_logits(MODEL, [0]).device
    return Sampler(sampling, vocab_size=VOCAB_SIZE, prompt_length=prompt_length, device=device, coupled=coupled)


def new_session(
    sampling: SamplingParameters | None = None,
    *,
    prompt_length: int = len(PROMPT),
    coupled: bool = True,
    background: bool = False,
    salt: str = "",
) -> Session:
    """A session that holds nothing."""
    sampler = new_sampler(sampling or SamplingParameters(), prompt_length=prompt_length, coupled=coupled)
    return Session(sampler, PromptSurprisal(prompt_length), background=background, salt=salt)


def context_of(token_ids: Sequence[int], base_length: int = 0) -> Context:
    """The context that ends with the last of these tokens and names the first base_length by their hash."""
    return Context(
        base_length=base_length,
        prefix_hash=extend_hash(EMPTY_PREFIX, token_ids[:base_length]),
        token_ids=tuple(token_ids[base_length:]),
    )


def work(engine: Engine, steps: Steps[Result]) -> Result:
    """Take a job to its end, alone."""
    try:
        chunk = next(steps)
        while True:
            assert chunk is not None, "the job waits for others, and there are none"
            (logits,) = engine.forward([chunk])
            chunk = steps.send(logits)
    except StopIteration as stop:
        result: Result = stop.value
        return result


def reference_scores(sampling: SamplingParameters, token_ids: Sequence[int], prompt_length: int) -> NDArray[np.float64]:
    """(vocab,) log pi + G of the next token, up to a constant, straight from the definition of the transforms."""
    scores = plain_logits(MODEL, token_ids)[-1].double().numpy().copy()
    for token in set(token_ids):
        scores[token] *= 1 / sampling.repetition_penalty if scores[token] > 0 else sampling.repetition_penalty
    for token, count in Counter(token_ids[prompt_length:]).items():
        scores[token] -= sampling.presence_penalty + sampling.frequency_penalty * count
    for token, bias in sampling.logit_bias.items():
        scores[token] += bias
    if sampling.greedy:
        return scores
    scores = filtered(scores / sampling.temperature, sampling)
    noise: NDArray[np.float64] = gumbel_noise(sampling.seed, np.array([len(token_ids)]), VOCAB_SIZE)[0]
    return scores + noise


def filtered(scores: NDArray[np.float64], sampling: SamplingParameters) -> NDArray[np.float64]:
    """Scores with -inf for what top-k, then top-p, then min-p drop."""
    scores = scores.copy()
    if sampling.top_k:
        scores[scores < np.sort(scores)[-sampling.top_k]] = -np.inf
    order = np.argsort(-scores)
    before = np.cumsum(softmax(scores)[order]) - softmax(scores)[order]
    scores[order[before >= sampling.top_p]] = -np.inf
    probs = softmax(scores)
    scores[probs < sampling.min_p * probs.max()] = -np.inf
    return scores


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of scores, along the last axis."""
    powers: NDArray[np.float64] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def reference_text(sampling: SamplingParameters, count: int, prompt: Sequence[int] = PROMPT) -> list[int]:
    """The answer, a token at a time, by the plain model."""
    token_ids = list(prompt)
    for _ in range(count):
        token_ids.append(int(reference_scores(sampling, token_ids, len(prompt)).argmax()))
    return token_ids[len(prompt) :]


def speculative_text(
    engine: Engine,
    sampling: SamplingParameters,
    count: int,
    tree_after: Callable[[Sequence[int]], TokenTree] = lambda answer: EMPTY_TREE,
    prompt: Sequence[int] = PROMPT,
) -> list[int]:
    """The answer, round by round, with whatever tree the caller thinks up for the answer so far."""
    session, table = new_session(sampling, prompt_length=len(prompt)), SessionTable(engine, max_length=MAX_LENGTH)
    token_ids, base_length = list(prompt), 0
    while len(token_ids) < len(prompt) + count:
        steps = verify(engine, session, tree_after(token_ids[len(prompt) :]))
        verdict = work(engine, table.call(session, context_of(token_ids, base_length), steps))
        token_ids += verdict.token_ids
        base_length = len(token_ids)
    table.close(session)
    return token_ids[len(prompt) :][:count]
