"""`forerun router history | promote | rollback`: versions of what the router has learnt, straight from Redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from forerun.console import PEOPLE, RESULT, emit
from speculation.errors import ConfigurationError

if TYPE_CHECKING:
    from controller.model_store import History, ModelStore, ModelVersion
    from router_models.policy import LearningPolicy

Result = TypeVar("Result")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
RedisUrl = Annotated[str | None, typer.Option("--redis", help="redis://, rediss://, unix:// or embedded://PATH.")]
Namespace = Annotated[str, typer.Option(help="The fleet's; with --redis.")]
Config = Annotated[Path | None, typer.Option(help="A controller's configuration, in place of --redis.")]
PolicyName = Annotated[
    str | None, typer.Option(help="Whose versions.", show_default="the one that the controllers share, or planner")
]


def add_to(app: typer.Typer) -> None:
    """Offer the commands."""
    for command in (history, promote, rollback):
        app.command(command.__name__)(command)


def history(
    redis: RedisUrl = None,
    namespace: Namespace = "default",
    config: Config = None,
    policy: PolicyName = None,
    as_json: AsJson = False,
) -> None:
    """List the versions of what the router has learnt, and say which one is in charge.

    [cyan]forerun router history --redis redis://host:6379[/cyan]

    [cyan]forerun router history --config controller.yaml --json[/cyan]
    """
    known = _with_store(_place(redis, namespace, config, policy), lambda store: store.history())
    if as_json:
        emit(known)
    elif known.versions:
        RESULT.print(_table(known))
    else:
        PEOPLE.print("No versions yet: the router goes on from what it learns online.")


def promote(
    version: Annotated[int, typer.Argument(min=1, help="A version of `forerun router history`.")],
    redis: RedisUrl = None,
    namespace: Namespace = "default",
    config: Config = None,
    policy: PolicyName = None,
    as_json: AsJson = False,
) -> None:
    """Put a version in charge, on all controllers, within a second or two. No request is disturbed.

    The rounds that end from then on are learnt on top of it; what was learnt until then is kept as a version.

    [cyan]forerun router promote 7 --redis redis://host:6379[/cyan]
    """

    async def put_in_charge(store: "ModelStore") -> "History":
        await store.promote(version, replacing=(await store.history()).active)
        return await store.history()

    _tell(_with_store(_place(redis, namespace, config, policy), put_in_charge), as_json=as_json)


def rollback(
    redis: RedisUrl = None,
    namespace: Namespace = "default",
    config: Config = None,
    policy: PolicyName = None,
    as_json: AsJson = False,
) -> None:
    """Put back in charge what was before the last promotion, with all that it had learnt by then.

    [cyan]forerun router rollback --redis redis://host:6379[/cyan]
    """

    async def put_back(store: "ModelStore") -> "History":
        await store.rollback(replacing=(await store.history()).active)
        return await store.history()

    _tell(_with_store(_place(redis, namespace, config, policy), put_back), as_json=as_json)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where versions are kept."""

    url: str
    namespace: str
    policy: str


def _place(redis: str | None, namespace: str, config: Path | None, policy: str | None) -> _Place:
    """What the options say.

    Raises:
        ConfigurationError: They say too little, or the configuration names no Redis.
    """
    from controller.settings import Settings
    from controller.shared_learning import DEFAULT_LEARNER, policy_to_share
    from router_models.catalogue import all_policies

    if (redis is None) is (config is None):
        raise ConfigurationError("--redis", "say where the versions are: either --redis URL or --config FILE")
    if redis is not None:
        return _Place(redis, namespace, policy or DEFAULT_LEARNER)
    assert config is not None
    settings = Settings.load(config)
    if settings.redis is None:
        raise ConfigurationError(str(config), "redis: is missing; without it nothing is kept")
    shared = policy_to_share(all_policies(), settings.router.policy)
    name = policy or (shared.name if shared is not None else DEFAULT_LEARNER)
    return _Place(settings.redis.url, settings.redis.namespace, name)


def _with_store(place: _Place, work: Callable[["ModelStore"], Awaitable[Result]]) -> Result:
    async def working() -> Result:
        async with _store(place) as store:
            return await work(store)

    return asyncio.run(working())


@asynccontextmanager
async def _store(place: _Place) -> AsyncIterator["ModelStore"]:
    from redis.exceptions import RedisError

    from controller.embedded_redis import SCHEME, embedded_redis
    from controller.event_log import redis_client
    from controller.model_store import ModelStore

    make_policy = partial(_policy, place.policy)
    make_policy()  # a name that is none is refused before anything is connected
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
            yield ModelStore(redis, namespace=place.namespace, make_policy=make_policy)
        except (RedisError, OSError) as error:
            raise ConfigurationError("--redis", f"cannot be used: {error}") from error


def _policy(name: str) -> "LearningPolicy":
    from controller.shared_learning import learner_named
    from router_models.catalogue import all_policies

    return learner_named(name, all_policies())


def _tell(now: "History", *, as_json: bool) -> None:
    if as_json:
        emit({"active": now.active, "before": now.before})
        return
    back = f"; `forerun router rollback` brings back version {now.before}" if now.before else ""
    RESULT.print(f"version {now.active} is in charge{back}")


def _table(known: "History") -> Table:
    table = Table("version", "", "made", "origin", "from", "bytes", "evaluation")
    for version in known.versions:
        table.add_row(
            str(version.version),
            {known.active: "in charge", known.before: "before"}.get(version.version, ""),
            datetime.fromtimestamp(version.created_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            version.origin.value,
            str(version.parent or ""),
            f"{version.num_bytes:,}",
            _evaluation(version),
        )
    return table


def _evaluation(version: "ModelVersion") -> str:
    return ", ".join(f"{name} {value}" for name, value in version.evaluation.items())


app = typer.Typer(name="router", no_args_is_help=True, help="What the router has learnt: versions, and which is used.")
add_to(app)
