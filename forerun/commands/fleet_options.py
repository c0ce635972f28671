"""What several commands say about a fleet on the command line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from forerun.local_fleet import EMBEDDED_REDIS, SUFFIX_OF_TARGET, FleetSettings
from speculation.errors import ConfigurationError


def fleet_settings(
    file: Path | None, given: Mapping[str, Any], *, redis: str | None = None, metrics: str | None = None
) -> FleetSettings:
    """The settings of a file, or the default ones, overruled by what the command line gives (None: nothing).

    Raises:
        ConfigurationError: A value is wrong; the message names file and line, or the option.
    """
    settings = FleetSettings() if file is None else FleetSettings.load(file)
    overruled = {name: value for name, value in given.items() if value is not None}
    if redis is not None:
        overruled["redis"] = {"embedded": EMBEDDED_REDIS, "none": None}.get(redis, {"url": redis})
    if metrics is not None:
        overruled["metrics"] = settings.metrics.model_dump() | {"listen": metrics}
    try:
        return FleetSettings.model_validate({**dict(settings), **overruled})
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise ConfigurationError(f"--{option}", first["msg"].removeprefix("Value error, ")) from error


def drafters_of(text: str) -> dict[str, str]:
    """The drafters of "code,docs,suffix,small=./my-small-model": a zoo name, "suffix", or a name of one's own and its
    model."""
    drafters: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, model = entry.partition("=")
        if not name or (equals and not model):
            raise ConfigurationError("--drafters", f"{entry!r} is neither NAME nor NAME=MODEL")
        if name in drafters:
            raise ConfigurationError("--drafters", f"{name!r} is given twice")
        drafters[name] = model or (SUFFIX_OF_TARGET if name == SUFFIX_OF_TARGET else f"zoo:{name}")
    return drafters
