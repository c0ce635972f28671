"""What many streams at once are served: a closed loop at several numbers of streams, then traffic that comes by itself.

Planner and plain decoding serve the same requests in turn, burst by burst. The planner learns all along, as in service.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.figures import Figure, figure
from bench.fleet import Bench
from bench.load.arrivals import Traffic, poisson_arrivals, traffic
from bench.load.asking import NONE, PLANNER, Ask, Asked, asking, fate_figures
from bench.load.peer import measure_against_llamacpp
from bench.load.streams import Burst, burst
from bench.spread import median, quantile
from forerun.progress import steps
from forerun.workload import Task

MS_PER_S = 1e3
SCALING_GOAL, SCALING_STREAMS = 2.5, 16
MOST_SECOND_REQUESTS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured.

    Attributes:
        streams: Numbers of streams, 1 the first: all others are compared with it.
        bursts: Of each variant at each number of streams.
        least_requests: Of a burst.
        shares: Rates of traffic, as shares of what a full house was served.
        arrivals: Requests at each rate.
        peer: Whether llama.cpp is measured beside us.
    """

    streams: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    bursts: int = 3
    least_requests: int = 6
    shares: tuple[float, ...] = (0.5, 0.8)
    arrivals: int = 100
    peer: bool = False

    def requests(self, streams: int) -> int:
        """Of a burst: every stream asks once, and then so many more requests are left for all of them."""
        return max(self.least_requests, streams + min(streams, MOST_SECOND_REQUESTS))


FULL = Extent()
QUICK = Extent(streams=(1, 4), bursts=1, least_requests=2, arrivals=6)

Bursts = Mapping[int, Sequence[Burst]]
Goodput = Mapping[int, Sequence[float]]
"""Both by number of streams."""


async def measure_load(
    bench: Bench, tasks: Sequence[Task], *, max_new_tokens: int, seed: int, extent: Extent = FULL
) -> tuple[Figure, ...]:
    """Goodput, time to first token and gaps by number of streams, and under traffic.

    Args:
        bench: The fleet.
        tasks: Asked in turn, every second one sampled.
        max_new_tokens: Of an answer.
        seed: Of sampled answers, arrivals and the resampling.
        extent: How much.
    """
    variants = {
        name: asking(bench.client, tasks, max_new_tokens=max_new_tokens, seed=seed, policy=name)
        for name in (NONE, PLANNER)
    }
    bursts = await closed_loop(variants, extent)
    peer: tuple[Figure, ...] = ()
    if extent.peer:
        peer = await measure_against_llamacpp(
            bench, variants[PLANNER], tasks, bursts=extent.bursts, max_new_tokens=max_new_tokens, seed=seed
        )
    flows = await _open_loop(variants[PLANNER], capacity_per_s(bursts[PLANNER]), extent, seed)
    requests = [
        asked for row in bursts.values() for several in row.values() for one in several for asked in one.requests
    ]
    requests += [asked for flow in flows.values() for asked in flow.requests]
    return (*stream_figures(bursts, seed), *peer, *traffic_figures(flows, seed), *fate_figures(requests))


async def closed_loop(variants: Mapping[str, Ask], extent: Extent) -> Mapping[str, Bursts]:
    """Bursts of every variant at every number of streams; which comes first changes from turn to turn."""
    bursts: dict[str, dict[int, list[Burst]]] = {name: {n: [] for n in extent.streams} for name in variants}
    with steps("streams", (1 + extent.bursts) * len(extent.streams)) as step:
        for turn in range(-1, extent.bursts):  # the first turn is for learning and not measured
            for streams in extent.streams[:: 1 if turn % 2 else -1]:
                for name in list(variants)[:: 1 if turn % 2 else -1]:
                    measured = await burst(variants[name], streams=streams, requests=extent.requests(streams))
                    if turn >= 0:
                        bursts[name][streams].append(measured)
                step()
    return bursts


