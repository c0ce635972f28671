"""Corpora: the same for everyone, and held-out prompts are really held out."""

import functools
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from zoo.corpora import manifest
from zoo.corpora.code import shorten_docstrings
from zoo.corpora.corpus import FIRST_HELD_OUT_SEED, Corpus, Sample, is_held_out, procedural_corpus, without_questions
from zoo.corpora.docs import blocks_of, is_prose
from zoo.corpora.edit import edit_corpus, write_edit
from zoo.corpora.hybrid import write_hybrid
from zoo.corpora.invention import Inventor
from zoo.corpora.json_records import json_corpus, write_json
from zoo.corpora.math import held_out_questions, math_corpus, write_math
from zoo.corpora.sources import DJANGO, verify
from zoo.errors import TamperedCorpusError
from zoo.prompts import load_prompts

WRITERS = [write_math, write_json, write_edit, write_hybrid]
GENERATED = {"math": math_corpus, "json": json_corpus, "edit": edit_corpus}
EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@functools.cache
def generated(name: str) -> Corpus:
    """A whole corpus, made once for all tests."""
    return GENERATED[name]()


@pytest.mark.parametrize("write", WRITERS)
def test_a_seed_always_gives_the_same_sample(write: Callable[[int], Sample]) -> None:
    assert [write(seed) for seed in range(50)] == [write(seed) for seed in range(50)]


@pytest.mark.parametrize("write", WRITERS)
def test_every_sample_is_an_exchange_that_ends(write: Callable[[int], Sample]) -> None:
    for seed in range(200):
        sample = write(seed)

        assert sample.is_exchange
        assert sample.prompt.endswith("<|assistant|>\n")
        assert sample.answer.endswith("<|end|>")


@pytest.mark.parametrize("name", GENERATED)
def test_generated_corpora_are_the_recorded_ones(name: str) -> None:
    manifest.check([generated(name)])


@pytest.mark.parametrize("name", GENERATED)
def test_no_shipped_prompt_is_a_training_document(name: str) -> None:
    trained_on = {document.split("<|assistant|>\n")[0] for document in generated(name).documents}

    prompts = {prompt.text.split("<|assistant|>\n")[0] for prompt in load_prompts(name)}

    assert not prompts & trained_on


def test_training_seeds_and_held_out_seeds_never_meet() -> None:
    corpus = procedural_corpus("numbers", lambda seed: Sample(f"{seed}", "!"), num_documents=100, num_held_out=10)

    assert min(int(sample.prompt) for sample in corpus.held_out) >= FIRST_HELD_OUT_SEED
    assert max(int(document.rstrip("!")) for document in corpus.documents) < FIRST_HELD_OUT_SEED


def test_a_repeated_prompt_is_kept_once_and_never_trained_on_when_held_out() -> None:
    corpus = procedural_corpus("few", lambda seed: Sample(f"{seed % 7}", "!"), num_documents=100, num_held_out=3)

    prompts = [sample.prompt for sample in corpus.held_out]
    trained_on = [document.rstrip("!") for document in corpus.documents]

    assert len(prompts) == len(set(prompts))
    assert len(trained_on) == len(set(trained_on))
    assert not set(prompts) & set(trained_on)


def test_a_changed_corpus_is_refused() -> None:
    corpus = math_corpus(num_documents=10, num_held_out=1)
    recorded = json.loads(json.dumps(manifest.describe([corpus])))
    tampered = Corpus(name="math", documents=(*corpus.documents[:-1], "2 + 2 = 5"), held_out=corpus.held_out)

    manifest.check([corpus], recorded)

    with pytest.raises(TamperedCorpusError, match="the math corpus"):
        manifest.check([tampered], recorded)


def test_an_archive_that_is_not_the_pinned_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / DJANGO.filename).write_bytes(b"not the release")

    with pytest.raises(TamperedCorpusError, match=DJANGO.filename):
        verify(DJANGO, tmp_path / DJANGO.filename)


def test_about_one_file_in_sixteen_is_held_out() -> None:
    held_out = sum(is_held_out(f"package/module_{number}.py") for number in range(16_000))

    assert 900 < held_out < 1100


def test_no_document_asks_a_held_out_question_not_even_one_that_makes_problems_up() -> None:
    asked = {prompt.text.split("\n")[1] for prompt in load_prompts("math") if prompt.reference is not None}

    assert len(asked) > 100
    assert asked <= held_out_questions()
    assert not any(question in document for document in generated("math").documents for question in asked)


def test_documents_that_ask_a_question_are_dropped_wherever_they_ask_it() -> None:
    corpus = Corpus(name="few", documents=("What is 2 + 2? It is 4.", "Make one up. What is 2 + 2?", "3."), held_out=())

    assert without_questions(corpus, frozenset({"What is 2 + 2?"})).documents == ("3.",)
    assert without_questions(corpus, frozenset()).documents == corpus.documents


def test_what_is_made_up_has_no_one_right_answer() -> None:
    prompts = [prompt for name in ("math", "json") for prompt in load_prompts(name)]

    invented = {prompt.reference is None for prompt in prompts if "Make up" in prompt.text}
    given = {prompt.reference is None for prompt in prompts if "Make up" not in prompt.text}

    assert invented == {True}
    assert given == {False}


def test_who_makes_something_up_takes_what_comes_to_mind_first() -> None:
    inventor = Inventor(7)
    things = range(40)

    chosen = [inventor.choice(things) for _ in range(4000)]
    numbers = [inventor.randint(3, 12) for _ in range(4000)]

    assert chosen.count(0) > 600 > chosen.count(1) > chosen.count(39) > 0
    assert (min(numbers), max(numbers)) == (3, 12)
    assert numbers.count(3) > numbers.count(12) > 0


def test_every_equation_of_a_worked_answer_holds() -> None:
    compute = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}

    equations = [found for seed in range(500) for found in EQUATION.findall(write_math(seed).answer)]

    assert len(equations) > 700
    for left, sign, right, result in equations:
        assert compute[sign](int(left), int(right)) == int(result)


def test_a_long_docstring_is_cut_to_its_first_line() -> None:
    source = 'def area(radius):\n    """Area of a circle.\n\n    Long explanation.\n    """\n    return 3 * radius**2\n'

    assert shorten_docstrings(source) == 'def area(radius):\n    """Area of a circle."""\n    return 3 * radius**2\n'


def test_what_follows_a_double_colon_and_is_indented_is_verbatim() -> None:
    page = "Call it like this::\n\n    area(2)\n\n    area(3)\n\nIt returns a number."

    blocks = list(blocks_of(page))

    assert [block.verbatim for block in blocks] == [False, True, True, False]


@pytest.mark.parametrize(
    ("text", "prose"),
    [
        pytest.param("This is a sentence about nothing.", True, id="sentence"),
        pytest.param(".. note:: watch out", False, id="directive"),
        pytest.param(">>> print(1)", False, id="console"),
        pytest.param("=====  =====\n  1      2", False, id="table"),
    ],
)
def test_only_sentences_count_as_prose(text: str, prose: bool) -> None:
    assert is_prose(text) is prose
