"""What `forerun fleet ray` is told: which workers there are to be, and what each needs of a machine."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator

from controller.settings import Count, Section
from controller.settings_file import content_of, parsed
from speculation.errors import ConfigurationError
from worker.__main__ import settings_of
from worker.settings import WorkerSettings

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
WorkerName = Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]

AUTO = "auto"

GIVEN = ("name", "listen", "advertise", "redis_url", "namespace")
"""Settings of a worker that follow from its place, its name and the fleet."""


class HostedWorker(Section):
    """Workers that are alike."""

    worker: str
    """What each is told, as after `forerun worker`: `verify --model /models/target --device cuda:0`."""
    replicas: Count = 1
    """How many there are to be, on as many machines as possible."""
    cpus: Amount = 1.0
    """Processors that Ray sets aside for each."""
    gpus: Amount = 0.0
    """GPUs that Ray sets aside for each; it sees no others."""
    resources: Mapping[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """What else a machine must have, by the names that it was given with `ray start --resources`."""

    @field_validator("worker")
    @classmethod
    def _understood(cls, words: str) -> str:
        try:
            told = worker_settings(words, name="its-name")
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        usual = WorkerSettings(role=told.role, model=told.model, name="its-name", insecure=True)
        if said := [field for field in GIVEN if getattr(told, field) != getattr(usual, field)]:
            raise ValueError(f"{said[0]} is not to be said here: it follows from the rest of this file")
        return words

    @property
    def needs(self) -> Mapping[str, float]:
        """All that a machine must have, by Ray's names."""
        needed = {"CPU": self.cpus, "GPU": self.gpus, **self.resources}
        return {name: amount for name, amount in needed.items() if amount}


class RayFleetSettings(Section):
    """The workers of a fleet on a Ray cluster."""

    address: Annotated[str, Field(pattern=rf"^({AUTO}|\S+:\d{{1,5}})$")] = AUTO
    """Where the cluster's head is: host:port; auto: the cluster that this machine is part of."""
    redis: Annotated[str, Field(pattern=r"^(rediss?|unix)://.+$")]
    """Where workers register, and controllers look for them; every machine must reach it."""
    namespace: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] = "default"
    """Which fleet it is: as `redis.namespace` of its controllers."""
    workers: Annotated[Mapping[WorkerName, HostedWorker], Field(min_length=1)]
    """The workers, by the names that requests use."""
    log_folder: Path = Path("~/.forerun/logs")
    """Where each machine keeps the logs of its workers."""

    @classmethod
    def load(cls, file: Path) -> Self:
        """The settings of a YAML file.

        Raises:
            ConfigurationError: It cannot be read, or a value is wrong; names file, line and field.
        """
        return parsed(content_of(file), file, cls)


def worker_settings(words: str, *, name: str) -> WorkerSettings:
    """What a worker makes of these words. Where it listens is not among them, nor whether that is protected.

    Raises:
        ConfigurationError: It would not start.
    """
    try:
        role, *options = shlex.split(words)
    except ValueError as error:
        raise ConfigurationError("worker", f"{words!r} is no command line: {error}") from error
    return settings_of(["--role", role, "--name", name, *options])
