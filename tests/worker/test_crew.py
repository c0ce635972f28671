"""Threads that share a forward compute what one alone would, to the last bit; nothing goes on when one has failed."""

import threading
import time
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.architectures import served_model
from worker.crew import LEAST_TOKENS, Crew, Share, shares
from worker.engine import Chunk, Engine
from worker.step import Span


def forward_of(sizes: Sequence[int], committed: Sequence[int] | None = None) -> Share:
    """A forward of sessions with so many new tokens, all of which are wanted."""
    spans: list[Span] = []
    for size, held in zip(sizes, committed or [0] * len(sizes), strict=True):
        start = spans[-1].stop if spans else 0
        spans.append(
            Span(
                start=start,
                stop=start + size,
                first_row=1000 * len(spans),
                num_committed=held,
                positions=range(held, held + size),
                ancestry=None,
            )
        )
    total = sum(sizes)
    return Share(token_ids=list(range(total)), spans=spans, wanted=list(range(total)))


def echo(token_ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
    """A model whose logits are the tokens."""
    return torch.tensor([[token_ids[place]] for place in wanted])


@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12), threads=st.integers(1, 6), data=st.data())
def test_shares_are_the_forward_cut_between_sessions(sizes: list[int], threads: int, data: st.DataObject) -> None:
    held = data.draw(st.lists(st.integers(0, 900), min_size=len(sizes), max_size=len(sizes)))
    forward = forward_of(sizes, held)
    parts = shares(forward, threads)
    assert 1 <= len(parts) <= min(threads, len(sizes))
    assert len(parts) == 1 or min(len(part.token_ids) for part in parts) >= LEAST_TOKENS
    assert [token for part in parts for token in part.token_ids] == forward.token_ids
    assert [span.first_row for part in parts for span in part.spans] == [span.first_row for span in forward.spans]
    for part in parts:
        assert part.spans[0].start == 0
        assert part.spans[-1].stop == len(part.token_ids)
        assert [span.start for span in part.spans[1:]] == [span.stop for span in part.spans[:-1]]
        assert part.wanted == list(range(len(part.token_ids)))


def test_equal_sessions_are_shared_out_evenly() -> None:
    assert [len(part.token_ids) for part in shares(forward_of([1] * 16), 2)] == [8, 8]
    assert [len(part.token_ids) for part in shares(forward_of([9] * 8), 4)] == [18, 18, 18, 18]


def test_a_session_with_more_to_look_at_is_more_work() -> None:
    long, short = shares(forward_of([8, 8, 8, 8], [900, 0, 0, 0]), 2)
    assert (len(long.spans), len(short.spans)) == (1, 3)


@pytest.mark.parametrize("sizes", [[1] * (2 * LEAST_TOKENS - 1), [64, 1], [1, 64], [64]])
def test_no_thread_reads_all_weights_for_a_few_tokens(sizes: list[int]) -> None:
    forward = forward_of(sizes)
    assert shares(forward, 2) == [forward]


def test_logits_come_back_in_order_from_several_threads() -> None:
    names: set[str] = set()

    def model(token_ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        names.add(threading.current_thread().name)
        return echo(token_ids, spans, wanted)

    logits = Crew(3).run(model, forward_of([10] * 6))
    assert logits.flatten().tolist() == list(range(60))
    assert len(names) >= 2
    assert threading.current_thread().name in names


@pytest.mark.parametrize("failing", [0, 20])
def test_a_share_that_fails_is_told_when_all_have_ended(failing: int) -> None:
    ended: list[int] = []

    def model(token_ids: Sequence[int], spans: Sequence[Span], wanted: Sequence[int]) -> Tensor:
        if token_ids[0] == failing:
            raise RuntimeError("no memory")
        time.sleep(0.05)
        ended.append(token_ids[0])
        return echo(token_ids, spans, wanted)

    with pytest.raises(RuntimeError, match="no memory"):
        Crew(2).run(model, forward_of([10] * 4))
    assert ended == [20 - failing]


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 24), min_size=2, max_size=6), seed=st.integers(0, 2**31))
def test_an_engine_of_three_threads_has_the_bits_of_one(sizes: list[int], seed: int) -> None:
    pytest.importorskip("worker.kernels")
    generator = torch.Generator().manual_seed(seed)
    model = served_model("llama")
    alone = Engine(model, slots=6, max_length=128, check=False, prepack="on")
    shared = Engine(model, slots=6, max_length=128, check=False, session_threads=3)
    assert shared._compiled is not None
    for _ in range(2):
        texts = [torch.randint(0, alone.vocab_size, (size,), generator=generator).tolist() for size in sizes]
        answers = []
        for engine in (alone, shared):
            slots = [engine.open() for _ in sizes] if not engine._open else list(engine._open)
            answers.append(
                engine.forward([Chunk(slot=slot, token_ids=text) for slot, text in zip(slots, texts, strict=True)])
            )
            for slot in slots:
                engine.commit(slot)
        assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))
