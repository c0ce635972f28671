"""Speculative sampling by rejection, as others have it, for comparison: how many tokens a round would bring.

One candidate a place is Leviathan et al. 2023 (arXiv:2211.17192), several are the multi-step rule of SpecInfer (Miao et
al. 2024, arXiv:2305.09781, algorithm 2): each is drawn from the drafter, taken with chance min(1, p/q), and if it is
not, q is taken out of p. Both leave the target's distribution as it is.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedModel

from forerun.reference import plain_model

Probabilities = NDArray[np.float64]


def accepted_candidate(
    target: Probabilities, drafter: Probabilities, candidates: int, rng: np.random.Generator
) -> tuple[int, bool]:
    """The next token, and whether it was a candidate.

    Args:
        target: (vocab,) p.
        drafter: (vocab,) q, from which candidates are drawn.
        candidates: How many, one after the other.
        rng: Of both.
    """
    left = target
    for _ in range(candidates):
        token = int(rng.choice(len(drafter), p=drafter))
        if rng.random() * drafter[token] < left[token]:
            return token, True
        left = np.maximum(left - drafter, 0.0)
        left /= left.sum()
    return int(rng.choice(len(left), p=left)), False


class RejectionPeer:
    """A target and a drafter in this process. Only the accepted path is ever looked at: what else a tree would hold
    changes nothing about how far it is accepted.

    Args:
        target: Folder of the target.
        drafter: Folder of the drafter.
    """

    def __init__(self, target: str, drafter: str) -> None:
        self._models = (plain_model(target), plain_model(drafter))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(target)

    def tokens_a_round(self, prompt: str, levels: Sequence[int], *, max_new_tokens: int, seed: int) -> float:
        """Of one answer at T = 1.

        Args:
            prompt: What to continue.
            levels: Candidates at each level of a round's tree.
            max_new_tokens: Where the answer ends, if not sooner.
            seed: Of the sampling.
        """
        rng = np.random.default_rng(seed)
        readers = [_Reader(model) for model in self._models]
        token_ids: list[int] = list(self._tokenizer(prompt)["input_ids"])
        new, rounds = 0, 0
        unread = token_ids
        while new < max_new_tokens:
            rounds += 1
            for candidates in (*levels, 0):
                target, drafter = (reader.read(unread) for reader in readers)
                token, was_candidate = accepted_candidate(target, drafter, candidates, rng)
                unread, new = [token], new + 1
                if token == self._tokenizer.eos_token_id or new == max_new_tokens:
                    return new / rounds
                if not was_candidate:
                    break
        return new / rounds


class _Reader:
    """A model that is read to token by token."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._past = model, None

    @torch.inference_mode()
    def read(self, token_ids: Sequence[int]) -> Probabilities:
        """(vocab,) chances of the next token, after these."""
        output: Any = self._model(torch.tensor([list(token_ids)]), past_key_values=self._past, use_cache=True)
        self._past = output.past_key_values
        chances: Probabilities = output.logits[0, -1].double().softmax(dim=-1).numpy()
        return chances
