"""`python -m bench`, which is what `forerun bench` runs: the measurements behind the README's numbers."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from forerun.commands.profile import Profile
from forerun.console import FAILURE, run_commands
from forerun.workload import PLAIN_DOMAINS, PROMPT_SETS, Task, tasks

if TYPE_CHECKING:
    from bench.figures import Figure
    from bench.fleet import Bench

app = typer.Typer(
    name="forerun bench",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Measure a fleet that is started for the purpose, with the models of the zoo.

With [cyan]--json[/cyan] the last line of stdout is {"figures": [...], "machine": ..., "commit": ..., "seed": ...}.""",
)

SEED = 20261122
HELD_FOR_TUNING = 20
"""Prompts of each set at its beginning that benches leave to those who tune shapes and thresholds."""

SPECIALISTS = {name: f"zoo:{name}" for name in PLAIN_DOMAINS}

AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few and short answers: to see that it works.")]
Prompts = Annotated[int | None, typer.Option(min=1, max=180, help="Prompts of each set.", show_default=False)]
Tokens = Annotated[int | None, typer.Option(min=2, help="Most tokens of an answer.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Of sampled answers and of the resampling.")]


class Measure(Protocol):
    """One bench: figures from a fleet and tasks."""

    async def __call__(
        self, bench: "Bench", tasks: Sequence[Task], /, *, max_new_tokens: int, seed: int
    ) -> "tuple[Figure, ...]":
        """Measure."""


@app.command()
def exactness(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "plain",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Compare answers, token for token, with transformers and with plain decoding.

    Every prompt set under every policy, greedily and sampled, one request and eight at a time; and eight at a time
    while models are promoted and taken back and the configuration is changed. The exit status is 1 if any answer
    differs.

    [cyan]forerun bench exactness --prompts 20 --tokens 96 --json[/cyan]
    """
    from bench.exactness import measure_exactness
    from forerun.local_fleet import ALL_DRAFTERS

    work = tasks(PROMPT_SETS, prompts or (1 if quick else 6), skip=HELD_FOR_TUNING)
    figures = _report(
        measure_exactness,
        work=work,
        tokens=tokens or (16 if quick else 48),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
    )
    if figures[0].value:
        raise typer.Exit(FAILURE)


@app.command()
def speed(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure tokens a second of static speculation against plain decoding, and what shared noise brings at T = 1.

    One request at a time, the four plain domains, variants in turn prompt by prompt; medians with 95% intervals.

    [cyan]forerun bench speed --json[/cyan]
    """
    from bench.speed import measure_speed

    _report(
        measure_speed,
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 12), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 80),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def chains(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure chains of several lengths against plain decoding, on prompts that no other bench uses.

    [cyan]forerun bench chains --prompts 4[/cyan]
    """
    from bench.speed import measure_chains

    _report(
        measure_chains,
        work=tasks(PLAIN_DOMAINS, min(prompts or (1 if quick else 6), HELD_FOR_TUNING)),
        tokens=tokens or (24 if quick else 80),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def ahead(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure what drafting ahead brings: the same plan with it and without, in turn prompt by prompt.

    It needs a processor for each of target and drafter; on a busy machine drafters leave it, and it brings nothing.

    [cyan]forerun bench ahead --json[/cyan]
    """
    from bench.ahead import measure_ahead

    _report(
        measure_ahead,
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 6), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 64),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def edits(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure what a drafter without a model brings where answers copy their prompts: the planner with it and without.

    Greedily and at T = 1, in turn prompt by prompt, after a dozen prompts in which the planner meets all drafters.

    [cyan]forerun bench edits --json[/cyan]
    """
    from functools import partial

    from bench.edits import measure_edits
    from forerun.local_fleet import ALL_DRAFTERS

    _report(
        partial(measure_edits, warm_up=tasks(("edit",), 12)),
        work=tasks(("edit",), prompts or (2 if quick else 16), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 96),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def overhead(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure what the controller and the wire add to a round, beyond the workers' own time.

    [cyan]forerun bench overhead --json[/cyan]
    """
    from bench.overhead import measure_overhead

    _report(
        measure_overhead,
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 8), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 80),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def rules(
    prompts: Prompts = None,
    tokens: Tokens = None,
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure tokens a round at T = 1 by rule of acceptance: shared noise, top-k trees without it, rejection sampling.

    Sixteen nodes each, the four plain domains, the right drafter. Rejection has the tree that turns out best.

    [cyan]forerun bench rules --json[/cyan]
    """
    from bench.rules import measure_rules

    _report(
        measure_rules,
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 12), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 64),
        profile="plain",
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def peers(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Measure the planner against transformers' generate, assisted generation and prompt lookup, on the same weights.

    Greedily, one request at a time, all prompt sets, in turn prompt by prompt. Each peer has the drafter, length and
    schedule that turn out best on each set; the planner has learnt from 60 other prompts.

    [cyan]forerun bench peers --json[/cyan]
    """
    from functools import partial

    from bench.peers import measure_peers
    from forerun.local_fleet import ALL_DRAFTERS

    _report(
        partial(measure_peers, warm_up=tasks(PROMPT_SETS, 1 if quick else 10), cores=os.cpu_count() or 1),
        work=tasks(PROMPT_SETS, prompts or (1 if quick else 6), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 64),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
    )


@app.command()
def router(
    recording: Annotated[
        Path | None, typer.Option(help="A file of what the models said: read if it is there, else written.")
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="A file of what rounds take: read if it is there, else written.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A folder for tables and learning curves.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Compare policies on rows of your own fleet instead.")] = None,
    live: Annotated[bool, typer.Option(help="Ask the real fleet with many streams, too.")] = True,
    profile: Annotated[Profile, typer.Option(help="What the target costs: plain, deep or wide.")] = "deep",
    quick: Quick = False,
    seed: Seed = SEED,
    as_json: AsJson = False,
) -> None:
    """Compare routing policies with an oracle, by replaying what real models drafted.

    [b]Real:[/b] the answers, every draft of every drafter at every position, which tokens are accepted, prompt
    surprisal, and [cyan]router.load_of_none[/cyan], which is served live by a fleet. [b]Replayed:[/b] time. What a
    round takes is predicted from a profile that is measured on a fleet first, with noise of the measured spread. The
    prompts recur in a long run; a policy is not told which they are.

    With [cyan]--csv FILE[/cyan] nothing is started. The file has a line for each round measured elsewhere,

    [cyan]context,arm,tokens,milliseconds[/cyan]

    where an arm is [cyan]none[/cyan] or [cyan]DRAFTER:DEPTHxBRANCHINGxBUDGET[/cyan]. Each choice of a policy draws one
    of the rows of its arm in that context. Policies that choose what has no rows are left out, and named.

    [cyan]forerun bench router --recording said.safetensors --costs took.json --report router --json[/cyan]
    """
    load_before = os.getloadavg()[0]
    figures = _router_figures(recording, costs, report, csv, live=live, profile=profile, quick=quick, seed=seed)
    from bench.figures import Report

    Report(figures=figures, seed=seed, load_before=load_before).show(as_json=as_json)


