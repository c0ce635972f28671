"""Tokens a second of greedy answers, without a drafter and with one, by the worker's own drafting and verification."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from bench.figures import Figure, count, figure
from bench.gpu.models import ROOM, Sizes
from bench.gpu.verifying import random_tokens
from bench.spread import median
from forerun.progress import steps
from speculation.prefix import EMPTY_PREFIX, Context
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape
from worker.batching import Result, Steps
from worker.drafting import draft
from worker.engine import Engine
from worker.sampling import Sampler
from worker.sessions import Session, SessionTable, read_all
from worker.verification import verify

SHAPE = TreeShape(depth=4, branching=1, budget=4)


class _Side:
    """A model with one session, called as a worker calls it."""

    def __init__(self, engine: Engine, prompt: Sequence[int]) -> None:
        self._engine, self._table = engine, SessionTable(engine, max_length=engine.max_length)
        sampler = Sampler(
            SamplingParameters(), vocab_size=engine.vocab_size, prompt_length=len(prompt), device=engine.device
        )
        self._session = Session(sampler)
        self._call(prompt, read_all(engine, self._session))

    def draft(self, token_ids: Sequence[int]) -> TokenTree:
        """What it proposes."""
        return self._call(token_ids, draft(self._engine, self._session, SHAPE, max_length=self._engine.max_length))

    def verify(self, token_ids: Sequence[int], tree: TokenTree) -> tuple[int, ...]:
        """What it emits."""
        return self._call(token_ids, verify(self._engine, self._session, tree)).token_ids

    def close(self) -> None:
        """Free its slot."""
        self._table.close(self._session)

    def _call(self, token_ids: Sequence[int], job: Steps[Result]) -> Result:
        context = Context(base_length=0, prefix_hash=EMPTY_PREFIX, token_ids=tuple(token_ids))
        running = self._table.call(self._session, context, job)
        try:
            chunk = next(running)
            while chunk is not None:
                (logits,) = self._engine.forward([chunk])
                chunk = running.send(logits)
        except StopIteration as done:
            result: Result = done.value
            return result
        raise RuntimeError("the job waits for another, and there is none")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """Its tokens, the last round's all; its rounds; and what it took after the reading of the prompt."""

    token_ids: list[int]
    rounds: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return len(self.token_ids) / self.seconds


def _answer(target: Engine, drafter: Engine | None, prompt: Sequence[int], length: int) -> _Answer:
    """An answer of at least so many tokens, with the drafter or without."""
    sides = [_Side(engine, prompt) for engine in (target, drafter) if engine is not None]
    token_ids, rounds = list(prompt), 0
    began = time.perf_counter()
    while len(token_ids) < len(prompt) + length:
        tree = sides[1].draft(token_ids) if drafter is not None else EMPTY_TREE
        token_ids += sides[0].verify(token_ids, tree)
        rounds += 1
    seconds = time.perf_counter() - began
    for side in sides:
        side.close()
    return _Answer(token_ids=token_ids[len(prompt) :], rounds=rounds, seconds=seconds)


def decoding_figures(target: PreTrainedModel, drafter: PreTrainedModel, sizes: Sizes, seed: int) -> tuple[Figure, ...]:
    """Greedy answers without and with the drafter, in turn."""
    room = sizes.contexts[0] + sizes.answer + ROOM
    engine, drafting = Engine(target, slots=1, max_length=room), Engine(drafter, slots=1, max_length=room)
    pairs: list[tuple[_Answer, _Answer]] = []
    with steps("answers", sizes.repeats) as step:
        for _ in range(sizes.repeats):
            prompt = random_tokens(engine, sizes.contexts[0])
            plain = _answer(engine, None, prompt, sizes.answer)
            pairs.append((plain, _answer(engine, drafting, prompt, sizes.answer)))
            step()
    plain_rates, rates = ([pair[which].tokens_per_s for pair in pairs] for which in (0, 1))
    gains = [fast / slow for slow, fast in zip(plain_rates, rates, strict=True)]
    per_round = [len(answer.token_ids) / answer.rounds for _, answer in pairs]
    differing = sum(answer.token_ids[: sizes.answer] != plain.token_ids for plain, answer in pairs)
    return (
        figure("gpu.plain_tokens_per_s", median(plain_rates, seed=seed), "tokens/s", digits=1),
        figure("gpu.speculative_tokens_per_s", median(rates, seed=seed), "tokens/s", digits=1),
        figure("gpu.speculative_over_plain", median(gains, seed=seed), "x"),
        figure("gpu.tokens_per_round", median(per_round, seed=seed), "tokens"),
        count("gpu.differing_answers", differing, "answers"),
    )
