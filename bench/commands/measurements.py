"""Measurements of a fleet that is started for the purpose."""

import os
from typing import Annotated

import typer

from bench.commands.options import (
    DEFAULT_SEED,
    HELD_FOR_TUNING,
    SPECIALISTS,
    AsJson,
    Cost,
    Output,
    Prompts,
    Quick,
    Seed,
    Tokens,
)
from bench.commands.reporting import report_fleet
from forerun.console import FAILURE
from forerun.workload import PLAIN_DOMAINS, PROMPT_SETS, tasks
from worker.settings import Dtype


def exactness(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "plain",
    dtype: Annotated[Dtype, typer.Option(help="Number format of the models.")] = "float32",
    exact: Annotated[bool, typer.Option("--exact", help="Serve a target in bfloat16 bit for bit.")] = False,
    tensor_parallel: Annotated[int, typer.Option(min=1, help="Ranks among which the target is parted.")] = 1,
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Compare answers, token for token, with transformers and with plain decoding; in bfloat16 with the latter alone.

    Every prompt set under every policy, greedily and sampled, one request and eight at a time; and eight at a time
    while models are promoted and taken back and the configuration is changed. The exit status is 1 if any answer
    differs.

    [cyan]forerun bench exactness --prompts 20 --tokens 96 --json[/cyan]

    [cyan]forerun bench exactness --dtype bfloat16 --exact[/cyan]
    """
    from functools import partial

    from bench.exactness import by_plain_decoding, by_transformers, measure_exactness
    from forerun.local_fleet import ALL_DRAFTERS

    work = tasks(PROMPT_SETS, prompts or (1 if quick else 6), skip=HELD_FOR_TUNING)
    figures = report_fleet(
        partial(measure_exactness, judge=by_transformers if dtype == "float32" else by_plain_decoding),
        work=work,
        tokens=tokens or (16 if quick else 48),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
        output=output,
        fleet={"dtype": dtype, "exact": exact, "tensor_parallel": tensor_parallel},
    )
    if figures[0].value:
        raise typer.Exit(FAILURE)


def speed(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure tokens a second of the planner and of static speculation against plain decoding, and of shared noise.

    One request at a time, variants in turn prompt by prompt; medians with 95% intervals. The planner answers all prompt
    sets, greedily, after learning from 60 other prompts; static and shared noise (at T = 1) the four plain domains.

    [cyan]forerun bench speed --json[/cyan]
    """
    from functools import partial

    from bench.speed import PLANNER_GOALS, measure_speed
    from forerun.local_fleet import ALL_DRAFTERS

    report_fleet(
        partial(measure_speed, lessons=tasks(PROMPT_SETS, 1 if quick else 10), planner_goal=PLANNER_GOALS.get(profile)),
        work=tasks(PROMPT_SETS, prompts or (1 if quick else 8), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 80),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
        output=output,
    )


def chains(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure chains of several lengths against plain decoding, on prompts that no other bench uses.

    [cyan]forerun bench chains --prompts 4[/cyan]
    """
    from bench.speed import measure_chains

    report_fleet(
        measure_chains,
        work=tasks(PLAIN_DOMAINS, min(prompts or (1 if quick else 6), HELD_FOR_TUNING)),
        tokens=tokens or (24 if quick else 80),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
        output=output,
    )


def ahead(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure what drafting ahead brings: the same plan with it and without, in turn prompt by prompt.

    It needs a processor for each of target and drafter; on a busy machine drafters leave it, and it brings nothing.

    [cyan]forerun bench ahead --json[/cyan]
    """
    from bench.ahead import measure_ahead

    report_fleet(
        measure_ahead,
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 6), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 64),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
        output=output,
    )


def edits(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure what a drafter without a model brings where answers copy their prompts: the planner with it and without.

    Greedily and at T = 1, in turn prompt by prompt, after a dozen prompts in which the planner meets all drafters.

    [cyan]forerun bench edits --json[/cyan]
    """
    from functools import partial

    from bench.edits import measure_edits
    from forerun.local_fleet import ALL_DRAFTERS

    report_fleet(
        partial(measure_edits, warm_up=tasks(("edit",), 12)),
        work=tasks(("edit",), prompts or (2 if quick else 16), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 96),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
        output=output,
    )


def overhead(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure what the controller and the wire add to a round, beyond the workers' own time.

    Then how many rounds a second the controller alone sustains on one core: it serves 32 streams by simulated workers.

    [cyan]forerun bench overhead --json[/cyan]
    """
    from functools import partial

    from bench.overhead import measure_overhead
    from bench.rounds_per_second import measure_rounds_per_second

    report_fleet(
        measure_overhead,
        alone=partial(measure_rounds_per_second, windows=2 if quick else 6, window_s=2.0 if quick else 5.0),
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 8), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 80),
        profile=profile,
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
        output=output,
    )


def rules(
    prompts: Prompts = None,
    tokens: Tokens = None,
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure tokens a round at T = 1 by rule of acceptance: shared noise, top-k trees without it, rejection sampling.

    Sixteen nodes each, the four plain domains, the right drafter. Ours and rejection both have the tree that is best.

    [cyan]forerun bench rules --json[/cyan]
    """
    from bench.rules import measure_rules

    report_fleet(
        measure_rules,
        work=tasks(PLAIN_DOMAINS, prompts or (2 if quick else 12), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 64),
        profile="plain",
        drafters=SPECIALISTS,
        seed=seed,
        as_json=as_json,
        output=output,
    )


def peers(
    prompts: Prompts = None,
    tokens: Tokens = None,
    profile: Cost = "deep",
    quick: Quick = False,
    seed: Seed = DEFAULT_SEED,
    as_json: AsJson = False,
    output: Output = None,
) -> None:
    """Measure the planner against transformers and llama.cpp, plain and drafting, on the same weights.

    Greedily, one request at a time, all prompt sets, in turn prompt by prompt. Each peer has the drafter, length and
    schedule that turn out best on each set; the planner has learnt from 60 other prompts. llama.cpp is left out unless
    [cyan]make llama-server[/cyan] has built its server or LLAMA_SERVER names one.

    [cyan]forerun bench peers --json[/cyan]
    """
    from functools import partial

    from bench.peers import measure_peers
    from forerun.local_fleet import ALL_DRAFTERS

    report_fleet(
        partial(measure_peers, warm_up=tasks(PROMPT_SETS, 1 if quick else 10), cores=os.cpu_count() or 1),
        work=tasks(PROMPT_SETS, prompts or (1 if quick else 6), skip=HELD_FOR_TUNING),
        tokens=tokens or (24 if quick else 64),
        profile=profile,
        drafters=ALL_DRAFTERS,
        seed=seed,
        as_json=as_json,
        output=output,
    )
