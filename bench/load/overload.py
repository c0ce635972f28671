"""More requests than a fleet can serve: what it sustains, and what becomes of once, twice and four times as many.

Requests of three classes and several tenants come at random times, whether or not earlier ones are answered, and none
of them comes a second time. What is served of them should not fall, the most urgent should not notice, and the rest
should be told at once when to come back.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bench.figures import Figure, count, figure
from bench.fleet import Bench
from bench.load.arrivals import Traffic, poisson_arrivals, traffic
from bench.load.asking import PLANNER, Ask, Asked, Fate, ask_once
from bench.load.streams import Burst, burst, tokens_within
from bench.spread import Spread, median, quantile
from controller.settings import AdmissionSettings, LatencyClassSettings
from forerun.client import AsyncClient, Retry
from forerun.progress import steps
from forerun.workload import Task

HIGHEST, MIDDLE, LOWEST = "interactive", "standard", "batch"
SHARES = {HIGHEST: 0.1, MIDDLE: 0.5, LOWEST: 0.4}
"""Of the requests. Even at four times the load the highest class alone can be served."""

TENANTS = 4
FIRST_TOKEN_OBJECTIVE_MS = 2_000.0
"""Of the highest class, for 99 of 100."""

ADMISSION = AdmissionSettings(
    classes=(
        LatencyClassSettings(name=HIGHEST, most_wait_s=2.0),
        LatencyClassSettings(name=MIDDLE, most_wait_s=4.0, most_share=0.9),
        LatencyClassSettings(name=LOWEST, most_wait_s=8.0, most_share=0.75),
    )
)
"""Short lines, so that a minute is long enough to see what comes of them."""

GOODPUT_GOAL = 0.9
PATIENCE_S = 60.0
FILLING_S = 5.0
"""From the beginning of traffic until places and lines are as full as they will be."""

MS_PER_S = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured.

    Attributes:
        streams: Numbers of streams among which the load is looked for that the fleet sustains.
        factors: Multiples of that load.
        turns: Visits of each.
        window_s: Length of each.
    """

    streams: tuple[int, ...] = (8, 16, 24)
    factors: tuple[int, ...] = (1, 2, 4)
    turns: int = 3
    window_s: float = 20.0


FULL = Extent()
QUICK = Extent(streams=(16,), turns=1, window_s=8.0)


@dataclass(frozen=True, slots=True)
class Wish:
    """Who a request is, besides what it asks."""

    latency_class: str
    tenant: str


def wishes(how_many: int, *, seed: int) -> tuple[Wish, ...]:
    """Classes in their shares and tenants alike, at random."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(list(SHARES), size=how_many, p=list(SHARES.values()))
    tenants = rng.integers(TENANTS, size=how_many)
    return tuple(Wish(str(name), f"tenant-{number}") for name, number in zip(classes, tenants, strict=True))


def asking_as(
    client: AsyncClient, tasks: Sequence[Task], who: Sequence[Wish], *, max_new_tokens: int, seed: int
) -> Ask:
    """The tasks in turn, each as somebody."""

    async def ask(number: int) -> Asked:
        wish = who[number % len(who)]
        return await ask_once(
            client,
            tasks[number % len(tasks)].prompt,
            max_new_tokens=max_new_tokens,
            temperature=float(number % 2),
            seed=seed + number,
            policy=PLANNER,
            latency_class=wish.latency_class,
            tenant=wish.tenant,
        )

    return ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Traffic at a multiple of the load that the fleet sustains, and who the requests were."""

    flow: Traffic
    who: tuple[Wish, ...]

    @property
    def goodput(self) -> float:
        """Tokens a second of whole answers, once the lines had filled."""
        began_s, ended_s = self.flow.began_s + FILLING_S, self.flow.last_came_s
        answered = [asked for asked in self.flow.requests if asked.fate is Fate.ANSWERED]
        return tokens_within(answered, began_s, ended_s) / (ended_s - began_s)

    def of_class(self, name: str) -> list[Asked]:
        """Its requests of a class."""
        return [asked for asked, wish in zip(self.flow.requests, self.who, strict=True) if wish.latency_class == name]


Windows = Mapping[int, Sequence[Window]]
"""By multiple of the load."""


async def measure_overload(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, extent: Extent = FULL
) -> tuple[Figure, ...]:
    """Goodput, waits and refusals at multiples of the load that the fleet sustains.

    Args:
        bench: The fleet, with `ADMISSION`.
        tasks: Asked in turn, every second one sampled.
        max_new_tokens: Of an answer.
        seed: Of sampled answers, arrivals, classes and the resampling.
        extent: How much.
    """
    if bench.fleet is None:
        raise ValueError("only a fleet whose address is known can be asked without retries")
    async with AsyncClient(bench.fleet.address, timeout_s=PATIENCE_S, retry=Retry(attempts=1)) as client:

        def asks(who: Sequence[Wish]) -> Ask:
            return asking_as(client, tasks, who, max_new_tokens=max_new_tokens, seed=seed)

        bursts = await _sustained(bench, tasks, extent, max_new_tokens, seed)
        best = max(bursts, key=lambda one: one.tokens_per_s)
        rate_per_s = best.tokens_per_s / best.tokens_per_request
        windows = await _windows(asks, rate_per_s, extent, seed)
    return (
        Figure(name="overload.sustained_requests_per_s", value=round(rate_per_s, 2), unit="requests/s"),
        Figure(name="overload.sustained_tokens_per_s", value=round(best.tokens_per_s, 1), unit="tokens/s"),
        *overload_figures(windows, best.tokens_per_s, seed),
    )


