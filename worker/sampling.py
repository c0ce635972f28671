"""From logits to the order in which a request prefers its tokens, at every node of a tree on that node's own path.

Drafters and target share this module: the target emits the first token of the order, a drafter proposes the first few.
"""

from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from speculation.errors import InvalidRequestError
from speculation.noise import gumbel_noise, gumbel_noise_torch
from speculation.sampling import SamplingParameters

NOISE_CALL_SIZE = 2**14
"""Noise values worth one call: below this its cost is that of calling, so positions yet to come are done along."""

NOISE_KEPT_SIZE = 2**20
"""Noise values a session remembers: rounds come back to positions that the last one did not reach."""

NUCLEUS_GUESS = 256
"""Likeliest tokens among which the border of top-p is looked for first; of 2048 tokens that is five times cheaper."""

MIN_TEMPERATURE = 1e-30
"""Below this float32 divides by zero; the likeliest token is certain long before."""

Transform = Callable[[Tensor], Tensor]


class Sampler:
    """Orders the tokens that may follow, for one session.

    Args:
        parameters: What the request wants.
        vocab_size: Width of the logits.
        prompt_length: Tokens of the prompt; presence and frequency penalties count only what follows them.
        device: Where the logits are.
        coupled: Whether to add the request's noise; only a drafter may do without.

    Attributes:
        is_plain: Whether nothing but temperature and noise makes scores of logits.
        divisor: What logits are divided by for the temperature; 0 where the likeliest token is taken.

    Raises:
        InvalidRequestError: A bias names a token that the vocabulary lacks, or they forbid every token.
    """

    def __init__(
        self,
        parameters: SamplingParameters,
        *,
        vocab_size: int,
        prompt_length: int,
        device: torch.device,
        coupled: bool = True,
    ) -> None:
        parameters.check_vocabulary(vocab_size)
        if sum(bias == -torch.inf for bias in parameters.logit_bias.values()) == vocab_size:
            raise InvalidRequestError("logit_bias", "forbids every token")
        self.parameters = parameters
        self.noisy = coupled and not parameters.greedy
        self.is_plain = not (parameters.depends_on_history or parameters.logit_bias or parameters.filtered)
        self.divisor = 0.0 if parameters.greedy else max(parameters.temperature, MIN_TEMPERATURE)
        self._vocab_size, self._prompt_length, self.device = vocab_size, prompt_length, device
        self._after_history = [*_bias(parameters, vocab_size, device), *_filters(parameters, self.divisor)]
        self._noise: dict[int, Tensor] = {}
        self._no_noise = torch.empty(0, vocab_size, dtype=torch.float64, device=device)

    def scores(self, logits: Tensor, context: Sequence[int], paths: Sequence[Sequence[int]]) -> Tensor:
        """What tokens are chosen by, highest first; -inf for what must not be chosen.

        Args:
            logits: (n, vocab), what the model says after each of the n nodes.
            context: Prompt and answer so far.
            paths: For each node the tokens from the first one after the context down to it; () for the root.

        Returns:
            (n, vocab): log pi + G, each row up to a constant; without G where no noise is wanted.
        """
        log_probs = self.log_probs(logits, context, paths)
        return self.noised(log_probs, context, paths) if self.noisy else log_probs

    def log_probs(self, logits: Tensor, context: Sequence[int], paths: Sequence[Sequence[int]]) -> Tensor:
        """(n, vocab) log pi, each row up to a constant: `scores` before noise."""
        scores = logits.float()
        if self.parameters.depends_on_history:
            scores = self._penalised(scores, context, paths)
        for transform in self._after_history:
            scores = transform(scores)
        return scores

    def noised(self, log_probs: Tensor, context: Sequence[int], paths: Sequence[Sequence[int]]) -> Tensor:
        """(n, vocab) log pi + G, from log pi."""
        return log_probs + self.noise(len(context), [len(path) for path in paths])

    def _penalised(self, scores: Tensor, context: Sequence[int], paths: Sequence[Sequence[int]]) -> Tensor:
        parameters = self.parameters
        if parameters.repetition_penalty != 1.0:
            everything = self._histories(context, paths)
            penalised = RepetitionPenaltyLogitsProcessor(parameters.repetition_penalty)
            # With a column for what fills up: not every release of transformers passes over what is no token.
            scores = penalised(everything, pad(scores, (0, 1)))[:, : self._vocab_size]
        if parameters.presence_penalty or parameters.frequency_penalty:
            answers = self._histories(context[self._prompt_length :], paths)
            counts = scores.new_zeros(len(paths), self._vocab_size + 1)
            counts.scatter_add_(1, answers, torch.ones_like(answers, dtype=counts.dtype))
            counts = counts[:, : self._vocab_size]
            scores = scores - parameters.presence_penalty * (counts > 0) - parameters.frequency_penalty * counts
        return scores

    def _histories(self, before: Sequence[int], paths: Sequence[Sequence[int]]) -> Tensor:
        """(n, longest) token ids before each node's successor, filled up with vocab_size, which is no token."""
        longest = max(map(len, paths))
        ids = np.full((len(paths), len(before) + longest), self._vocab_size, dtype=np.int64)
        ids[:, : len(before)] = before
        for row, path in zip(ids, paths, strict=True):
            row[len(before) : len(before) + len(path)] = path
        return torch.from_numpy(ids).to(self.device)

    def noise(self, start: int, depths: Sequence[int]) -> Tensor:
        """(n, vocab) float64 noise of the positions start + depth, made once for each distinct one; (0, vocab) where
        none is wanted."""
        if not self.noisy:
            return self._no_noise
        positions = [start + depth for depth in depths]
        if missing := set(positions) - self._noise.keys():
            self._make_noise(missing)
        noise = torch.stack([self._noise[position] for position in positions])
        if len(self._noise) * self._vocab_size > NOISE_KEPT_SIZE:
            self._keep_noise_near(start)
        return noise

    def _make_noise(self, missing: Set[int]) -> None:
        last = max(missing)
        ahead = range(last, last + max(1, NOISE_CALL_SIZE // self._vocab_size))
        wanted = sorted({*missing, *ahead} - self._noise.keys())
        self._noise.update(zip(wanted, self._fresh_noise(wanted), strict=True))

    def _keep_noise_near(self, start: int) -> None:
        soonest = sorted(self._noise, key=lambda position: (position < start, position))
        self._noise = {position: self._noise[position] for position in soonest[: NOISE_KEPT_SIZE // self._vocab_size]}

    def _fresh_noise(self, positions: Sequence[int]) -> Tensor:
        # NumPy calls cost a third of torch's at this size; on a GPU the copy would cost more than the arithmetic.
        if self.device.type == "cpu":
            return torch.from_numpy(gumbel_noise(self.parameters.seed, np.array(positions), self._vocab_size))
        at = torch.tensor(positions, device=self.device)
        return gumbel_noise_torch(self.parameters.seed, at, self._vocab_size)


def _bias(parameters: SamplingParameters, vocab_size: int, device: torch.device) -> list[Transform]:
    if not parameters.logit_bias:
        return []
    bias = torch.zeros(vocab_size, device=device)
    bias[list(parameters.logit_bias)] = torch.tensor(list(parameters.logit_bias.values()), device=device)
    return [lambda scores: scores + bias]


def _filters(parameters: SamplingParameters, divisor: float) -> list[Transform]:
    """Temperature, top-k, top-p and min-p, in the order of transformers."""
    if parameters.greedy:
        return []
    # The best score is moved to 0 first: it changes no distribution, and no temperature can make it overflow.
    filters: list[Transform] = [lambda scores: scores - scores.amax(dim=-1, keepdim=True)]
    filters.append(_warp(TemperatureLogitsWarper(divisor)))
    if parameters.top_k:
        filters.append(_warp(TopKLogitsWarper(parameters.top_k)))
    if parameters.top_p < 1.0:
        filters.append(partial(_nucleus, top_p=parameters.top_p))
    if parameters.min_p:
        filters.append(_warp(MinPLogitsWarper(parameters.min_p)))
    return filters


def _warp(warper: LogitsProcessor) -> Transform:
    unread: Any = None  # filters look at no token ids
    return lambda scores: warper(unread, scores)


def _nucleus(scores: Tensor, *, top_p: float) -> Tensor:
    """Top-p as transformers has it, but for its sorting of the whole vocabulary: the likeliest few mostly suffice."""
    probs = scores.softmax(dim=-1)
    best = probs.topk(min(NUCLEUS_GUESS, probs.shape[-1])).values
    if bool((best.sum(dim=-1) < top_p).any()):
        best = probs.sort(descending=True).values
    kept = (best.cumsum(dim=-1) - best < top_p).sum(dim=-1, keepdim=True)
    return scores.masked_fill(probs < best.gather(1, kept - 1), -torch.inf)
