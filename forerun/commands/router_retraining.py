"""`forerun router export | retrain | evaluate`: from the log to a better start, if it is one."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from forerun.commands.redis_place import (
    AsJson,
    Config,
    Namespace,
    Place,
    RedisUrl,
    connected,
    place_of,
    policy_named,
    store_in,
)
from forerun.console import FAILURE, PEOPLE, RESULT, emit, plain
from speculation.errors import ConfigurationError

if TYPE_CHECKING:
    from controller.log_folder import Manifest
    from controller.model_store import ModelStore
    from forerun.retraining import Trial

Result = TypeVar("Result")

Folder = Annotated[Path, typer.Argument(help="Of an exported log.")]
HoldOut = Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the requests, the latest, to test on.")]
ReportFolder = Annotated[Path | None, typer.Option("--report", help="Write tables and plots to this folder.")]
Time = Annotated[str | None, typer.Option(metavar="TIME", help="ISO 8601; UTC unless it says otherwise.")]
Learner = Annotated[str, typer.Option(help="A policy that learns.")]
Seed = Annotated[int, typer.Option(help="Of the bootstrap.")]


def add_to(app: typer.Typer) -> None:
    """Offer the commands."""
    for command in (export, retrain, evaluate):
        app.command(command.__name__)(command)


def export(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    redis: RedisUrl = None,
    namespace: Namespace = "default",
    config: Config = None,
    since: Time = None,
    until: Time = None,
    as_json: AsJson = False,
) -> None:
    """Write the decision log to Parquet files, one a stream, with a manifest. The log itself is not touched.

    The columns are described in docs/retraining.md, and in the files themselves. The log holds what was asked and
    answered, as tokens: keep the folder as you would keep the texts.

    [cyan]forerun router export log --redis redis://host:6379[/cyan]

    [cyan]forerun router export log --config controller.yaml --since 2026-11-01 --until 2026-11-08T12:00[/cyan]
    """
    place = place_of(redis, namespace, config)
    manifest = asyncio.run(_export(place, folder, _milliseconds("--since", since), _milliseconds("--until", until)))
    if as_json:
        emit(manifest)
        return
    for stream, part in manifest.parts.items():
        lost = part.trimmed + part.dropped
        missing = f"; {lost} more are lost: trimmed by Redis, or dropped by a controller" if lost else ""
        RESULT.print(f"{part.rows} {stream}{missing}")


def retrain(
    folder: Folder,
    redis: RedisUrl = None,
    namespace: Namespace = "default",
    config: Config = None,
    policy: Learner = "planner",
    hold_out: HoldOut = 0.2,
    promote: Annotated[bool, typer.Option("--promote", help="Put it in charge if it wins.")] = False,
    report: ReportFolder = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Learn afresh from an exported log, and keep the model as a new version if it beats the one in charge.

    It learns from the earlier requests and is tested on the latest, which it has not seen, against the version that is
    in charge now, or a router that has learnt nothing. A model that is not surely faster is not kept: exit status 1.

    [cyan]forerun router retrain log --redis redis://host:6379[/cyan]

    [cyan]forerun router retrain log --config controller.yaml --promote --report report[/cyan]
    """
    from forerun import retraining

    place = place_of(redis, namespace, config, policy)
    make = partial(policy_named, policy)
    incumbent = _with_store(place, retraining.in_charge)
    history = retraining.read(folder)
    cut = retraining.split(history, hold_out)
    candidate = retraining.trained(make, cut)
    trial = retraining.tried(history, cut, make, candidate, incumbent, seed=seed, curve=report is not None)
    version = 0
    if trial.evaluation.wins:
        kept = _with_store(place, lambda store: retraining.publish(store, candidate, incumbent, trial, promote=promote))
        version = kept.version
    _tell(trial, report, as_json=as_json, version=version, promoted=promote and version > 0)
    if not version:
        if not as_json:
            PEOPLE.print(f"Not kept: {trial.evaluation.objection}.")
        raise typer.Exit(FAILURE)
    if not as_json:
        end = "is in charge" if promote else f"is kept; `forerun router promote {version}` puts it in charge"
        RESULT.print(f"version {version} {end}")


def evaluate(
    folder: Folder,
    version: Annotated[int | None, typer.Option(min=1, help="Which.", show_default="the one in charge")] = None,
    redis: RedisUrl = None,
    namespace: Namespace = "default",
    config: Config = None,
    policy: Learner = "planner",
    hold_out: HoldOut = 0.2,
    report: ReportFolder = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Hold a version against the one in charge on the latest requests of a log; changes nothing.

    The version in charge itself is held against a router that has learnt nothing.

    [cyan]forerun router evaluate log --version 7 --redis redis://host:6379[/cyan]
    """
    from forerun import retraining

    async def contenders(store: "ModelStore") -> "tuple[retraining.Trained, retraining.Trained]":
        active = await retraining.in_charge(store)
        wanted = await retraining.kept(store, version) if version is not None else active
        return wanted, retraining.Trained() if wanted.number == active.number else active

    candidate, incumbent = _with_store(place_of(redis, namespace, config, policy), contenders)
    if not candidate.number:
        raise ConfigurationError("--version", f"no version of {policy} is in charge; name one of `router history`")
    history = retraining.read(folder)
    cut = retraining.split(history, hold_out)
    trial = retraining.tried(
        history, cut, partial(policy_named, policy), candidate, incumbent, seed=seed, curve=report is not None
    )
    _tell(trial, report, as_json=as_json, version=candidate.number, promoted=False)


async def _export(place: Place, folder: Path, since_ms: int | None, until_ms: int | None) -> "Manifest":
    from controller.log_export import count_entries, export_log
    from forerun.progress import steps

    async with connected(place) as redis:
        with steps("exporting", await count_entries(redis, place.namespace)) as step:
            return await export_log(redis, place.namespace, folder, since_ms=since_ms, until_ms=until_ms, step=step)


def _milliseconds(option: str, time: str | None) -> int | None:
    """Unix time of an ISO time; raises ConfigurationError if it is none."""
    if time is None:
        return None
    try:
        moment = datetime.fromisoformat(time)
    except ValueError:
        raise ConfigurationError(option, f"{time!r} is no time like 2026-11-08 or 2026-11-08T12:00+01:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _with_store(place: Place, work: "Callable[[ModelStore], Awaitable[Result]]") -> Result:
    async def working() -> Result:
        async with connected(place) as redis:
            return await work(await store_in(redis, place))

    return asyncio.run(working())


def _tell(trial: "Trial", report: Path | None, *, as_json: bool, version: int, promoted: bool) -> None:
    from forerun.retraining_report import as_values, tables, write

    if report is not None:
        write(trial, report)
        PEOPLE.print(f"The report is in {report}.")
    if as_json:
        about: dict[str, Any] = {"version": version or None, "promoted": promoted}
        emit(about | plain(as_values(trial)))
        return
    for remark in trial.remarks:
        PEOPLE.print(f"[yellow]{remark}[/yellow]")
    for table in tables(trial):
        PEOPLE.print(table)
