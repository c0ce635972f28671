"""What a corpus is: documents to train on, held-out prompts to measure on, and a fingerprint of the documents."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from zoo.vocabulary import ANSWER_END, ASSISTANT, USER

# Held-out samples are drawn from here on; no corpus has a million training seeds.
FIRST_HELD_OUT_SEED = 1_000_000


@dataclass(frozen=True, slots=True)
class Sample:
    """A prompt and the answer that belongs to it; the training document is the two in a row.

    Attributes:
        is_open: Whether other answers would be as right, as when something is to be made up.
    """

    prompt: str
    answer: str
    is_open: bool = False

    @property
    def document(self) -> str:
        return self.prompt + self.answer

    @property
    def is_exchange(self) -> bool:
        """Whether this is a question and its answer, and not a text and its continuation."""
        return self.prompt.startswith(USER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Documents for training, and samples that share no document with them."""

    name: str
    documents: tuple[str, ...]
    held_out: tuple[Sample, ...]

    def sha256(self) -> str:
        """Fingerprint of the training documents, in order."""
        digest = hashlib.sha256()
        for document in self.documents:
            encoded = document.encode()
            digest.update(len(encoded).to_bytes(8, "big"))
            digest.update(encoded)
        return digest.hexdigest()


def chat(question: str, answer: str, *, is_open: bool = False) -> Sample:
    """One exchange in the zoo's chat form."""
    return Sample(f"{USER}\n{question}\n{ASSISTANT}\n", answer + ANSWER_END, is_open)


def without_questions(corpus: Corpus, questions: frozenset[str]) -> Corpus:
    """The corpus without the documents that ask one of the questions."""
    asks = re.compile("|".join(map(re.escape, sorted(questions))) or r"(?!)")
    return replace(corpus, documents=tuple(document for document in corpus.documents if not asks.search(document)))


def procedural_corpus(name: str, write: Callable[[int], Sample], *, num_documents: int, num_held_out: int) -> Corpus:
    """Draw a corpus from a seeded generator.

    Args:
        name: Name of the corpus.
        write: Seed to sample; the same seed must always give the same sample.
        num_documents: Number of training seeds tried; repeated prompts are dropped.
        num_held_out: Number of held-out samples wanted.
    """
    held_out = _distinct(map(write, range(FIRST_HELD_OUT_SEED, FIRST_HELD_OUT_SEED + 2 * num_held_out)), taken=set())
    taken = {sample.prompt for sample in held_out}
    training = _distinct(map(write, range(num_documents)), taken=taken)
    documents = tuple(sample.document for sample in training)
    return Corpus(name=name, documents=documents, held_out=held_out[:num_held_out])


def is_held_out(path: str) -> bool:
    """Whether a file is kept from training: one in sixteen, by the hash of its path."""
    return hashlib.sha256(path.encode()).digest()[0] % 16 == 0


def _distinct(samples: Iterable[Sample], *, taken: set[str]) -> tuple[Sample, ...]:
    seen = set(taken)
    kept = []
    for sample in samples:
        if sample.prompt not in seen:
            seen.add(sample.prompt)
            kept.append(sample)
    return tuple(kept)
