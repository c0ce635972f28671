"""Where log and versions are: what the options of a command say about it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from speculation.errors import ConfigurationError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from controller.model_store import ModelStore
    from router_models.policy import LearningPolicy

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RedisUrl = Annotated[str | None, typer.Option("--redis", help="redis://, rediss://, unix:// or embedded://PATH.")]
Namespace = Annotated[str, typer.Option(help="The fleet's; with --redis.")]
Config = Annotated[Path | None, typer.Option(help="A controller's configuration, in place of --redis.")]
PolicyName = Annotated[
    str | None, typer.Option(help="Whose versions.", show_default="the one that the controllers share, or planner")
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a fleet keeps its log and what was learnt from it.

    Attributes:
        url: Of Redis.
        namespace: The fleet's.
        policy: Whose versions are meant; empty: the one that the controllers share.
    """

    url: str
    namespace: str
    policy: str


def place_of(redis: str | None, namespace: str, config: Path | None, policy: str | None = None) -> Place:
    """What the options say.

    Raises:
        ConfigurationError: They say too little, or the configuration names no Redis.
        UnknownNameError: No learning policy has that name.
    """
    from controller.settings import Settings

    if (redis is None) is (config is None):
        raise ConfigurationError("--redis", "say where the versions are: either --redis URL or --config FILE")
    if policy is not None:
        policy_named(policy)  # a name that is none is refused before anything is connected
    if redis is not None:
        return Place(redis, namespace, policy or "")
    assert config is not None
    settings = Settings.load(config)
    if settings.redis is None:
        raise ConfigurationError(str(config), "redis: is missing; without it nothing is kept")
    return Place(settings.redis.url, settings.redis.namespace, policy or "")


@asynccontextmanager
async def connected(place: Place) -> "AsyncIterator[Redis]":
    """A client while the body runs; an embedded server is started for it if nobody else has.

    Raises:
        ConfigurationError: Redis cannot be used.
    """
    from redis.exceptions import RedisError

    from controller.embedded_redis import SCHEME, embedded_redis
    from controller.event_log import redis_client

    async with AsyncExitStack() as stack:
        url = place.url
        if url.startswith(SCHEME):
            url = await stack.enter_async_context(embedded_redis(url))
        try:
            redis = redis_client(url)
        except ValueError as error:
            raise ConfigurationError("--redis", str(error)) from error
        stack.push_async_callback(redis.aclose)
        try:
            yield redis
        except (RedisError, OSError) as error:
            raise ConfigurationError("--redis", f"cannot be used: {error}") from error


async def store_in(redis: "Redis", place: Place) -> "ModelStore":
    """The versions that are meant; unless the options name the policy, those of the one that the controllers share."""
    from controller.model_store import ModelStore
    from controller.shared_learning import DEFAULT_LEARNER
    from controller.snapshot import shared_key

    shared: Any = None if place.policy else await redis.get(shared_key(place.namespace))
    name = place.policy or (shared.decode() if shared is not None else DEFAULT_LEARNER)
    return ModelStore(redis, namespace=place.namespace, make_policy=partial(policy_named, name))


def policy_named(name: str) -> "LearningPolicy":
    """One that has learnt nothing; raises UnknownNameError if no learning policy has that name."""
    from controller.shared_learning import learner_named
    from router_models.catalogue import all_policies

    return learner_named(name, all_policies())
