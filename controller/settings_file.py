"""YAML files of settings: read, and whatever is wrong in them told with line and field."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from speculation.errors import ConfigurationError

Model = TypeVar("Model", bound=BaseModel)

ADDRESS, LABEL = r"^\S+:\d{1,5}$", r"^[\w.-]{1,64}$"
FORMS: Mapping[str, str] = MappingProxyType(
    {
        ADDRESS: "must be host:port, like 127.0.0.1:50050",
        LABEL: "must be 1 to 64 letters, digits, dots, dashes and underscores",
    }
)
"""What patterns ask for, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something wrong in a file.

    Attributes:
        line: Counted from 1; 0 where it is the file as such.
        field: Such as policy.shape.budget; empty where it is the file as such.
        message: What is wrong with it.
    """

    line: int
    field: str
    message: str

    def at(self, file: Path) -> ConfigurationError:
        """As an error."""
        where = f"{file}:{self.line}" if self.line else str(file)
        return ConfigurationError(where, f"{self.field}: {self.message}" if self.field else self.message)


def content_of(file: Path) -> str:
    """What a file says.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(file), f"cannot be read: {error}") from error


def parsed(text: str, file: Path, model: type[Model]) -> Model:
    """The settings of a file's content.

    Raises:
        ConfigurationError: It is no YAML, or a value is wrong; names file, line and field of the first problem.
    """
    settings, problems = examined(text, model)
    if settings is not None:
        return settings
    first, *others = problems
    more = f" (and {len(others)} more)" if others else ""
    raise Problem(line=first.line, field=first.field, message=first.message + more).at(file)


def examined(text: str, model: type[Model]) -> tuple[Model | None, tuple[Problem, ...]]:
    """The settings of a file's content, or None and everything that is wrong in it, in the file's order."""
    try:
        # Compose, too: the values alone no longer know on which lines they stood.
        document, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return None, (Problem(line=line, field="", message=f"is no YAML: {error.problem}"),)
    except Exception as error:  # PyYAML raises what it pleases for a tag that does not fit its value
        return None, (Problem(line=0, field="", message=f"is no YAML: {error}"),)
    if not isinstance(document, dict) or root is None:
        return None, (Problem(line=1, field="", message="must be a mapping of fields to values"),)
    doubles = tuple(_doubles(root))
    try:
        settings = model.model_validate(document)
    except ValidationError as error:
        return None, tuple(sorted((*doubles, *_located(root, error)), key=lambda problem: problem.line))
    return (None, doubles) if doubles else (settings, ())


def _doubles(root: yaml.Node) -> Iterator[Problem]:
    """Fields given twice in one mapping: YAML would take the last and forget the others."""
    waiting, seen = [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if isinstance(node, yaml.MappingNode):
            names: dict[Any, int] = {}
            for key, value in node.value:
                waiting.append(value)
                line = key.start_mark.line + 1
                if isinstance(key, yaml.ScalarNode) and names.setdefault(key.value, line) != line:
                    yield Problem(line=line, field=key.value, message=f"is given on line {names[key.value]} already")


def _located(root: yaml.Node, error: ValidationError) -> Iterator[Problem]:
    for problem in error.errors():
        field = ".".join(str(step) for step in problem["loc"]) or "the file"
        yield Problem(line=_line_of(root, problem["loc"]), field=field, message=_in_words(problem))


def _in_words(problem: ErrorDetails) -> str:
    if problem["type"] == "extra_forbidden":
        return "there is no such field"
    pattern = problem.get("ctx", {}).get("pattern", "")
    return FORMS.get(pattern, problem["msg"].removeprefix("Value error, "))


def _line_of(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """Line of the deepest node on the way to a location; a field that is missing is where its section begins."""
    line = node.start_mark.line + 1
    for step in location:
        child: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(step):
                    child, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            child = node.value[step]
            line = child.start_mark.line + 1
        if child is None:
            break
        node = child
    return int(line)
