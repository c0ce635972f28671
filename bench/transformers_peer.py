"""transformers' own generation, as a peer on the same weights: plain, assisted by a drafter, and with prompt lookup."""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.generation.streamers import BaseStreamer

from bench.timed import Timed, decode_rate
from forerun.reference import plain_model


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long assisted generation drafts.

    Attributes:
        tokens: A round, to begin with.
        kind: transformers' num_assistant_tokens_schedule; `heuristic_transient` begins anew with every answer.
        threshold: Confidence below which a draft ends.
    """

    tokens: int
    kind: str = "constant"
    threshold: float = 0.0


SCHEDULES: Mapping[str, Schedule] = MappingProxyType(
    {
        "constant 4": Schedule(4),
        "constant 8": Schedule(8),
        "heuristic from 5": Schedule(5, "heuristic_transient"),
        "the library's default": Schedule(20, "constant", 0.4),
    }
)

LOOKUPS = (4, 10)
"""Tokens that prompt lookup drafts a round."""


@dataclass(slots=True)
class _Arrivals(BaseStreamer):
    """When tokens came; the first that transformers hands over is the prompt."""

    seen: list[tuple[float, int]] = field(default_factory=list)
    _prompt_passed: bool = False

    def put(self, value: torch.Tensor) -> None:
        """Take what came."""
        if self._prompt_passed:
            self.seen.append((time.perf_counter(), value.numel()))
        self._prompt_passed = True

    def end(self) -> None:
        """The answer is complete."""


class TransformersPeer:
    """A target and drafters in this process.

    Args:
        target: Folder of the target.
        drafters: Folders of the drafters, by name.
        dtype: Number format of all of them, as torch calls it.
    """

    def __init__(self, target: str, drafters: Mapping[str, str], *, dtype: str = "float32") -> None:
        self._target = plain_model(target, dtype)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(target)
        self._drafters = {name: plain_model(folder, dtype) for name, folder in drafters.items()}
        self._settings = {name: copy.deepcopy(model.generation_config) for name, model in self._drafters.items()}

    def encode(self, prompt: str) -> tuple[int, ...]:
        """Tokens of a prompt whose chat markers, if any, are in it already."""
        return tuple(self._tokenizer(prompt)["input_ids"])

    def generate(self, prompt: str, max_new_tokens: int) -> Timed:
        """Greedily, one token a forward."""
        return self._timed(prompt, max_new_tokens)

    def assisted(self, prompt: str, max_new_tokens: int, drafter: str, schedule: Schedule) -> Timed:
        """Greedily, with a drafter."""
        assistant = self._drafters[drafter]
        assistant.generation_config = copy.deepcopy(self._settings[drafter])
        assistant.generation_config.num_assistant_tokens = schedule.tokens
        assistant.generation_config.num_assistant_tokens_schedule = schedule.kind
        assistant.generation_config.assistant_confidence_threshold = schedule.threshold
        return self._timed(prompt, max_new_tokens, assistant_model=assistant)

    def looked_up(self, prompt: str, max_new_tokens: int, tokens: int) -> Timed:
        """Greedily, with drafts from the prompt."""
        return self._timed(prompt, max_new_tokens, prompt_lookup_num_tokens=tokens)

    def _timed(self, prompt: str, max_new_tokens: int, **options: Any) -> Timed:
        ids = torch.tensor([self.encode(prompt)])
        arrivals = _Arrivals()
        with torch.inference_mode():
            output: Any = self._target.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=max_new_tokens,
                streamer=arrivals,
                **options,
            )
        return Timed(token_ids=tuple(output[0, ids.shape[1] :].tolist()), decode_rate=decode_rate(arrivals.seen))


def fastest_threads(peer: TransformersPeer, prompt: str, choices: Sequence[int], *, max_new_tokens: int) -> int:
    """The number of torch threads with which plain generation is fastest; it is set from then on."""
    best: dict[int, float] = {}
    for _ in range(3):
        for threads in choices:
            torch.set_num_threads(threads)
            best[threads] = max(best.get(threads, 0.0), peer.generate(prompt, max_new_tokens).decode_rate)
    threads = max(best, key=best.__getitem__)
    torch.set_num_threads(threads)
    return threads
