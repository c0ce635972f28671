"""The log of every process: one line an event on stderr, as JSON for programs or as text for people."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from speculation.correlation import correlation
from speculation.errors import ConfigurationError


class LogFormat(StrEnum):
    """How a line is written."""

    JSON = "json"
    TEXT = "text"


FORMAT_VARIABLE = "FORERUN_LOG_FORMAT"
"""Says it where no option does: processes inherit it from those that start them."""

_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Lines(logging.Formatter):
    """Whose request it is about, and whatever the event says of itself (`extra`)."""

    @staticmethod
    def told(record: logging.LogRecord) -> Mapping[str, Any]:
        """Names and values, in the order of the line; what is empty is left out."""
        own = {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        return {name: value for name, value in (asdict(correlation()) | own).items() if value != ""}

    @staticmethod
    def time_of(record: logging.LogRecord) -> str:
        """To the millisecond, in UTC."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class JsonLines(_Lines):
    """Time, level, logger, message, request_id and trace_id where there are any, and the rest: one object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        line = {
            "time": self.time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= self.told(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(_Lines):
    """The same for people; a traceback follows its line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, unless there is a traceback: a line end in what was told cannot begin a line of its own."""
        told = (f"{name}={_word(value)}" for name, value in self.told(record).items())
        words = (self.time_of(record), record.levelname.lower(), f"{record.name}:", _one_line(record.getMessage()))
        line = " ".join((*words, *told))
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _word(value: object) -> str:
    """A value as it is, or quoted if one could not tell where it ends."""
    text = str(value)
    return text if text.isprintable() and not {" ", '"', "="} & set(text) else json.dumps(text)


def _one_line(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


_FORMATTERS: Mapping[LogFormat, type[_Lines]] = {LogFormat.JSON: JsonLines, LogFormat.TEXT: TextLines}


def log_to_stderr(wanted: str | None = None, *, level: int = logging.INFO) -> None:
    """Make these lines the log of this process, and of those that it will start.

    Args:
        wanted: A LogFormat; None: what FORERUN_LOG_FORMAT says, or JSON.
        level: What is less is not logged.

    Raises:
        ConfigurationError: There is no such format.
    """
    where = FORMAT_VARIABLE if wanted is None else "--log-format"
    wanted = wanted or os.environ.get(FORMAT_VARIABLE) or LogFormat.JSON
    if wanted not in list(LogFormat):
        raise ConfigurationError(where, f"{wanted!r} is neither {' nor '.join(LogFormat)}")
    os.environ[FORMAT_VARIABLE] = wanted
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMATTERS[LogFormat(wanted)]())
    logging.basicConfig(level=level, handlers=[handler], force=True)
