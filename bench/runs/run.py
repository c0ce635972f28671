"""The form of a run (docs/benchmarks.md): figures, and all that is needed to compare them with others."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.figures import Curves, Figure
from bench.machine import Checkout, Machine
from speculation.errors import ConfigurationError

FORMAT: Final = "forerun bench run 1"


class Run(BaseModel):
    """One run of one bench."""

    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)

    format: Literal["forerun bench run 1"] = FORMAT
    """The version of this form."""
    figures: tuple[Figure, ...]
    """No two of the same name."""
    curves: tuple[Curves, ...] = ()
    """What figures do not tell: how something went."""
    machine: Machine
    """Where."""
    versions: Mapping[str, str]
    """Of the kernel, Python and packages."""
    commit: str
    """Hash of the code; "unknown" outside a checkout."""
    dirty: bool
    """Whether files of the checkout had changed since that commit."""
    seed: int
    """Of sampled answers and of the resampling."""
    date: AwareDatetime
    """When it ended."""
    command: str
    """What was typed."""
    load_before: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    """Processes that ran or waited in the minute before it began."""
    remarks: tuple[str, ...]
    """Why the figures may not be what a quiet machine would give."""

    @field_validator("figures")
    @classmethod
    def _can_be_compared(cls, figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
        names = Counter(entry.name for entry in figures)
        for entry in figures:
            if names[entry.name] > 1:
                raise ValueError(f"{entry.name} is there {names[entry.name]} times")
            if not entry.is_finite or (entry.low is None) != (entry.high is None):
                raise ValueError(f"{entry.name} needs a finite value, and both ends of its interval or none")
            if not entry.unit.strip():
                raise ValueError(f"{entry.name} needs a unit")
        return figures

    @field_validator("curves")
    @classmethod
    def _can_be_drawn(cls, curves: tuple[Curves, ...]) -> tuple[Curves, ...]:
        for entry in curves:
            if not entry.is_whole:
                raise ValueError(f"{entry.name} needs places, and a finite value of every line at each")
        return curves

    @property
    def checkout(self) -> Checkout:
        """Which code was measured."""
        return Checkout(commit=self.commit, dirty=self.dirty)

    @property
    def day(self) -> str:
        """When it ended, for people."""
        return f"{self.date:%Y-%m-%d %H:%M %Z}"

    def line(self) -> str:
        """As one line of JSON."""
        return self.model_dump_json()

    def save(self, file: Path) -> None:
        """As a file that `load` reads."""
        file.write_text(self.line() + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote, or what a bench wrote to stdout with `--json`.

        Raises:
            ConfigurationError: It cannot be read, or is no run of this form; the message names file and field.
        """
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(str(file), f"cannot be read: {error}") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _refused(file, error) from error


def _refused(file: Path, error: ValidationError) -> ConfigurationError:
    first, others = error.errors()[0], error.error_count() - 1
    if first["type"] == "json_invalid":
        problem = first["msg"].removeprefix("Invalid JSON: ")
        return ConfigurationError(str(file), f"is no JSON ({problem}); name a file that --output of a bench wrote")
    field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]).lstrip(".")
    problem = first["msg"].removeprefix("Value error, ")
    where = f"{file}, {field}" if field else str(file)
    hint = f"; and {others} more" if others else ""
    return ConfigurationError(where, f"{problem}{hint}: is this a run that --output of a bench wrote, of {FORMAT!r}?")


def require_same_machine(runs: Sequence[Run], *, instead: str) -> None:
    """Times of one machine say nothing of another.

    Args:
        runs: At least one.
        instead: What the caller can do if they are of several machines.

    Raises:
        ConfigurationError: They are; the message names what differs.
    """
    first = runs[0].machine
    for other in (run.machine for run in runs[1:]):
        differing = [
            field.name for field in fields(Machine) if getattr(first, field.name) != getattr(other, field.name)
        ]
        if differing:
            told = "; ".join(f"{name}: {getattr(first, name)} and {getattr(other, name)}" for name in differing)
            raise ConfigurationError("machine", f"the runs are of different machines ({told}). {instead}")
