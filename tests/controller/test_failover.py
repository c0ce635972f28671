"""Whatever happens to workers, the text stays what plain decoding would have given."""

import asyncio
from collections.abc import Callable

import pytest

from controller.settings import TimeoutSettings
from speculation.v1 import common_pb2
from tests import fakes
from tests.controller.house import (
    DRAFT,
    DRAFT_TOO,
    PROMPT,
    QUICK,
    VERIFY,
    House,
    eventually,
    house,
    plain,
    read,
    request,
    run,
)

BUSY = common_pb2.SESSION_STATUS_BUSY
DRAINING = common_pb2.SESSION_STATUS_DRAINING
SPARE = fakes.description()
PATIENT = TimeoutSettings(draft_timeout_s=20.0, health_timeout_s=20.0)
"""Where nothing goes wrong, a machine that is slow must not look as if something did."""


def test_text_is_that_of_plain_decoding_for_every_policy() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, timeouts=PATIENT) as home:
            for policy in home.controller.steering.policies:
                answer = await home.answer(speculation={"policy": policy})

                assert answer.token_ids == plain(), policy
                assert answer.summary.failovers == 0

    run(scenario())


def verifier_dies(home: House) -> None:
    home.workers[0].worker.faults.die_after = 6


def verifier_forgets(home: House) -> None:
    for worker in home.workers[:2]:
        worker.worker.faults.forget = 2


def verifier_is_busy(home: House) -> None:
    for worker in home.workers[:2]:
        worker.worker.faults.statuses += [BUSY] * 3


def verifier_drains(home: House) -> None:
    home.workers[0].worker.faults.statuses += [DRAINING] * 50


def drafter_dies(home: House) -> None:
    home.workers[2].worker.faults.die_after = 3


def drafter_forgets(home: House) -> None:
    home.workers[2].worker.faults.forget = 3


def drafter_is_busy(home: House) -> None:
    home.workers[2].worker.faults.statuses += [BUSY] * 4


def drafter_drains(home: House) -> None:
    home.workers[2].worker.faults.statuses += [DRAINING] * 50


def drafter_draws_garbage(home: House) -> None:
    home.workers[2].worker.faults.garbage = True


def drafter_foresees_garbage(home: House) -> None:
    home.workers[2].worker.faults.garbage_ahead = True


def drafter_is_late(home: House) -> None:
    home.workers[2].worker.faults.delay_s = 0.8


def drafter_is_frozen(home: House) -> None:
    home.workers[2].worker.faults.frozen = True


@pytest.mark.parametrize(
    "trouble",
    [
        verifier_dies,
        verifier_forgets,
        verifier_is_busy,
        verifier_drains,
        drafter_dies,
        drafter_forgets,
        drafter_is_busy,
        drafter_drains,
        drafter_draws_garbage,
        drafter_foresees_garbage,
        drafter_is_late,
        drafter_is_frozen,
    ],
)
@pytest.mark.parametrize("policy", ["static", "merged", "planner"])
def test_trouble_costs_time_and_never_a_token(trouble: Callable[[House], None], policy: str) -> None:
    async def scenario() -> None:
        async with house(VERIFY, SPARE, DRAFT, DRAFT_TOO, policy=policy) as home:
            trouble(home)

            answer = await home.answer()

            assert answer.token_ids == plain()

    run(scenario())


def test_a_verifier_that_dies_in_the_middle_is_replaced_and_counted() -> None:
    async def scenario() -> None:
        async with house(VERIFY, SPARE, DRAFT) as home:
            verifier_dies(home)
            home.workers[1].worker.faults.die_after = None

            answer = await home.answer()

            assert answer.token_ids == plain()
            assert answer.summary.failovers == 1
            assert home.workers[1].worker.opened == 1

    run(scenario())


def test_a_frozen_verifier_is_found_out_and_replaced() -> None:
    """Frozen as by SIGSTOP: the connection stands, nothing answers, health checks neither."""

    async def scenario() -> None:
        async with house(VERIFY, SPARE, DRAFT) as home:
            home.workers[0].worker.faults.delay_s = home.workers[1].worker.faults.delay_s = 0.05
            reading = asyncio.create_task(home.answer())
            await eventually(lambda: any(len(worker.worker.rounds) > 2 for worker in home.workers[:2]))
            (serving,) = (worker for worker in home.workers[:2] if worker.worker.sessions)

            serving.worker.faults.frozen = True
            answer = await reading
            serving.worker.faults.frozen = False

            assert answer.token_ids == plain()
            assert answer.summary.failovers == 1

    run(scenario())


def test_the_only_verifier_may_come_back_while_a_request_waits() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, timeouts=QUICK.model_copy(update={"verify_wait_s": 8.0})) as home:
            home.workers[0].worker.faults.delay_s = 0.02
            reading = asyncio.create_task(home.answer())
            await eventually(lambda: len(home.workers[0].worker.rounds) > 2)

            await home.workers[0].kill()
            port = int(home.workers[0].address.rpartition(":")[2])
            successor = await fakes.start_worker(VERIFY, port=port)
            answer = await reading
            await successor.kill()

            assert answer.token_ids == plain()
            assert answer.summary.failovers >= 1

    run(scenario())


