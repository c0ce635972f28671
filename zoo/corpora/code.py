"""Python source of two large libraries: what the code drafter knows."""

import ast
import random
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path

from zoo.corpora.corpus import Corpus, Sample, is_held_out
from zoo.corpora.sources import DJANGO, SQLALCHEMY, fetch, read_texts

_SKIPPED = ("/locale/", "/migrations/", "/testing/", "/conf/app_template/", "/conf/project_template/")
_SHORTEST_FILE = 300
_SHORTEST_FUNCTION = 8
_PROMPTS_PER_FILE = 40
_LONGEST_PROMPT = 500


def code_corpus(archives: Path) -> Corpus:
    """Training files and held-out function openings; archives are fetched into the folder when missing."""
    documents: list[str] = []
    held_out: list[Sample] = []
    for path, source in _source_files(archives):
        if is_held_out(path):
            held_out.extend(_function_openings(path, source))
        else:
            documents.append(source)
    return Corpus(name="code", documents=tuple(documents), held_out=tuple(held_out))


def shorten_docstrings(source: str) -> str:
    """Cut every long docstring to its first line: prose is the other corpus's business."""
    lines = source.split("\n")
    for node in sorted(_docstrings(ast.parse(source)), key=lambda node: -node.lineno):
        assert node.end_lineno is not None  # set by ast.parse
        text = str(ast.literal_eval(node.value)).strip()
        first = text.split("\n")[0].strip()
        if node.end_lineno - node.lineno >= 2 and first and not set('"\\') & set(first):
            lines[node.lineno - 1 : node.end_lineno] = [" " * node.col_offset + f'"""{first}"""']
    return "\n".join(lines)


def _source_files(archives: Path) -> Iterator[tuple[str, str]]:
    django = read_texts(fetch(DJANGO, archives), top="django/", suffix=".py")
    sqlalchemy = read_texts(fetch(SQLALCHEMY, archives), top="lib/sqlalchemy/", suffix=".py")
    for files in (django, sqlalchemy):
        for path, text in files:
            if len(text) >= _SHORTEST_FILE and not any(part in path for part in _SKIPPED):
                yield path, _without_header(shorten_docstrings(text))


def _without_header(source: str) -> str:
    """Drop the comment block at the top, which in one of the libraries is the same notice in every file."""
    lines = source.split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    return "\n".join(lines[first:])


def _docstrings(tree: ast.Module) -> Iterator[ast.Expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            match node.body[0]:
                case ast.Expr(value=ast.Constant(value=str())) as docstring:
                    yield docstring


def _function_openings(path: str, source: str) -> Iterable[Sample]:
    """Openings of the longer functions in a file: signature and a few lines, to be continued."""
    rng = random.Random(f"code-{path}")
    lines = source.split("\n")
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    samples = []
    for node in functions:
        assert node.end_lineno is not None  # set by ast.parse
        if node.end_lineno - node.lineno + 1 < _SHORTEST_FUNCTION:
            continue
        whole = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])).split("\n")
        cut = rng.randint(2, 5)
        # A prompt never ends in white space: the tokenizer would split it from the indent that follows.
        opening = "\n".join(whole[:cut]).rstrip()
        if len(opening) <= _LONGEST_PROMPT:
            samples.append(Sample(opening, "\n".join(whole)[len(opening) :]))
    rng.shuffle(samples)
    return samples[:_PROMPTS_PER_FILE]