async def _sustained(
    bench: Bench, tasks: Sequence[Task], extent: Extent, max_new_tokens: int, seed: int
) -> Sequence[Burst]:
    """What streams that wait for their answers are served; the first burst is for learning, and left out. Their client
    waits out refusals: more streams than places must not look like less work."""
    who = wishes(1000, seed=seed)
    ask = asking_as(bench.client, tasks, who, max_new_tokens=max_new_tokens, seed=seed)
    order = (extent.streams[-1], *extent.streams)
    with steps("what it sustains", len(order)) as step:
        bursts = []
        for streams in order:
            bursts.append(await burst(ask, streams=streams, requests=2 * streams))
            step()
    return bursts[1:]


async def _windows(asks: Callable[[Sequence[Wish]], Ask], rate_per_s: float, extent: Extent, seed: int) -> Windows:
    """Traffic at each multiple, turn by turn, forth and back."""
    windows: dict[int, list[Window]] = {factor: [] for factor in extent.factors}
    with steps("overload", extent.turns * len(extent.factors)) as step:
        for turn in range(extent.turns):
            for factor in extent.factors[:: -1 if turn % 2 else 1]:
                rate = factor * rate_per_s
                how_many = max(2, round(rate * extent.window_s))
                drawn = seed + 1000 * turn + factor
                who = wishes(how_many, seed=drawn)
                flow = await traffic(asks(who), poisson_arrivals(rate, how_many, seed=drawn))
                windows[factor].append(Window(flow=flow, who=who))
                step()
    return windows


def overload_figures(windows: Windows, sustained_tokens_per_s: float, seed: int) -> tuple[Figure, ...]:
    """What was served at each multiple, how long the highest class waited, and how the others were told to go."""
    return (
        figure("overload.goodput", _kept(windows, sustained_tokens_per_s, seed), "x", goal=GOODPUT_GOAL),
        *_served(windows, seed),
        *_highest_class(windows, seed),
        *_refusals(windows, seed),
    )


def _kept(windows: Windows, sustained_tokens_per_s: float, seed: int) -> Spread:
    """Goodput at the highest load over the peak: the best of what the same turn, and streams before it, were served."""
    most = max(windows)
    ratios = []
    for turn, window in enumerate(windows[most]):
        others = [row[turn].goodput for factor, row in windows.items() if factor != most]
        ratios.append(window.goodput / max(sustained_tokens_per_s, *others))
    return median(ratios, seed=seed)


def _served(windows: Windows, seed: int) -> Iterator[Figure]:
    for factor, row in windows.items():
        goodput = median([window.goodput for window in row], seed=seed)
        yield figure(f"overload.tokens_per_s_{factor}x", goodput, "tokens/s", digits=1)
        for name in SHARES:
            requests = [asked for window in row for asked in window.of_class(name)]
            answered = fmean(asked.fate is Fate.ANSWERED for asked in requests) if requests else 1.0
            yield Figure(name=f"overload.answered_{factor}x.{name}", value=round(answered, 3), unit="of the requests")


def _highest_class(windows: Windows, seed: int) -> Iterator[Figure]:
    for factor, row in windows.items():
        answered = [asked for window in row for asked in window.of_class(HIGHEST) if asked.arrivals]
        if answered:
            waits_ms = [MS_PER_S * asked.first_token_s for asked in answered]
            yield figure(
                f"overload.highest_class_first_token_ms_p99_{factor}x",
                quantile(waits_ms, 0.99, seed=seed),
                "ms",
                goal=FIRST_TOKEN_OBJECTIVE_MS if factor == max(windows) else None,
                at_most=factor == max(windows),
                digits=1,
            )


def _refusals(windows: Windows, seed: int) -> Iterator[Figure]:
    """At the highest load how fast refusals came; of all loads whether each said when to call again."""
    everybody = [asked for row in windows.values() for window in row for asked in window.flow.requests]
    refused = [asked.refusal for asked in everybody if asked.refusal is not None]
    most = [asked for window in windows[max(windows)] for asked in window.flow.requests if asked.refusal is not None]
    on_arrival = [
        asked for asked in most if asked.refusal and asked.refusal.metadata.get("cause") in ("hopeless", "full")
    ]
    if most:
        share = len(on_arrival) / len(most)
        yield Figure(name="overload.refused_on_arrival", value=round(share, 3), unit="of the refusals")
    if on_arrival:
        took_ms = [MS_PER_S * (asked.ended_s - asked.asked_s) for asked in on_arrival]
        for name, quota in (("p50", 0.5), ("p99", 0.99)):
            yield figure(f"overload.refused_ms_{name}", quantile(took_ms, quota, seed=seed), "ms", digits=2)
    without = sum(not error.retry_after_s for error in refused)
    yield count("overload.refused_without_a_time", without, "requests", goal=0, at_most=True)
    yield count("overload.refused", len(refused), "requests")
    dropped = sum(asked.fate is Fate.DROPPED for asked in everybody)
    yield count("overload.dropped", dropped, "requests", goal=0, at_most=True)
    yield count("overload.requests", len(everybody), "requests")
