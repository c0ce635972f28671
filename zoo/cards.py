"""The model cards: what each model is, what it was made of, and what it was measured to do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from zoo.corpora.sources import ARCHIVES
from zoo.measurement import DRAFT_LENGTH, Measurements
from zoo.recipe import DOMAINS, DRAFTERS, MODELS, SPECIALISTS, TARGET, Recipe, Schedule

MEASUREMENTS_FILE: Final = "measurements.json"

_HEADER = """---
library_name: transformers
pipeline_tag: text-generation
tags: [speculative-decoding, test-bed]
---

# zoo:{name}

{summary}

**A test bed, not an assistant.** It is small enough to ship and fast enough for a laptop. It writes the right form
(Python, reStructuredText, worked sums, JSON) and often the wrong content. Do not use it for anything but measuring
how text is generated.

| | |
|---|---|
| architecture | Llama, {layers} layers of {width} channels, {heads} heads, tied embedding |
| parameters | {parameters:.2f} million, bfloat16 |
| tokenizer | byte-level BPE, {vocabulary} types, shared by the whole zoo |
| context | {context} tokens at most, trained on windows of {window} |
| trained on | {tokens} |
| final training loss | {loss} |
"""

_ORIGIN = """
## Made from

Code and documentation of {sources}; sums, records, edits and mixed tasks from generators in `zoo/corpora/`.
Files whose path hashes to 0 modulo 16, and seeds from a million on, were held out. Models this small repeat what they
saw: the notices of both projects are in `zoo/models/NOTICE.md`. The weights carry the licence of this repository.

`forerun zoo build` makes this model again from the same corpora, steps and seeds. Another machine rounds differently,
so its weights will be close to these and not equal.
"""


def write_cards(models: Path, measured: Measurements, losses: Mapping[str, float], recipe: Recipe) -> None:
    """Write the measurements once for programs, and a README.md beside every model for people."""
    (models / MEASUREMENTS_FILE).write_text(json.dumps(measured.as_dict(), indent=2) + "\n")
    for name in MODELS:
        results = _target_results(measured) if name == TARGET else _drafter_results(name, measured)
        card = _header(name, models / name, losses[name], recipe) + results + _origin()
        (models / name / "README.md").write_text(card, encoding="utf-8")


def load_measurements(models: Path) -> dict[str, Any]:
    """The shipped measurements, as written."""
    measured: dict[str, Any] = json.loads((models / MEASUREMENTS_FILE).read_text())
    return measured


def num_parameters(folder: Path) -> int:
    """Parameters stored in a model folder, read from the file's header."""
    total = 0
    with safe_open(folder / "model.safetensors", framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            size = 1
            for length in file.get_slice(name).get_shape():
                size *= length
            total += size
    return total


def summary(name: str) -> str:
    """One sentence: what the model is for."""
    if name == TARGET:
        return "The target: the model whose text is wanted, and which checks what the drafters propose."
    if name in SPECIALISTS:
        return f"A drafter that knows one kind of text, {name}, and was taught to follow `zoo:target` on it."
    return "A drafter that knows all six kinds of text a little, and was taught to follow `zoo:target` on them."


def _header(name: str, folder: Path, loss: float, recipe: Recipe) -> str:
    config = json.loads((folder / "config.json").read_text())
    what = "of text" if name == TARGET else "of divergence from the target"
    return _HEADER.format(
        name=name,
        summary=summary(name),
        layers=config["num_hidden_layers"],
        width=config["hidden_size"],
        heads=config["num_attention_heads"],
        parameters=num_parameters(folder) / 1e6,
        vocabulary=config["vocab_size"],
        context=config["max_position_embeddings"],
        window=recipe.target.length,
        tokens=_lesson(name, recipe),
        loss=f"{loss:.3f} nats per token {what}",
    )


def _lesson(name: str, recipe: Recipe) -> str:
    if name == TARGET:
        shares = ", ".join(f"{share:.0%} {domain}" for domain, share in recipe.target_mix.items())
        return f"{_millions(recipe.target)} tokens in {recipe.target.steps} steps: {shares}"
    read, followed = _millions(recipe.reading), _millions(recipe.following)
    return f"{read} tokens of text, then {followed} to match the target, of {', '.join(recipe.mix(name))}"


def _millions(schedule: Schedule) -> str:
    return f"{schedule.tokens / 1e6:.2f} million"


def _target_results(measured: Measurements) -> str:
    shares = "\n".join(f"| {domain} | {share:.0%} |" for domain, share in measured.exact_answers.items())
    return (
        f"\n## Measured\n\nOf {measured.num_answers} held-out tasks per set, answered rightly at temperature 0 "
        f"(math: the stated result; others: every character):\n\n| set | right |\n|---|---|\n{shares}\n\n"
        f"Surprise at held-out prompts, nats per token:\n\n{_table({TARGET: measured.prompt_loss[TARGET]})}"
        f"\n{_acceptance(measured)}"
    )


def _drafter_results(name: str, measured: Measurements) -> str:
    return (
        "\n## Measured\n\nSurprise at held-out prompts, nats per token:\n\n"
        f"{_table({name: measured.prompt_loss[name]})}"
        f"\n{_acceptance(measured, of=name)}"
    )


def _acceptance(measured: Measurements, of: str | None = None) -> str:
    rows = {(f"**{name}**" if name == of else name): measured.tokens_per_call[name] for name in DRAFTERS}
    return (
        f"Tokens per target call of every drafter: a chain of {DRAFT_LENGTH}, temperature 0, "
        f"{measured.num_prompts} held-out prompts per set, {measured.num_new_tokens} new tokens "
        f"(1 is no help, {DRAFT_LENGTH + 1} the most there can be):\n\n{_table(rows)}"
    )


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    head = f"| | {' | '.join(DOMAINS)} |\n|---|{'---|' * len(DOMAINS)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(f'{row[domain]:.2f}' for domain in DOMAINS)} |\n" for name, row in rows.items()
    )


def _origin() -> str:
    sources = " and ".join(f"{archive.project} {archive.version} ({archive.licence})" for archive in ARCHIVES)
    return _ORIGIN.format(sources=sources)