def _router_figures(
    recording: Path | None,
    costs: Path | None,
    report: Path | None,
    csv: Path | None,
    *,
    live: bool,
    profile: Profile,
    quick: bool,
    seed: int,
) -> "tuple[Figure, ...]":
    from dataclasses import replace

    from bench.router.rows import measure_rows, read_rows
    from bench.router.run import FULL, QUICK, measure_router
    from forerun.console import PEOPLE

    extent = QUICK if quick else FULL
    if csv is None:
        return measure_router(
            extent if live else replace(extent, bursts=0),
            profile=profile,
            seed=seed,
            skip=HELD_FOR_TUNING,
            recording_file=recording,
            costs_file=costs,
            report_folder=report,
        )
    seeds = range(seed, seed + extent.seeds)
    figures, remarks = measure_rows(
        read_rows(csv), warm_up=extent.warm_up, measured=extent.measured, seeds=seeds, seed=seed
    )
    for remark in remarks:
        PEOPLE.print(f"[yellow]{remark}[/yellow]")
    return figures


def _report(
    measure: Measure,
    *,
    work: Sequence[Task],
    tokens: int,
    profile: Profile,
    drafters: Mapping[str, str],
    seed: int,
    as_json: bool,
) -> "tuple[Figure, ...]":
    """Start a fleet, measure, and report the figures."""
    from bench.figures import Report
    from bench.fleet import bench_fleet

    load_before = os.getloadavg()[0]

    async def measured() -> "tuple[Figure, ...]":
        async with bench_fleet(profile, drafters) as bench:
            return await measure(bench, work, max_new_tokens=tokens, seed=seed)

    figures = asyncio.run(measured())
    Report(figures=figures, seed=seed, load_before=load_before).show(as_json=as_json)
    return figures


def main() -> None:
    """Run the command line."""
    run_commands(app)


if __name__ == "__main__":
    main()
