"""`forerun router history | promote | rollback`: versions of what the router has learnt, straight from Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.table import Table

from forerun.commands.redis_place import (
    AsJson,
    Config,
    Namespace,
    Place,
    PolicyName,
    RedisUrl,
    connected,
    place_of,
    store_in,
)
from forerun.console import PEOPLE, RESULT, emit

if TYPE_CHECKING:
    from controller.model_store import History, ModelStore, ModelVersion

Result = TypeVar("Result")


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
    known = _with_store(place_of(redis, namespace, config, policy), lambda store: store.history())
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

    _tell(_with_store(place_of(redis, namespace, config, policy), put_in_charge), as_json=as_json)


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

    _tell(_with_store(place_of(redis, namespace, config, policy), put_back), as_json=as_json)


def _with_store(place: Place, work: Callable[["ModelStore"], Awaitable[Result]]) -> Result:
    async def working() -> Result:
        async with connected(place) as redis:
            return await work(await store_in(redis, place))

    return asyncio.run(working())


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
