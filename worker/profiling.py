"""Timing an engine when it starts, so that a router need not find out what is known here."""

import time
from collections.abc import Callable

import torch

from speculation.profile import ForwardProfile
from worker.engine import Engine
from worker.scratch import Chunk

PROMPT_TOKENS, NODES = 64, 8
"""Read at once, and judged beside one token."""

REPEATS = 5
"""The shortest of so many times counts: workers that start together slow each other."""


def profile_of(engine: Engine) -> ForwardProfile:
    """What forwards of an idle engine take, after a prompt of PROMPT_TOKENS. It holds nothing afterwards."""
    slot = engine.open()
    prompt = Chunk(slot=slot, token_ids=[0] * min(PROMPT_TOKENS, engine.max_length - NODES - 1), wanted=())
    try:
        read_ms = _least_ms(engine, prompt, lambda: engine.truncate(slot, 0))
        engine.forward([prompt])
        engine.commit(slot)
        forward_ms = _least_ms(engine, Chunk(slot=slot, token_ids=[0]), lambda: engine.commit(slot, ()))
        wide_ms = _least_ms(engine, Chunk(slot=slot, token_ids=[0] * (1 + NODES)), lambda: engine.commit(slot, ()))
    finally:
        engine.close(slot)
    return ForwardProfile(
        forward_ms=forward_ms,
        node_ms=max(wide_ms - forward_ms, 0.0) / NODES,
        prompt_token_ms=read_ms / len(prompt.token_ids),
    )


def _least_ms(engine: Engine, chunk: Chunk, undo: Callable[[], None]) -> float:
    took_ns = []
    for _ in range(REPEATS):
        began_ns = time.perf_counter_ns()
        engine.forward([chunk])
        if engine.device.type == "cuda":
            torch.cuda.synchronize(engine.device)
        took_ns.append(time.perf_counter_ns() - began_ns)
        undo()
    return min(took_ns) / 1e6
