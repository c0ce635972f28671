"""How near is a verification to what the device's memory allows?

Reading every weight once, and the keys and values of the context, is the least that any forward can do: the floor is
these bytes over the bandwidth that a copy within the device's memory reaches.
"""

import time
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from bench.figures import Figure, figure
from bench.gpu.models import ROOM, Sizes, bytes_of_a_forward
from bench.spread import median
from forerun.progress import steps
from worker.engine import Chunk, Engine
from worker.sessions import SLICE

NODES = (1, 16, 64)
MOST_NODES_JUDGED = 16
WARM_UP = 3
GB = 1e9
MS_PER_S = 1e3


def verify_figures(model: PreTrainedModel, sizes: Sizes, seed: int) -> tuple[Figure, ...]:
    """The bandwidth, and the time of every number of nodes at every context, in turn."""
    device = str(model.device)
    rates = [_bandwidth(sizes.copied, device) for _ in range(WARM_UP + sizes.repeats)][WARM_UP:]
    bandwidth = median([rate / GB for rate in rates], seed=seed)
    engine = Engine(model, slots=len(sizes.contexts), max_length=max(sizes.contexts) + ROOM)
    slots = {context: _filled(engine, context) for context in sizes.contexts}
    took: dict[tuple[int, int], list[float]] = {(nodes, context): [] for nodes in NODES for context in sizes.contexts}
    with steps("verifications", WARM_UP + sizes.repeats) as step:
        for _ in range(WARM_UP + sizes.repeats):
            for (nodes, context), seconds in took.items():
                seconds.append(_verify_seconds(engine, slots[context], nodes))
            step()
    found = [figure("gpu.bandwidth", bandwidth, "GB/s", digits=1)]
    for (nodes, context), seconds in took.items():
        took_ms, place = [MS_PER_S * value for value in seconds[WARM_UP:]], f"nodes_{nodes}.context_{context}"
        floor_ms = MS_PER_S * bytes_of_a_forward(model, context) / (GB * bandwidth.value)
        goal = sizes.goal if nodes <= MOST_NODES_JUDGED else None
        over = median([value / floor_ms for value in took_ms], seed=seed)
        found.append(figure(f"gpu.verify_ms.{place}", median(took_ms, seed=seed), "ms"))
        found.append(figure(f"gpu.verify_over_floor.{place}", over, "x", goal=goal, at_most=True))
    return tuple(found)


def random_tokens(engine: Engine, number: int) -> list[int]:
    """Of the model's vocabulary."""
    drawn: list[int] = torch.randint(engine.vocab_size, (number,)).tolist()
    return drawn


def _bandwidth(num_bytes: int, device: str) -> float:
    """Bytes a second of a copy within the device's memory: each is read and written."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / _seconds(lambda: target.copy_(source), device)


def _seconds(act: Callable[[], object], device: str) -> float:
    _wait_for(device)
    began = time.perf_counter()
    act()
    _wait_for(device)
    return time.perf_counter() - began


def _wait_for(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _filled(engine: Engine, context: int) -> int:
    """A slot that holds so many tokens."""
    slot = engine.open()
    for start in range(0, context, SLICE):
        engine.forward([Chunk(slot=slot, token_ids=random_tokens(engine, min(SLICE, context - start)), wanted=())])
        engine.commit(slot)
    return slot


def _verify_seconds(engine: Engine, slot: int, nodes: int) -> float:
    """Of a tree of two branches a node, its root included, until its tokens are known here; the slot stays as it is."""
    chunk = Chunk(slot=slot, token_ids=random_tokens(engine, nodes), parents=[(node - 1) // 2 for node in range(nodes)])
    seconds = _seconds(lambda: engine.forward([chunk])[0].argmax(dim=-1).tolist(), str(engine.device))
    engine.commit(slot, ())
    return seconds