def test_a_late_drafter_costs_its_timeout_once() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            drafter_at = home.workers[1].worker
            drafter_at.faults.delay_s = 1.5

            answer = await home.answer(explain=True)

            missing = [tuple(report.missing_drafters) for report in answer.rounds]
            assert missing[0] == ("alpha",)
            assert answer.token_ids == plain()
            assert answer.summary.timings.total_ns < 1.5e9
            assert sum(map(bool, missing)) <= 2

    run(scenario())


def test_a_drafter_that_still_reads_a_long_prompt_is_not_thrown_out() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            home.workers[1].worker.faults.delays_s = [0.0, 0.6]

            answer = await home.answer(tokens={"ids": [5] * 600}, explain=True)

            drafted = [len(report.tree.token_ids) > 0 for report in answer.rounds]
            assert [tuple(report.missing_drafters) for report in answer.rounds[:1]] == [("alpha",)]
            assert not drafted[1], "it is still reading, and nobody waits for it"
            assert drafted[-2], "it has caught up"
            assert home.workers[1].worker.opened == 1

    run(scenario())


def test_the_same_drafter_twice_is_two_places_for_one_name() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, fakes.description("draft", "alpha")) as home:
            home.workers[1].worker.faults.die_after = 4
            home.workers[2].worker.faults.die_after = None

            answer = await home.answer(speculation={"in_turn": True})

            assert answer.token_ids == plain()
            assert home.controller.fleet.drafter_names == ("alpha",)
            assert home.workers[2].worker.opened >= 1

    run(scenario())


def test_a_drafter_that_grows_too_short_leaves_its_place_to_one_that_can_hold_more() -> None:
    async def scenario() -> None:
        short, roomy = (
            fakes.description("draft", "alpha", max_length=len(PROMPT) + 8),
            fakes.description("draft", "alpha"),
        )
        async with house(VERIFY, short, roomy) as home:
            home.workers[2].worker.description.slots = 1
            answer = await home.answer()

            assert answer.token_ids == plain()
            assert home.workers[2].worker.rounds, "nobody drafted once the sequence was too long for the first"
            assert answer.summary.failovers == 0

    run(scenario())


def test_a_long_prompt_is_sent_in_pieces() -> None:
    async def scenario() -> None:
        long = [token % 97 for token in range(40_000)]
        roomy = fakes.description(max_length=50_000)
        drafter = fakes.description("draft", "alpha", max_length=50_000)
        timeouts = TimeoutSettings(draft_timeout_s=10)
        async with house(roomy, drafter, timeouts=timeouts) as home:
            answer = await home.answer(tokens={"ids": long}, max_new_tokens=5)

            assert answer.token_ids == plain(5, prompt=long)
            for worker in home.workers:
                assert max(worker.worker.message_sizes) <= 16_384
                assert sum(worker.worker.message_sizes) <= len(long) + 5, "no token is sent twice"

    run(scenario())


def test_a_round_sends_only_what_is_new() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            await home.answer()

            target, drafter = (worker.worker for worker in home.workers)
            assert target.message_sizes[:2] == [len(PROMPT) - 1, 1]
            assert set(target.message_sizes[2:]) == {0}, "a verifier holds what it emitted"
            assert max(drafter.message_sizes[1:]) <= 5

    run(scenario())


def test_the_target_reads_the_prompt_while_drafters_draft() -> None:
    """Each takes half a second a message; one after the other it would be two and a half."""

    async def scenario() -> None:
        async with house(VERIFY, DRAFT, timeouts=QUICK.model_copy(update={"draft_timeout_s": 5.0})) as home:
            for worker in home.workers:
                worker.worker.faults.delay_s = 0.5

            answer = await home.answer(max_new_tokens=2)

            assert answer.summary.timings.time_to_first_token_ns < 2.4e9

    run(scenario())


def test_drafters_read_the_prompt_before_the_planner_chooses_among_them() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, policy="planner") as home:
            answer = await home.answer(explain=True)

            assert set(answer.summary.prompt_surprisal) == {"alpha", "beta"}
            drafters = [worker.worker for worker in home.workers[1:]]
            assert all(drafter.message_sizes[0] == len(PROMPT) for drafter in drafters), "each was sent it, once"
            assert all(len(PROMPT) not in drafter.message_sizes[1:] for drafter in drafters)

    run(scenario())


def test_a_drafter_that_reads_too_slowly_keeps_nobody_waiting() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, DRAFT_TOO, policy="planner", timeouts=QUICK) as home:
            home.workers[1].worker.faults.frozen = True

            answer = await home.answer()

            assert answer.token_ids == plain()
            assert "beta" in answer.summary.prompt_surprisal
            assert "alpha" not in answer.summary.prompt_surprisal

    run(scenario())


def test_a_vocabulary_is_not_left_by_a_drafters_tree() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            home.workers[1].worker.language = fakes.Language(vocab_size=5000)

            answer = await home.answer()

            assert answer.token_ids == plain()
            assert answer.summary.failovers >= 1

    run(scenario())


def test_a_seed_travels_to_every_worker() -> None:
    async def scenario() -> None:
        async with house() as home:
            answer = await read(home.generation.Generate(request(sampling={"seed": 2**63 + 5}), timeout=20))

            assert answer.token_ids == plain(seed=2**63 + 5)
            assert answer.summary.seed == 2**63 + 5

    run(scenario())
