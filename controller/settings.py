"""What an operator decides about one controller, read from a YAML file once and checked to the line."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from router_models.catalogue import all_policies
from router_models.plan import CHAIN_OF_4
from speculation.errors import ConfigurationError
from speculation.tree import MAX_BRANCHING, MAX_DEPTH, MAX_NODES, TreeShape

Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of the file; a field it does not have is an error, not a silent wish."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class WorkerEntry(Section):
    """A worker that is always part of the fleet."""

    role: Literal["draft", "verify"]
    address: Address


class RedisSettings(Section):
    """Where decisions are logged and workers announce themselves.

    Attributes:
        url: redis://, rediss://, unix:// or embedded://PATH, which starts one for this host alone.
        namespace: Shared by the workers and controllers of one fleet.
        log_entries: About how many entries each stream of the log keeps.
        most_records_waiting: Records kept while Redis is away; more are dropped and counted.
        shared_learning: Whether the controllers of the namespace learn as one; if not, each learns from its own
            requests, and forgets it all when it ends.
    """

    url: str
    namespace: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] = "default"
    log_entries: Count = 1_000_000
    most_records_waiting: Count = 10_000
    shared_learning: bool = True

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith(("redis://", "rediss://", "unix://", "embedded://")):
            raise ValueError("must begin with redis://, rediss://, unix:// or embedded://")
        return url


class ShapeSettings(Section):
    """The form of a drafted tree."""

    depth: Annotated[int, Field(ge=1, le=MAX_DEPTH)] = CHAIN_OF_4.depth
    branching: Annotated[int, Field(ge=1, le=MAX_BRANCHING)] = CHAIN_OF_4.branching
    budget: Annotated[int, Field(ge=1, le=MAX_NODES)] = CHAIN_OF_4.budget
    least_confidence: Annotated[float, Field(ge=0, le=1)] = CHAIN_OF_4.least_confidence

    @property
    def shape(self) -> TreeShape:
        """As a value."""
        return TreeShape(**self.model_dump())


class PolicySettings(Section):
    """Which policy decides where a request names none.

    Attributes:
        name: One of the catalogue.
        drafter: Of `static`; None: the first on offer.
        shape: The tree that policies without a better idea draft.
    """

    name: str = "static"
    drafter: str | None = None
    shape: ShapeSettings = ShapeSettings()

    @field_validator("name")
    @classmethod
    def _in_the_catalogue(cls, name: str) -> str:
        if name not in (known := all_policies()):
            raise ValueError(f"no policy is called that; known: {', '.join(sorted(known))}")
        return name


class LimitSettings(Section):
    """What one controller takes on."""

    concurrent_requests: Count = 256
    default_max_new_tokens: Count = 256


class TimeoutSettings(Section):
    """How long it waits.

    Attributes:
        draft_timeout_s: A drafter that keeps a ready target waiting longer is late.
        verify_wait_s: How long a request waits for a verify worker to return or to have room.
        health_interval_s: Between two health checks of a worker.
        health_timeout_s: A worker that does not answer a check within this is lost.
        longest_request_s: Deadline of a request that brings none.
        drain_grace_s: How long running requests may go on after SIGTERM.
    """

    draft_timeout_s: Seconds = 0.5
    verify_wait_s: Seconds = 10.0
    health_interval_s: Seconds = 1.0
    health_timeout_s: Seconds = 2.0
    longest_request_s: Seconds = 600.0
    drain_grace_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 30.0


class Settings(Section):
    """One controller.

    Attributes:
        listen: host:port; loopback unless you name another host; port 0 takes a free one.
        tokenizer: Folder (relative to the file) or hub id of the target's tokenizer.
        workers: Besides those that announce themselves in Redis.
        redis: None: no decision log, and only the workers listed here.
    """

    listen: Address = "127.0.0.1:50050"
    tokenizer: Annotated[str, Field(min_length=1)]
    workers: tuple[WorkerEntry, ...] = ()
    redis: RedisSettings | None = None
    policy: PolicySettings = PolicySettings()
    limits: LimitSettings = LimitSettings()
    timeouts: TimeoutSettings = TimeoutSettings()

    @field_validator("workers")
    @classmethod
    def _each_once(cls, workers: tuple[WorkerEntry, ...]) -> tuple[WorkerEntry, ...]:
        addresses = [worker.address for worker in workers]
        if doubles := {address for address in addresses if addresses.count(address) > 1}:
            raise ValueError(f"{', '.join(sorted(doubles))} is listed more than once")
        return workers

    @property
    def content_hash(self) -> str:
        """Of what was decided, however it was written."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """The settings of a file.

        Raises:
            ConfigurationError: The file cannot be read, is no YAML, or a value is wrong; names file, line and field.
        """
        try:
            text = path.read_text(encoding="utf-8")
            # Compose, too: the values alone no longer know on which lines they stood.
            document, root = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(str(path), f"cannot be read: {error}") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigurationError(f"{path}:{line}", f"is no YAML: {error.problem}") from error
        except yaml.YAMLError as error:
            raise ConfigurationError(str(path), f"is no YAML: {error}") from error
        if not isinstance(document, dict) or root is None:
            raise ConfigurationError(f"{path}:1", "must be a mapping of fields to values")
        try:
            settings = cls.model_validate(document)
        except ValidationError as error:
            raise _located(path, root, error) from error
        return settings.model_copy(update={"tokenizer": _near(path, settings.tokenizer)})


def _near(path: Path, tokenizer: str) -> str:
    """A folder beside the file, if there is one; else what was written, such as a hub id."""
    folder = path.parent / tokenizer
    return str(folder) if folder.is_dir() else tokenizer


def _located(path: Path, root: yaml.Node, error: ValidationError) -> ConfigurationError:
    """The first thing that is wrong, with file, line and field."""
    first = error.errors()[0]
    line = _line_of(root, first["loc"])
    field = ".".join(str(step) for step in first["loc"]) or "the file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigurationError(f"{path}:{line}", f"{field}: {first['msg']}{more}")


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
