"""A forward that several threads share, each some of its sessions: none needs anything of another one's."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from worker.step import Span

LEAST_TOKENS = 8
"""Of a share. Every thread reads all weights, which for fewer tokens is most of its work."""

KEYS_LIKE_A_TOKEN = 256
"""Keys that take about as long to look at as the products of a token: 110 to 280 for models of the zoo."""


class Share(NamedTuple):
    """Neighbouring sessions of a forward, as a model is called with them."""

    token_ids: Sequence[int]
    spans: Sequence[Span]
    wanted: Sequence[int]


Model = Callable[[Sequence[int], Sequence[Span], Sequence[int]], Tensor]


class Crew:
    """Threads that sleep between forwards; the caller's is one of them.

    Attributes:
        threads: How many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._others = ThreadPoolExecutor(max(threads - 1, 1), thread_name_prefix="forward")

    def run(self, model: Model, forward: Share) -> Tensor:
        """Logits (wanted, vocab) of a packed row, by a model that computes a row's alike whatever is beside it."""
        own, *others = shares(forward, self.threads)
        tasks = [self._others.submit(model, *share) for share in others]
        try:
            logits = model(*own)
        finally:
            wait(tasks)  # they write into slots, whatever has become of ours
        return torch.cat([logits, *(task.result() for task in tasks)]) if tasks else logits


def shares(forward: Share, threads: int) -> list[Share]:
    """A forward cut between sessions into as many shares as there are threads, about equal in work, or into fewer."""
    spans = forward.spans
    work = list(accumulate(span.num_new * (1 + span.num_keys / KEYS_LIKE_A_TOKEN) for span in spans))
    edges = [0]
    for number in range(1, threads):
        edge = _nearest(work, work[-1] * number / threads)
        if min(_num_tokens(spans[edges[-1] : edge]), _num_tokens(spans[edge:])) >= LEAST_TOKENS:
            edges.append(edge)
    return [_share(forward, first, stop) for first, stop in pairwise([*edges, len(spans)])] if edges[1:] else [forward]


def _nearest(work: Sequence[float], wanted: float) -> int:
    """How many sessions come nearest to some work."""
    return 1 + min(range(len(work)), key=lambda place: abs(work[place] - wanted))


def _num_tokens(spans: Sequence[Span]) -> int:
    return spans[-1].stop - spans[0].start if spans else 0


def _share(forward: Share, first: int, stop: int) -> Share:
    spans = forward.spans[first:stop]
    start, end = spans[0].start, spans[-1].stop
    return Share(
        token_ids=forward.token_ids[start:end],
        spans=[replace(span, start=span.start - start, stop=span.stop - start) for span in spans],
        wanted=[place - start for place in forward.wanted if start <= place < end],
    )
