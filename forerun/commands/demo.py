"""`forerun demo`: a fleet of real models and a mixed workload, with a live table."""

import asyncio
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forerun.commands.profile import Profile, target_in_words, target_of
from forerun.console import FAILURE, PEOPLE, RESULT, emit
from forerun.workload import PROMPT_SETS, tasks

if TYPE_CHECKING:
    from forerun.local_fleet import FleetSettings

ALL_DRAFTERS = "code,docs,math,json,mixed"


def demo(
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    drafters: Annotated[str, typer.Option(help="Drafters to start, by commas.")] = ALL_DRAFTERS,
    prompts: Annotated[int, typer.Option(min=1, max=200, help="Prompts of each of the six sets.")] = 2,
    tokens: Annotated[int, typer.Option(min=1, help="Most tokens of an answer.")] = 48,
    as_json: Annotated[bool, typer.Option("--json", help="The results as one line of JSON.")] = False,
) -> None:
    """Start a fleet of real models and watch it generate code, documentation, arithmetic and JSON.

    Every answer is generated under several policies and compared, token for token, with plain decoding and with
    transformers. The exit status is 1 if any of them differs.

    [cyan]forerun demo[/cyan]

    [cyan]forerun demo --prompts 6 --tokens 96 --json[/cyan]
    """
    from forerun.commands.fleet_options import drafters_of
    from forerun.local_fleet import FREE_PORT, FleetSettings

    settings = FleetSettings(target=target_of(profile), drafters=drafters_of(drafters), listen=FREE_PORT)
    folder = Path(tempfile.mkdtemp(prefix="forerun-demo-"))
    identical = asyncio.run(_demo(settings, folder, profile, prompts, tokens, as_json=as_json))
    # Only now: whoever was told of a log must find it.
    shutil.rmtree(folder, ignore_errors=True)
    if not identical:
        raise typer.Exit(FAILURE)


async def _demo(
    settings: "FleetSettings", folder: Path, profile: Profile, prompts: int, tokens: int, *, as_json: bool
) -> bool:
    from forerun.client import AsyncClient
    from forerun.demo import POLICIES, Board, ask_transformers, result, run_workload, warm_up
    from forerun.demo_screen import DemoScreen, final_table, verdict
    from forerun.fleet_screen import shown_fleet

    began = time.perf_counter()
    board, work = Board(), tasks(PROMPT_SETS, prompts)
    async with shown_fleet(settings, folder) as fleet, AsyncClient(fleet.address) as client:
        started = time.perf_counter()
        PEOPLE.print(f"{len(fleet.processes)} processes, {target_in_words(profile)}")
        with DemoScreen(board, POLICIES, total=len(work) * len(POLICIES)) as screen:
            await warm_up(client, work, POLICIES)
            await run_workload(
                client, work, board, max_new_tokens=tokens, progress=lambda run: screen.show(run.answer.text)
            )
        with PEOPLE.status("asking transformers for the same answers"):
            asked = await ask_transformers(
                board, work, fleet.target_folder, max_new_tokens=tokens, progress=lambda: None
            )
    if as_json:
        seconds = {"start": round(started - began, 1), "all": round(time.perf_counter() - began, 1)}
        emit(
            {
                **result(board, PROMPT_SETS, POLICIES),
                "transformers_asked": asked,
                "target": target_in_words(profile),
                "seconds": seconds,
            }
        )
    else:
        RESULT.print(final_table(board, POLICIES))
        RESULT.print(verdict(board, asked, len(work)))
    return not board.differences
