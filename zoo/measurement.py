"""What the models can do, measured on the held-out prompts: agreement with the target, and right answers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the name every torch reader knows
from transformers import AutoModelForCausalLM, AutoTokenizer

from zoo.prompts import Prompt, load_prompts
from zoo.recipe import DOMAINS, DRAFTERS, MODELS, TARGET
from zoo.vocabulary import ANSWER_END, ANSWER_END_ID, DOCUMENT_START_ID, PADDING_ID

DRAFT_LENGTH: Final = 4
_BATCH = 50
_STATED_RESULT = re.compile(r"Answer: (-?\d+)")


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt and what the target makes of it at temperature 0."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """Everything the model cards state.

    Attributes:
        num_prompts: Prompts per domain behind the agreement and the loss.
        num_answers: Prompts per domain behind the share of right answers.
        tokens_per_call: Drafter to domain to tokens per target call, with a chain of four, at temperature 0.
        exact_answers: Domain to share of prompts answered rightly by the target.
        prompt_loss: Model to domain to nats per token of the held-out prompts.
    """

    num_prompts: int
    num_new_tokens: int
    num_answers: int
    tokens_per_call: Mapping[str, Mapping[str, float]]
    exact_answers: Mapping[str, float]
    prompt_loss: Mapping[str, Mapping[str, float]]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class LoadedModel:
    """A model folder, ready to continue and to score token ids."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text)["input_ids"])

    @torch.no_grad()
    def logits(self, token_ids: Sequence[int]) -> torch.Tensor:
        """(tokens, vocabulary)."""
        logits: torch.Tensor = self._model(input_ids=torch.tensor([token_ids])).logits[0]
        return logits

    def continue_greedily(self, prompts: Sequence[str], num_new_tokens: int) -> list[Continuation]:
        """Most likely next token after most likely next token, up to the end of the answer."""
        continuations: list[Continuation] = []
        for start in range(0, len(prompts), _BATCH):
            continuations += self._continue_batch(prompts[start : start + _BATCH], num_new_tokens)
        return continuations

    @torch.no_grad()
    def _continue_batch(self, prompts: Sequence[str], num_new_tokens: int) -> list[Continuation]:
        batch = self.tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt")
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        rows = self._model.generate(**inputs, do_sample=False, max_new_tokens=num_new_tokens)
        outputs = rows[:, batch["input_ids"].shape[1] :].tolist()
        return [
            Continuation(self.encode(prompt), tuple(_up_to_end(output)))
            for prompt, output in zip(prompts, outputs, strict=True)
        ]


def measure(folder: Path, *, num_prompts: int = 60, num_new_tokens: int = 80, num_answers: int = 100) -> Measurements:
    """Measure every model of a zoo folder on every prompt set."""
    models = {name: LoadedModel(folder / name) for name in MODELS}
    texts = {domain: [prompt.text for prompt in load_prompts(domain)[:num_prompts]] for domain in DOMAINS}
    outputs = {domain: models[TARGET].continue_greedily(texts[domain], num_new_tokens) for domain in DOMAINS}
    return Measurements(
        num_prompts=num_prompts,
        num_new_tokens=num_new_tokens,
        num_answers=num_answers,
        tokens_per_call={
            drafter: {domain: tokens_per_call(models[drafter], outputs[domain]) for domain in DOMAINS}
            for drafter in DRAFTERS
        },
        exact_answers={
            domain: exact_answers(models[TARGET], domain, _with_one_answer(domain)[:num_answers])
            for domain in ("math", "json", "edit")
        },
        prompt_loss={
            name: {domain: prompt_loss(model, texts[domain]) for domain in DOMAINS} for name, model in models.items()
        },
    )


def tokens_per_call(drafter: LoadedModel, continuations: Iterable[Continuation]) -> float:
    """Tokens the target emits per call when this drafter proposes a chain of four before each.

    At temperature 0 a drafted token is kept if and only if it is the target's own, so one pass over the finished text
    tells what the whole loop would have done.
    """
    emitted = calls = 0
    for continuation in continuations:
        calls += num_target_calls(_hits(drafter, continuation))
        emitted += len(continuation.output_ids)
    return round(emitted / calls, 3)


def num_target_calls(hits: Sequence[bool]) -> int:
    """Target calls needed to emit a text, given at which of its tokens the drafter would be right."""
    position = calls = 0
    while position < len(hits):
        accepted = 0
        while accepted < DRAFT_LENGTH and position + accepted < len(hits) and hits[position + accepted]:
            accepted += 1
        position += accepted + 1
        calls += 1
    return calls


def exact_answers(target: LoadedModel, domain: str, prompts: Sequence[Prompt]) -> float:
    """Share of prompts whose answer is right: the stated result for math, every character otherwise."""
    continuations = target.continue_greedily([prompt.text for prompt in prompts], num_new_tokens=224)
    right = 0
    for prompt, continuation in zip(prompts, continuations, strict=True):
        answer = str(target.tokenizer.decode(list(continuation.output_ids), skip_special_tokens=False))
        right += _conclusion(domain, answer) == _conclusion(domain, prompt.reference or "")
    return round(right / len(prompts), 3)


def prompt_loss(model: LoadedModel, texts: Sequence[str]) -> float:
    """Mean surprise at the prompts themselves, in nats per token."""
    nats = tokens = 0.0
    for text in texts:
        token_ids = model.encode(text)
        losses = F.cross_entropy(model.logits(token_ids)[:-1], torch.tensor(token_ids[1:]), reduction="sum")
        nats += losses.item()
        tokens += len(token_ids) - 1
    return round(nats / tokens, 3)


def _with_one_answer(domain: str) -> list[Prompt]:
    return [prompt for prompt in load_prompts(domain) if prompt.reference is not None]


def _hits(drafter: LoadedModel, continuation: Continuation) -> list[bool]:
    logits = drafter.logits(continuation.prompt_ids + continuation.output_ids)
    drafted = logits[len(continuation.prompt_ids) - 1 : -1].argmax(-1).tolist()
    return [draft == emitted for draft, emitted in zip(drafted, continuation.output_ids, strict=True)]


def _conclusion(domain: str, answer: str) -> str:
    if domain != "math":
        return answer.removesuffix(ANSWER_END)
    stated = _STATED_RESULT.search(answer)
    return stated.group(1) if stated else answer


def _up_to_end(token_ids: Sequence[int]) -> list[int]:
    """Tokens up to and including the first that ends an answer; batches are padded behind it."""
    kept = []
    for token_id in token_ids:
        if token_id == PADDING_ID:
            break
        kept.append(token_id)
        if token_id in (ANSWER_END_ID, DOCUMENT_START_ID):
            break
    return kept