async def _open_loop(ask: Ask, most_per_s: float, extent: Extent, seed: int) -> Mapping[float, Traffic]:
    """Traffic at each share of a rate, in requests a second."""
    flows: dict[float, Traffic] = {}
    with steps("traffic", len(extent.shares)) as step:
        for share in extent.shares:
            flows[share] = await traffic(ask, poisson_arrivals(share * most_per_s, extent.arrivals, seed=seed))
            step()
    return flows


def capacity_per_s(bursts: Bursts) -> float:
    """Requests a second that were served with as many streams as are served best."""
    return max(
        float(np.median([entry.tokens_per_s / entry.tokens_per_request for entry in row])) for row in bursts.values()
    )


def stream_figures(bursts: Mapping[str, Bursts], seed: int) -> tuple[Figure, ...]:
    """By number of streams: how goodput grows from one stream, how it compares, and how long callers wait."""
    goodput = {
        name: {streams: [entry.tokens_per_s for entry in row] for streams, row in by_streams.items()}
        for name, by_streams in bursts.items()
    }
    planner = goodput.pop(PLANNER)
    figures = list(_scaling_figures("load.scaling", planner, seed, goal=SCALING_GOAL))
    figures += _goodput_figures("load.tokens_per_s", planner, seed)
    for name, other in goodput.items():
        figures += _scaling_figures(f"load.{name}_scaling", other, seed)
        figures += _goodput_figures(f"load.{name}_tokens_per_s", other, seed)
        for streams in planner:
            ratio = median(_ratios(planner[streams], other[streams]), seed=seed)
            figures.append(figure(f"load.over_{name}_{streams}", ratio, "x"))
    for streams, row in bursts[PLANNER].items():
        requests = [asked for entry in row for asked in entry.requests]
        figures += _waiting_figures("load", f"_{streams}", requests, seed)
    return tuple(figures)


def _scaling_figures(name: str, goodput: Goodput, seed: int, goal: float | None = None) -> Iterator[Figure]:
    """Goodput of several streams over that of one, turn by turn."""
    for streams in list(goodput)[1:]:
        growth = median(_ratios(goodput[streams], goodput[1]), seed=seed)
        yield figure(f"{name}_{streams}", growth, "x", goal=goal if streams == SCALING_STREAMS else None)


def _goodput_figures(name: str, goodput: Goodput, seed: int) -> Iterator[Figure]:
    for streams, row in goodput.items():
        yield figure(f"{name}_{streams}", median(row, seed=seed), "tokens/s", digits=1)


def _ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(over, under, strict=True)]


def traffic_figures(flows: Mapping[float, Traffic], seed: int) -> tuple[Figure, ...]:
    """By share of the capacity: how long callers wait, and whether the fleet keeps up."""
    figures: list[Figure] = []
    for share, flow in flows.items():
        name = f"load.open_{100 * share:.0f}"
        figures += _waiting_figures(name, "", flow.requests, seed)
        figures.append(Figure(name=f"{name}.tokens_per_s", value=round(flow.tokens_per_s, 1), unit="tokens/s"))
        figures.append(Figure(name=f"{name}.of_offered", value=round(flow.share_of_offered, 3), unit="of the tokens"))
    return tuple(figures)


def _waiting_figures(name: str, ending: str, requests: Sequence[Asked], seed: int) -> Iterator[Figure]:
    """Milliseconds to the first token, and between deltas."""
    served = [asked for asked in requests if asked.arrivals]
    waits = {
        "ttft_ms_p50": ([asked.first_token_s for asked in served], 0.5),
        "ttft_ms_p99": ([asked.first_token_s for asked in served], 0.99),
        "gap_ms_p99": ([gap_s for asked in served for gap_s in asked.gaps_s], 0.99),
    }
    for wait, (seconds, share) in waits.items():
        if seconds:
            spread = quantile([MS_PER_S * one for one in seconds], share, seed=seed)
            yield figure(f"{name}.{wait}{ending}", spread, "ms", digits=1)
