"""Prompts no model of the zoo was trained on, to measure with."""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from zoo.corpora.corpus import Corpus
from zoo.errors import UnknownNameError
from zoo.recipe import DOMAINS

PROMPT_SETS: Final = DOMAINS
PROMPTS_PER_SET: Final = 200
LONGEST_PROMPT_TOKENS: Final = 224

_FOLDER = Path(__file__).parent / "prompts"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue.

    Attributes:
        text: The prompt as it is to be tokenised; chat markers are in it already.
        reference: A right answer, where there is one.
    """

    text: str
    reference: str | None = None


def load_prompts(name: str) -> tuple[Prompt, ...]:
    """The shipped prompts of one set, always in the same order.

    Raises:
        UnknownNameError: No set has that name.
    """
    if name not in PROMPT_SETS:
        raise UnknownNameError("prompt set", name, PROMPT_SETS)
    with (_FOLDER / f"{name}.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return tuple(Prompt(row["prompt"], row.get("reference")) for row in rows)


def write_prompts(corpora: Mapping[str, Corpus], tokenizer: Tokenizer, folder: Path) -> None:
    """Choose the shipped prompts from the held-out samples and write one file per set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROMPT_SETS:
        rows = (json.dumps(_row(prompt), ensure_ascii=False) for prompt in choose_prompts(corpora[name], tokenizer))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def choose_prompts(corpus: Corpus, tokenizer: Tokenizer) -> list[Prompt]:
    """A seeded draw of the held-out samples that are short enough.

    A reference is kept only where it is the one right answer, that is, for generated tasks that invent nothing.
    """
    fitting = [
        Prompt(sample.prompt, sample.answer if sample.is_exchange and not sample.is_open else None)
        for sample in corpus.held_out
        if len(tokenizer.encode(sample.prompt).ids) <= LONGEST_PROMPT_TOKENS
    ]
    random.Random(f"prompts-{corpus.name}").shuffle(fitting)
    return fitting[:PROMPTS_PER_SET]


def _row(prompt: Prompt) -> dict[str, str]:
    return {"prompt": prompt.text} | ({} if prompt.reference is None else {"reference": prompt.reference})
