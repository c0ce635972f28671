"""Answers that change their kind of text half-way: the set on which no single specialist is right throughout."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from zoo.corpora.corpus import Corpus, Sample, chat, is_held_out, procedural_corpus, without_questions
from zoo.corpora.docs import documentation_pages, is_prose
from zoo.corpora.edit import make_function
from zoo.corpora.json_records import KINDS, ORDER, Record, as_json, as_json_list
from zoo.corpora.math import held_out_questions, make_problem

_SAMPLES_PER_PAGE = 6


def hybrid_corpus(archives: Path, num_documents: int = 9_000, num_held_out: int = 200) -> Corpus:
    """Three generated kinds, and passages of the manuals in which a paragraph introduces an example."""
    examples, held_out_examples = _explained_examples(archives)
    generated = procedural_corpus("hybrid", write_hybrid, num_documents=num_documents, num_held_out=num_held_out)
    documents = without_questions(generated, held_out_questions()).documents
    return Corpus(
        name="hybrid",
        documents=documents + tuple(sample.document + "\n" for sample in examples),
        held_out=generated.held_out + tuple(held_out_examples),
    )


def write_hybrid(seed: int) -> Sample:
    """The generated task of that seed, in chat form."""
    rng = random.Random(f"hybrid-{seed}")
    return rng.choice(_KINDS)(rng)


def _steps_then_record(rng: random.Random) -> Sample:
    problem = make_problem(rng)
    record = as_json({"steps": len(problem.steps), "answer": problem.result})
    question = f"{problem.question} Show the steps, then a JSON record."
    return chat(question, "\n".join((*problem.steps, record)), is_open=True)


def _records_then_sum(rng: random.Random) -> Sample:
    orders = [ORDER.make(rng) for _ in range(2)]
    told = "\n".join(ORDER.tell(rng, order) for order in orders)
    kept: list[Record] = [{field: order[field] for field in ("order", "item", "quantity")} for order in orders]
    first, second = (int(order["quantity"]) for order in orders)
    answer = f"{as_json_list(kept)}\nTogether: {first} + {second} = {first + second}.\nAnswer: {first + second}"
    return chat(f"List order, item and quantity as JSON, then add up the quantities.\n{told}", answer)


def _record_then_class(rng: random.Random) -> Sample:
    kind = rng.choice(KINDS)
    record = kind.make(rng)
    fields = "\n".join(f"    {field}: {type(value).__name__} = {value!r}" for field, value in record.items())
    answer = f"{as_json(record)}\n\n@dataclass\nclass Record:\n{fields}"
    return chat(f"Return the record as JSON, then a dataclass with these defaults.\n{kind.tell(rng, record)}", answer)


def _function_then_result(rng: random.Random) -> Sample:
    function = make_function(rng)
    small, large = rng.randint(1, function.limit), function.limit + rng.randint(1, 9)
    gain = large * function.step
    question = (
        f"Write {function.name}, which adds to {function.local} {function.step} times every value above "
        f"{function.limit} and takes away {function.step} for any other. Then work out its result for "
        f"[{large}, {small}]."
    )
    answer = (
        f"{function.source()}\n\n"
        f"{large} is above {function.limit}: {large} * {function.step} = {gain}.\n"
        f"{small} is not: {gain} - {function.step} = {gain - function.step}.\n"
        f"Answer: {gain - function.step}"
    )
    return chat(question, answer)


def _explained_examples(archives: Path) -> tuple[list[Sample], list[Sample]]:
    """Paragraphs of the manuals with the example they introduce: (training, held out)."""
    training: list[Sample] = []
    held_out: list[Sample] = []
    for path, blocks in documentation_pages(archives):
        samples = []
        for before, after in pairwise(blocks):
            introduces = not before.verbatim and is_prose(before.text) and before.text.endswith(":")
            if introduces and after.verbatim and len(before.text) > 80 and 60 < len(after.text) < 900:
                cut = before.text.find(" ", 50)
                text = f"{before.text.rstrip(':')}:\n\n{after.text}"
                samples.append(Sample(text[:cut], text[cut:]))
        if is_held_out(path):
            random.Random(f"hybrid-{path}").shuffle(samples)
            held_out.extend(samples[:_SAMPLES_PER_PAGE])
        else:
            training.extend(samples)
    return training, held_out


_KINDS: tuple[Callable[[random.Random], Sample], ...] = (
    _steps_then_record,
    _records_then_sum,
    _record_then_class,
    _function_then_result,
)
