"""Each kind of fault once, against real processes; and what the suite itself is made of."""

import asyncio
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from bench.faults.frames import DATA, END_STREAM, RESET, Frame, Messages, frames_of, read_frame
from bench.faults.records import Kept, kept
from bench.faults.run import measure_faults, possible_kinds, trials
from bench.faults.steps import Kind, Step, request_of, step_of
from bench.faults.tampering import corrupted, mistold
from forerun.workload import PROMPT_SETS, tasks
from speculation.v1 import common_pb2, log_pb2, verify_pb2
from tests.end_to_end.processes import redis_server

MUST_BE_NONE = ("differences", "leaks", "uncounted", "failures", "unrecovered", "unstruck")


SOON_OVER = (Kind.KILL, Kind.CORRUPT, Kind.STALE, Kind.DISK_FULL, Kind.MEMORY)
"""Nobody waits for anything there."""


@pytest.mark.parametrize(
    "kinds", [pytest.param(SOON_OVER, id="soon over"), pytest.param(None, id="all", marks=pytest.mark.slow)]
)
def test_no_fault_changes_a_text_or_leaves_anything_behind(kinds: tuple[Kind, ...] | None) -> None:
    kinds = kinds or possible_kinds()
    plan = trials(len(kinds), seed=7, kinds=kinds)

    figures = asyncio.run(
        measure_faults(tasks(PROMPT_SETS, 1, skip=20), plan, max_new_tokens=16, seed=7, patient=False)
    )

    found = {figure.name: figure.value for figure in figures}
    assert {name: found[f"faults.{name}"] for name in MUST_BE_NONE} == dict.fromkeys(MUST_BE_NONE, 0)
    assert found["faults.trials"] == len(kinds)


def test_every_kind_meets_every_step() -> None:
    plan = trials(96, seed=0, kinds=tuple(Kind))

    assert {(trial.kind, trial.step) for trial in plan} == {(kind, step) for kind in Kind for step in Step}
    assert len({trial.seed for trial in plan}) == 96


@given(st.lists(st.binary(max_size=60_000), min_size=1, max_size=4), st.data())
def test_messages_are_found_however_frames_cut_them(messages: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(b"\0" + len(message).to_bytes(4, "big") + message for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    seen, passed = Messages(), []

    for piece in pieces:
        passed += [
            frame.payload for frame in frames_of(seen.completed_by(Frame(DATA, 0, 3, piece)), Frame(DATA, 0, 3, b""))
        ]

    assert b"".join(passed) == whole
    assert all(len(payload) <= 16_384 for payload in passed)


def test_a_frame_is_read_as_it_was_written() -> None:
    async def read(data: bytes) -> Frame:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_frame(reader)

    frame = Frame(DATA, END_STREAM, 7, b"payload")

    assert asyncio.run(read(frame.bytes)) == frame
    assert frame.ends_stream
    assert Frame(RESET, 0, 7, b"\0\0\0\0").ends_stream
    assert not Frame(DATA, 0, 7, b"").ends_stream


def test_steps_are_told_from_messages() -> None:
    verify = verify_pb2.VerifyRequest(verify=verify_pb2.VerifyTree(round=3))

    assert step_of(request_of("verify", verify.SerializeToString())) is Step.VERIFY_SENT
    assert step_of(request_of("verify", b"")) is None
    assert step_of(request_of("verify", b"\xff\xff\xff")) is None


@given(st.binary(min_size=1, max_size=100), st.integers(0, 2**32))
def test_what_is_corrupted_is_as_long_and_another(data: bytes, seed: int) -> None:
    wrong = corrupted(data, Random(seed))

    assert len(wrong) == len(data)
    assert wrong != data


@pytest.mark.parametrize("token_ids", [[5, 6, 7], []], ids=["with tokens", "without"])
def test_a_worker_that_is_mistold_holds_another_text(token_ids: list[int]) -> None:
    context = common_pb2.Context(base_length=9, prefix_hash=77, token_ids=token_ids)
    request = verify_pb2.VerifyRequest(verify=verify_pb2.VerifyTree(context=context))

    told = mistold("verify", request.SerializeToString(), Random(1))

    assert told is not None
    assert request_of("verify", told).verify.context != context  # type: ignore[union-attr]


@pytest.mark.parametrize("told", [(3, 5), (5, 3)], ids=["in order", "the first held back"])
def test_of_a_record_that_is_there_twice_the_larger_count_holds(tmp_path: Path, told: tuple[int, int]) -> None:
    record = log_pb2.OutcomeRecord(request_id="a").SerializeToString()
    with redis_server(tmp_path) as server, Redis.from_url(server.url) as redis:
        for dropped in told:
            redis.xadd("forerun:default:outcomes", {"record": record, "dropped": dropped})
        found = kept(redis)

    assert (found.num_dropped, found.doubles) == (5, 1)


def test_a_record_that_is_neither_kept_nor_dropped_is_uncounted() -> None:
    found = Kept(rounds={("a", 0), ("a", 1)}, outcomes={"a"}, decisions={"x"}, referred={"x", "y"})
    found.dropped.add({b"record": b"r", b"dropped": b"2"})

    assert found.uncounted(rounds=3, requests=1) == 0
    assert found.uncounted(rounds=4, requests=2) == 2
