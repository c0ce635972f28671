"""The whole recipe, from archives to model folders, as one sequence.

Every stage leaves its result in the work folder and is skipped when the result is there, so that an interrupted
build goes on where it stopped.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig

from zoo.cards import write_cards
from zoo.corpora import manifest
from zoo.corpora.code import code_corpus
from zoo.corpora.corpus import Corpus
from zoo.corpora.docs import docs_corpus
from zoo.corpora.edit import edit_corpus
from zoo.corpora.hybrid import hybrid_corpus
from zoo.corpora.json_records import json_corpus
from zoo.corpora.math import math_corpus
from zoo.distillation import divergence_from
from zoo.lean_model import DRAFTER_SHAPE, TARGET_SHAPE, LeanLlama, to_hugging_face
from zoo.measurement import measure
from zoo.prompts import write_prompts
from zoo.recipe import DOMAINS, DRAFTERS, MODELS, TARGET, Recipe
from zoo.token_stream import Mixture, TokenStream, encode
from zoo.tokenizer import for_transformers, learn_tokenizer
from zoo.training import Report, final_loss, load_weights, save_weights, train
from zoo.vocabulary import ANSWER_END_ID, CHAT_TEMPLATE, DOCUMENT_START_ID, PADDING_ID

# Called with the name of a stage as it begins; what it returns is told of every step.
StageBegins = Callable[[str], Report]


def build(out: Path, recipe: Recipe, begin: StageBegins) -> Path:
    """Make the zoo in `out/models` and return that folder; archives and checkpoints go to `out/work`.

    Raises:
        ArchiveUnavailableError: A source archive could not be fetched.
        TamperedCorpusError: A corpus is not the recorded one.
    """
    work, models = out / "work", out / "models"
    begin("corpora")
    prepare(work, out / "prompts")
    train_target(work, recipe, begin(TARGET))
    for name in DRAFTERS:
        read_text(name, work, recipe, begin(f"{name}: text"))
        follow_target(name, work, recipe, begin(f"{name}: target"))
    export(work, models)
    begin("cards")
    write_cards(models, measure(models), losses(work), recipe)
    return models


def read_corpora(archives: Path) -> dict[str, Corpus]:
    """All corpora by name; archives are fetched into the folder when missing."""
    corpora = (
        code_corpus(archives),
        docs_corpus(archives),
        math_corpus(),
        json_corpus(),
        edit_corpus(),
        hybrid_corpus(archives),
    )
    return {corpus.name: corpus for corpus in corpora}


def prepare(work: Path, prompts: Path) -> None:
    """Write the tokenizer, one token stream per corpus, and the held-out prompts."""
    if all(_stream(work, domain).exists() for domain in DOMAINS):
        return
    corpora = read_corpora(work / "archives")
    manifest.check(corpora.values())
    tokenizer = learn_tokenizer(corpora)
    tokenizer.save(str(work / "tokenizer.json"))
    write_prompts(corpora, tokenizer, prompts)
    for domain in DOMAINS:
        encode(corpora[domain].documents, tokenizer, seed=f"order-{domain}").save(_stream(work, domain))


def train_target(work: Path, recipe: Recipe, report: Report) -> None:
    """Train the target on all corpora and freeze it."""
    if _weights(work, TARGET).exists():
        return
    model = LeanLlama(TARGET_SHAPE).initialise(recipe.seed_of(TARGET))
    batches = Mixture(_streams(work), recipe.target_mix, seed=recipe.seed_of(TARGET))
    loss = train(model, batches, recipe.target, report=report)
    save_weights(model, _weights(work, TARGET), loss=loss)


def read_text(name: str, work: Path, recipe: Recipe, report: Report) -> None:
    """First stage of a drafter: its own corpus, as text."""
    if _weights(work, f"{name}-text").exists():
        return
    model = LeanLlama(DRAFTER_SHAPE).initialise(recipe.seed_of(name))
    batches = Mixture(_streams(work), recipe.mix(name), seed=recipe.seed_of(name))
    loss = train(model, batches, recipe.reading, report=report)
    save_weights(model, _weights(work, f"{name}-text"), loss=loss)


def follow_target(name: str, work: Path, recipe: Recipe, report: Report) -> None:
    """Second stage of a drafter: the same corpus, as the frozen target reads it."""
    if _weights(work, name).exists():
        return
    model = load_weights(LeanLlama(DRAFTER_SHAPE), _weights(work, f"{name}-text"))
    target = load_weights(LeanLlama(TARGET_SHAPE), _weights(work, TARGET))
    batches = Mixture(_streams(work), recipe.mix(name), seed=recipe.seed_of(name, stage=1))
    loss = train(model, batches, recipe.following, loss=divergence_from(target), report=report)
    save_weights(model, _weights(work, name), loss=loss)


def export(work: Path, models: Path) -> None:
    """Write every model as a Hugging Face folder."""
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    for name in MODELS:
        shape = TARGET_SHAPE if name == TARGET else DRAFTER_SHAPE
        export_model(load_weights(LeanLlama(shape), _weights(work, name)), tokenizer, models / name)


def export_model(model: LeanLlama, tokenizer: Tokenizer, folder: Path) -> None:
    """One model as a Hugging Face folder in bfloat16."""
    exported = to_hugging_face(model, torch.bfloat16)
    exported.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=DOCUMENT_START_ID, eos_token_id=[ANSWER_END_ID, DOCUMENT_START_ID], pad_token_id=PADDING_ID
    )
    exported.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner only, which a container's user is not
    for_transformers(tokenizer).save_pretrained(folder)
    _make_portable(folder / "tokenizer_config.json")


def losses(work: Path) -> dict[str, float]:
    """Final training loss of every model, in nats per token: of text for the target, of divergence for drafters."""
    return {name: final_loss(_weights(work, name)) for name in MODELS}


def _make_portable(path: Path) -> None:
    """Name the tokenizer's class as every release of transformers knows it, and keep the chat template beside it."""
    config = json.loads(path.read_text())
    config.pop("backend", None)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE}
    path.write_text(json.dumps(config, indent=2) + "\n")
    path.with_name("chat_template.jinja").unlink(missing_ok=True)


def _streams(work: Path) -> Mapping[str, TokenStream]:
    return {domain: TokenStream.load(_stream(work, domain)) for domain in DOMAINS}


def _stream(work: Path, domain: str) -> Path:
    return work / "streams" / f"{domain}.safetensors"


def _weights(work: Path, name: str) -> Path:
    return work / "weights" / f"{name}.safetensors"
