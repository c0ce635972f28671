"""Threads that share a forward compute what one alone would, to the last bit, whatever becomes of the helpers."""

import gc
import os
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.architectures import served_model
from worker.crew import Crew
from worker.engine import Chunk, Engine
from worker.panels import PanelLinear, kept

kernels = pytest.importorskip("worker.kernels")
sharing = pytest.importorskip("worker.kernels.sharing")

PATIENCE_S = 20.0

Answers = list[torch.Tensor]


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("forward-")]


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 24), min_size=1, max_size=6), seed=st.integers(0, 2**31))
@pytest.mark.parametrize("threads", [2, 4])
def test_an_engine_of_several_threads_has_the_bits_of_one(threads: int, sizes: list[int], seed: int) -> None:
    """More threads than processors: helpers lose theirs in the middle of a share, and come back to another forward."""
    generator = torch.Generator().manual_seed(seed)
    model = served_model("llama")
    alone = Engine(model, slots=6, max_length=128, check=False, prepack="on")
    shared = Engine(model, slots=6, max_length=128, check=False, forward_threads=threads)
    for _ in range(4):
        texts = [torch.randint(0, alone.vocab_size, (size,), generator=generator).tolist() for size in sizes]
        one, other = (answers(engine, texts) for engine in (alone, shared))
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def answers(engine: Engine, texts: list[list[int]]) -> Answers:
    """Logits of texts that continue what the sessions of an engine hold."""
    slots = list(engine._open) or [engine.open() for _ in texts]
    logits = engine.forward([Chunk(slot=slot, token_ids=text) for slot, text in zip(slots, texts, strict=True)])
    for slot in slots:
        engine.commit(slot)
    return list(logits)


class Product:
    """A product of some rows, large enough to be shared."""

    def __init__(self, crew: Crew, dtype: torch.dtype = torch.float32) -> None:
        generator = torch.Generator().manual_seed(0)
        layer = nn.Linear(256, 700, dtype=dtype)
        self.crew, self.panels = crew, PanelLinear.of([layer])[0].panels
        self.rows = kept(torch.randn(9, 256, generator=generator).to(dtype))
        self.memory = np.zeros((crew.threads, 10_000), np.float32)
        self.alone = np.empty((9, 700), self.rows.dtype)
        kernels.multiply(self.rows, self.panels, self.alone)

    def is_right(self) -> bool:
        """Whether threads make of it what one makes of it."""
        products = np.zeros_like(self.alone)
        kernels.multiply_together(self.rows, self.panels, products, self.crew.control, self.memory)
        return bool((products == self.alone).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_helpers_compute_shares_and_the_leader_gathers_them(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16:
        if not kernels.MULTIPLIES_BFLOAT16:
            pytest.skip("this processor has no instruction for products of bfloat16")
        kernels.compile_for_bfloat16()
    like = np.zeros((1, 1), np.float32 if dtype == torch.float32 else np.uint16)
    crew = Crew(3, like)
    product = Product(crew, dtype)
    doers: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    while doers <= {0} and time.monotonic() < deadline:
        with crew.helping():
            time.sleep(0.001)
            assert product.is_right()
        doers |= {int(word) & 0xFFFF for word in crew.control[sharing._DONE : sharing._TASKS : sharing._LINE]}
    assert doers & {1, 2}


def test_a_share_that_is_taken_and_never_done_is_computed_again() -> None:
    """As when a helper loses its processor for good."""
    crew = Crew(2, np.zeros((1, 1), np.float32))
    product, stop, stolen = Product(crew), threading.Event(), []

    def steal() -> None:
        while not stop.is_set():
            number = int(crew.control[sharing._LAST])
            share = sharing._take(crew.control, number)
            if share >= 0:
                stolen.append((number, share))

    sharing._take(crew.control, 0)  # compiled
    thief = threading.Thread(target=steal)
    thief.start()
    deadline = time.monotonic() + PATIENCE_S
    try:
        while len(stolen) < 20 and time.monotonic() < deadline:
            assert product.is_right()
    finally:
        stop.set()
        thief.join()
    assert len(stolen) >= 20


def test_helpers_stand_back_sleep_and_end_with_their_crew() -> None:
    before = set(helpers())
    crew = Crew(3, np.zeros((1, 1), np.float32))
    assert set(helpers()) == before, "nobody has forwarded yet"
    with crew.helping():
        begun = [helper for helper in helpers() if helper not in before]
    assert len(begun) == 2
    pipes = [end for pipe in crew._pipes for end in pipe]
    deadline = time.monotonic() + PATIENCE_S
    while any(os.sched_getscheduler(helper.native_id or 0) != os.SCHED_IDLE for helper in begun):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    del crew
    gc.collect()
    while any(helper.is_alive() for helper in begun):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for end in pipes:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(end)


def test_helpers_that_never_run_hold_nobody_up() -> None:
    """Their pipes fill up."""
    crew = Crew(2, np.zeros((1, 1), np.float32))
    crew._pipes = [os.pipe()]
    os.set_blocking(crew._pipes[0][1], False)
    product = Product(crew)
    for _ in range(70_000):
        with crew.helping():
            pass
    with crew.helping():
        assert product.is_right()
    for end in crew._pipes.pop():
        os.close(end)


def test_room_grows_and_what_was_given_stays() -> None:
    crew = Crew(2, np.zeros((1, 1), np.float32))
    first = crew.room("rows", 10, np.float32)
    first[:] = 1.0
    assert crew.room("rows", 5, np.float32) is first
    second = crew.room("rows", 11, np.float32)
    assert len(second) >= 11
    assert not second.any()
    assert any(given is first for given in crew._given)
