"""`forerun bench fuzz`: how many hostile requests a fleet outlives, and what it should not have answered."""

import asyncio
from collections import Counter
from collections.abc import Sequence

from bench.figures import Figure, count
from bench.fuzz.campaign import Campaign, batches
from bench.fuzz.ground import ground
from bench.fuzz.judging import KINDS
from forerun.console import PEOPLE

LONGEST_REPORT = 3_000
"""Characters of a failure that are shown."""


async def measure_fuzz(*, requests: int, seed: int, only: Sequence[str] = ()) -> tuple[Figure, ...]:
    """Attack a fleet.

    Args:
        requests: How many hostile requests, at least.
        seed: Of the requests.
        only: Names of attacks; none: all.
    """
    campaign, told = Campaign(), set[tuple[str, str]]()
    async with ground() as (attacks, look):
        chosen = [attack for attack in attacks if not only or attack.name in only]
        for number, (attack, size) in enumerate(batches(chosen, requests)):
            # Hypothesis and what it calls wait with threads; the fleet's supervisor must go on.
            await asyncio.to_thread(campaign.carry_out, attack, size, seed=seed + number, look=look)
            _tell(campaign, attack.name, told)
    for (name, status), times in sorted(campaign.answered.items()):
        PEOPLE.print(f"[dim]{name}: {times} times {status}[/dim]")
    return figures_of(campaign)


def _tell(campaign: Campaign, attack: str, told: set[tuple[str, str]]) -> None:
    """How far it is, and what has gone wrong for the first time."""
    PEOPLE.print(f"[dim]{attack}: {campaign.asked[attack]} requests[/dim]")
    for key in campaign.failures.keys() - told:
        failure = campaign.failures[key]
        text = f"{failure.attack}, {failure.kind}: {failure.problem}\n  after {failure.request}"
        PEOPLE.print(text[:LONGEST_REPORT], markup=False, style="red")
    told.update(campaign.failures)


def figures_of(campaign: Campaign) -> tuple[Figure, ...]:
    """What a campaign found."""
    kinds: Counter[str] = Counter()
    for failure in campaign.failures.values():
        kinds[failure.kind] += failure.times
    return (
        count("fuzz.requests", campaign.asked.total(), "requests"),
        count("fuzz.failures", campaign.failed, "failures", goal=0, at_most=True),
        *(count(f"fuzz.{kind.kind}", kinds[kind.kind], "failures", goal=0, at_most=True) for kind in KINDS),
        *(count(f"fuzz.requests.{name}", asked, "requests") for name, asked in sorted(campaign.asked.items())),
    )
