"""The one byte-level tokenizer of the zoo: 2048 types, digits single, learnt from the corpora."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from zoo.corpora.corpus import Corpus
from zoo.vocabulary import (
    ANSWER_END,
    CHAT_TEMPLATE,
    CONTEXT_TOKENS,
    DOCUMENT_START,
    DOCUMENT_START_ID,
    PADDING,
    SPECIAL_TOKENS,
    VOCABULARY_SIZE,
)

_CHARACTERS_PER_CORPUS = 1_200_000


def learn_tokenizer(corpora: Mapping[str, Corpus]) -> Tokenizer:
    """Byte-pair encoding over an equal share of every corpus.

    Digits are split singly and words by the byte-level rule, as StarCoder and SmolLM do: the pair is known to the
    loaders of other runtimes by name, which a pattern of our own would not be.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_equal_shares(corpora), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{DOCUMENT_START} $A",
        pair=f"{DOCUMENT_START} $A {DOCUMENT_START} $B",
        special_tokens=[(DOCUMENT_START, DOCUMENT_START_ID)],
    )
    return tokenizer


def for_transformers(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """The same tokenizer with the names and the chat template that transformers wants."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT_START,
        eos_token=ANSWER_END,
        pad_token=PADDING,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
        clean_up_tokenization_spaces=False,
    )


def fingerprint(folder: Path) -> str:
    """SHA-256 of a model folder's tokenizer; models of one zoo share it."""
    return hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()


def _equal_shares(corpora: Mapping[str, Corpus]) -> Iterator[str]:
    for name, corpus in corpora.items():
        documents = list(corpus.documents)
        random.Random(f"tokenizer-{name}").shuffle(documents)
        taken = 0
        for document in documents:
            if taken > _CHARACTERS_PER_CORPUS:
                break
            taken += len(document)
            yield document
