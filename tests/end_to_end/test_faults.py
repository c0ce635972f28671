"""A fault costs time, never a token: real processes are killed and frozen in the middle of an answer."""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2

from forerun.client import Client, DeadlineExceededError, GenerateOptions, Generation
from speculation.errors import ForerunError
from tests.end_to_end.processes import Fleet, Process, eventually, fleet, redis_server, serving, worker

PROMPT = "def read_settings(path):\n"
OPTIONS: GenerateOptions = {
    "max_new_tokens": 160,
    "temperature": 1.0,
    "top_p": 0.95,
    "repetition_penalty": 1.1,
    "seed": 2026,
    "ignore_eos": True,
    "timeout_s": 240,
    "policy": "merged",
}
SHORT: GenerateOptions = {**OPTIONS, "max_new_tokens": 48}
"""The same answer, ended sooner."""


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two targets and two drafters."""
    workers = {
        "target": worker("verify", "target"),
        "target again": worker("verify", "target"),
        "code": worker("draft", "code"),
        "docs": worker("draft", "docs"),
    }
    # Enough for another target to take over; who waits longer waits for nothing here.
    with fleet(tmp_path_factory.mktemp("fleet"), workers=workers, timeouts={"verify_wait_s": 3.0}) as started:
        yield started


@pytest.fixture(scope="module")
def undisturbed(standing: Fleet) -> Generation:
    """The answer of plain decoding, before anything goes wrong."""
    with Client(standing.address) as client:
        return client.generate(PROMPT, **{**OPTIONS, "policy": "none"})


@pytest.fixture
def running(standing: Fleet) -> Fleet:
    """The fleet, whole again."""
    standing.mend()
    return standing


def generate_while(running: Fleet, happens: Callable[[], None], options: GenerateOptions = OPTIONS) -> Generation:
    """An answer in the middle of which something happens."""
    with Client(running.address) as client, client.stream(PROMPT, **options) as deltas:
        emitted, pending = 0, True
        for delta in deltas:
            emitted += len(delta.token_ids)
            if pending and emitted >= 20:
                happens()
                pending = False
        assert not pending, "nothing happened before the answer was complete"
        return deltas.generation


def busy_target(running: Fleet) -> Process:
    """The verify worker that holds the session."""
    sessions = {state.address: state.open_sessions for state in running.show().workers}
    return max(
        (running.workers["target"], running.workers["target again"]), key=lambda process: sessions[process.address]
    )


def test_without_faults_speculation_changes_nothing(running: Fleet, undisturbed: Generation) -> None:
    answer = generate_while(running, lambda: None)

    assert answer.token_ids == undisturbed.token_ids
    assert answer.text == undisturbed.text
    assert answer.acceptance.num_spec_steps < len(answer.token_ids), "nothing was speculated"


def test_a_drafter_killed_in_the_middle_costs_no_token(running: Fleet, undisturbed: Generation) -> None:
    answer = generate_while(running, running.workers["code"].kill)

    assert answer.token_ids == undisturbed.token_ids
    assert answer.failovers >= 1


def test_a_drafter_frozen_in_the_middle_costs_no_token(running: Fleet, undisturbed: Generation) -> None:
    frozen = running.workers["code"]

    answer = generate_while(running, lambda: frozen.signal(signal.SIGSTOP))

    assert answer.token_ids == undisturbed.token_ids
    assert answer.failovers >= 1
    eventually(lambda: not serving(running, ["code"]), within_s=10)
    frozen.signal(signal.SIGCONT)
    eventually(lambda: serving(running, ["code"]), within_s=30)


def test_the_only_drafter_killed_in_the_middle_costs_no_token(running: Fleet, undisturbed: Generation) -> None:
    running.workers["docs"].kill()
    eventually(lambda: not serving(running, ["docs"]), within_s=10)

    answer = generate_while(running, running.workers["code"].kill)

    assert answer.token_ids == undisturbed.token_ids
    assert answer.acceptance.num_spec_steps > 0, "the only drafter never drafted"
    assert answer.failovers >= 1
    assert running.health() == health_pb2.HealthCheckResponse.SERVING


def test_when_every_drafter_is_killed_plain_decoding_goes_on(running: Fleet, undisturbed: Generation) -> None:
    def kill_all() -> None:
        for name in ("code", "docs"):
            running.workers[name].kill()

    answer = generate_while(running, kill_all)

    assert answer.token_ids == undisturbed.token_ids
    assert running.health() == health_pb2.HealthCheckResponse.SERVING


def test_a_verify_worker_killed_in_the_middle_costs_no_token(running: Fleet, undisturbed: Generation) -> None:
    answer = generate_while(running, lambda: busy_target(running).kill())

    assert answer.token_ids == undisturbed.token_ids
    assert answer.failovers >= 1


def test_a_verify_worker_frozen_in_the_middle_costs_no_token(running: Fleet, undisturbed: Generation) -> None:
    answer = generate_while(running, lambda: busy_target(running).signal(signal.SIGSTOP))

    assert answer.token_ids == undisturbed.token_ids
    assert answer.failovers >= 1


def test_without_any_verify_worker_the_health_says_so(running: Fleet) -> None:
    for name in ("target", "target again"):
        running.workers[name].kill()

    eventually(lambda: running.health() == health_pb2.HealthCheckResponse.NOT_SERVING, within_s=10)
    with Client(running.address) as client, pytest.raises(ForerunError, match=r"verify|target"):
        client.generate(PROMPT, max_new_tokens=4, timeout_s=60)


@pytest.mark.parametrize("least_idle_s", [0.0, 60.0], ids=["they take turns", "one after another"])
def test_three_answers_at_once_need_no_more_than_one_slot(
    tmp_path: Path, undisturbed: Generation, least_idle_s: float
) -> None:
    """Every round of one throws out the cache of another; or who came later waits until the slot is given back."""
    target = worker("verify", "target", slots=1, least_idle_s=least_idle_s)
    workers = {"target": target, "code": worker("draft", "code", slots=1)}

    with fleet(tmp_path, workers=workers) as running, Client(running.address) as client, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: client.generate(PROMPT, **SHORT), range(3)))

    assert {answer.token_ids for answer in answers} == {undisturbed.token_ids[:48]}


def test_a_client_that_leaves_frees_the_workers_within_a_second(running: Fleet) -> None:
    with Client(running.address) as client:
        stream = client.stream(PROMPT, **OPTIONS)
        next(stream)
        assert any(state.open_sessions for state in running.show().workers)

        stream.close()

        eventually(lambda: not any(state.open_sessions for state in running.show().workers), within_s=1)


def test_a_deadline_that_passes_frees_the_workers_within_a_second(running: Fleet) -> None:
    with Client(running.address) as client:
        with pytest.raises(DeadlineExceededError):
            client.generate(PROMPT, **{**OPTIONS, "max_new_tokens": 400, "timeout_s": 0.4})

        eventually(lambda: not any(state.open_sessions for state in running.show().workers), within_s=1)


def test_a_controller_told_to_end_completes_the_answers_it_has_begun(running: Fleet, undisturbed: Generation) -> None:
    answer = generate_while(running, lambda: running.controller.signal(signal.SIGTERM))

    assert answer.token_ids == undisturbed.token_ids
    assert running.controller.wait(20) == 0


def test_a_worker_told_to_end_costs_no_token(running: Fleet, undisturbed: Generation) -> None:
    leaving: list[Process] = []

    def drain_target() -> None:
        leaving.append(busy_target(running))
        leaving[0].signal(signal.SIGTERM)

    answer = generate_while(running, drain_target)

    assert answer.token_ids == undisturbed.token_ids
    assert leaving[0].wait(20) == 0


def test_redis_killed_and_brought_back_costs_no_token_and_the_log_counts_what_it_lost(
    tmp_path: Path, undisturbed: Generation
) -> None:
    workers = {"target": worker("verify", "target"), "code": worker("draft", "code")}
    with (
        redis_server(tmp_path) as redis,
        fleet(tmp_path, workers=workers, redis={"url": redis.url, "most_records_waiting": 20}) as running,
    ):
        before = generate_while(running, lambda: None, SHORT)
        eventually(lambda: running.show().log.written > 0, within_s=5)

        during = generate_while(running, redis.kill, SHORT)
        with Client(running.address) as client:
            without = client.generate(PROMPT, **SHORT)
        eventually(lambda: running.show().log.dropped > 0, within_s=10)

        redis.start()
        eventually(lambda: running.show().log.connected, within_s=20)
        written = running.show().log.written
        after = generate_while(running, lambda: None, SHORT)
        eventually(lambda: running.show().log.written > written, within_s=5)

    assert {answer.token_ids for answer in (before, during, without, after)} == {undisturbed.token_ids[:48]}


def test_answers_do_not_wait_for_each_other(running: Fleet, undisturbed: Generation) -> None:
    """Eight at once, with a drafter dying under them."""
    started = threading.Barrier(9)

    def one(_: int) -> Generation:
        with Client(running.address) as client:
            started.wait()
            return client.generate(PROMPT, **SHORT)

    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(one, range(8))
        started.wait()
        running.workers["code"].kill()

        assert {answer.token_ids for answer in answers} == {undisturbed.token_ids[:48]}
