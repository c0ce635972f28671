"""Hostile requests."""

import os
from typing import Annotated

import typer

from bench.commands.options import DEFAULT_SEED, AsJson, Output, Seed
from forerun.console import FAILURE


def fuzz(
    requests: Annotated[int, typer.Option(min=1, help="Hostile requests in all.")] = 10_000,
    only: Annotated[
        list[str] | None, typer.Option(help="One way in; may be repeated: controller, gateway, openapi, ...")
    ] = None,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Send a fleet malformed and hostile requests over gRPC and HTTP, with all kinds of tokens and none.

    After every 200 it must be what it was: the same processes, the same text, nothing left open. What another tenant
    said must be in no answer; every answer must have a proper status, and come in time. The exit status is 1 if
    anything failed; the shortest request after which it did is shown. Needs hypothesis and schemathesis.

    [cyan]forerun bench fuzz --json[/cyan]

    [cyan]forerun bench fuzz --only controller --requests 2000 --seed 1[/cyan]
    """
    import asyncio

    from bench.fuzz.run import measure_fuzz
    from bench.runs.report import Report

    load_before = os.getloadavg()[0]
    figures = asyncio.run(measure_fuzz(requests=requests, seed=seed, only=only or ()))
    Report(figures=figures, seed=seed, load_before=load_before).show(as_json=as_json, output=output)
    if any(figure.reached is False for figure in figures):
        raise typer.Exit(FAILURE)
