"""Workers that answer and are yet no good: ejected, tried again a little at a time, never the last one."""

import asyncio
from dataclasses import replace

import pytest

from controller.outliers import EXCHANGES, Pace
from controller.roster import Worker
from controller.worker_client import Opening
from speculation.retry_budget import RetryBudget
from speculation.sampling import SamplingParameters
from tests import fakes
from tests.controller.house import DRAFT, QUICK_FLEET, VERIFY, eventually, fleet_of, house, plain, run, until

OPENING = Opening(session_id="s", sampling=SamplingParameters(), prompt_length=1)


def pace(took_s: float, exchanges: int = EXCHANGES) -> Pace:
    kept = Pace()
    for _ in range(exchanges):
        kept.add(took_s)
    return kept


@pytest.mark.parametrize(
    ("own", "peers", "outlier"),
    [
        pytest.param(pace(0.5), [pace(0.1)], True, id="five times its only peer"),
        pytest.param(pace(0.3), [pace(0.1)], False, id="three times"),
        pytest.param(pace(0.5), [pace(0.1), pace(0.1), pace(0.9)], True, id="another slow one changes nothing"),
        pytest.param(pace(0.5), [], False, id="nobody to compare with"),
        pytest.param(pace(0.5), [pace(0.1, 3)], False, id="peers of whom nothing is known"),
        pytest.param(pace(0.5, 3), [pace(0.1)], False, id="too few exchanges"),
        pytest.param(pace(0.008), [pace(0.001)], False, id="milliseconds"),
    ],
)
def test_an_outlier_is_far_slower_than_its_peers(own: Pace, peers: list[Pace], outlier: bool) -> None:
    assert own.is_outlier(peers, factor=4.0) is outlier


def test_a_pace_follows_what_is_new() -> None:
    followed = pace(1.0, 200)
    for _ in range(50):
        followed.add(0.1)

    assert followed.mean_s == pytest.approx(0.1, rel=0.1)


def worked(fleet: object, worker: Worker, took_s: float, times: int = EXCHANGES) -> None:
    for _ in range(times):
        fleet.worked(worker, took_s)  # type: ignore[attr-defined]


def test_a_target_much_slower_than_its_peers_is_ejected_and_then_given_one_session_at_a_time() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, VERIFY) as started, fleet_of(*started) as fleet:
            await until(fleet, lambda fleet: all(worker.serving for worker in fleet.workers))
            good, slow = fleet.workers
            worked(fleet, good, 0.1)
            worked(fleet, slow, 0.5)

            assert not slow.serving
            assert "4 times as long as its peers" in slow.problem
            assert (slow.ejections, good.ejections) == (1, 0)

            await until(fleet, lambda fleet: slow.serving)
            assert slow.on_probation == EXCHANGES
            chosen = []
            for _ in range(4):
                worker = await fleet.verifier(None)
                worker.open_verify(OPENING, timeout_s=5)
                chosen.append(worker)
            assert chosen.count(slow) == 1

            worked(fleet, slow, 0.1)
            assert slow.on_probation == slow.failures == 0
            assert (await fleet.verifier(None)) is slow

    run(scenario())


def test_one_that_is_still_slow_on_probation_is_ejected_for_longer() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, VERIFY) as started, fleet_of(*started) as fleet:
            await until(fleet, lambda fleet: all(worker.serving for worker in fleet.workers))
            good, slow = fleet.workers
            worked(fleet, good, 0.1)
            for times in (1, 2):
                worked(fleet, slow, 0.5)
                assert slow.failures == times
                await until(fleet, lambda fleet: slow.serving)

    run(scenario())


def test_the_last_target_is_never_ejected_for_being_slow() -> None:
    async def scenario() -> None:
        async with fakes.workers(VERIFY, VERIFY) as started, fleet_of(*started) as fleet:
            await until(fleet, lambda fleet: all(worker.serving for worker in fleet.workers))
            good, slow = fleet.workers
            worked(fleet, good, 0.1)
            good.step_back("drains")
            worked(fleet, slow, 0.5, 100)

            assert slow.serving
            assert (await fleet.verifier(None)) is slow

    run(scenario())


def test_an_operator_can_do_without() -> None:
    async def scenario() -> None:
        never = replace(QUICK_FLEET, slow_factor=None)
        async with fakes.workers(VERIFY, VERIFY) as started, fleet_of(*started, timeouts=never) as fleet:
            await until(fleet, lambda fleet: all(worker.serving for worker in fleet.workers))
            worked(fleet, fleet.workers[0], 0.1)
            worked(fleet, fleet.workers[1], 9.0)

            assert all(worker.serving for worker in fleet.workers)

    run(scenario())


def test_a_drafter_on_probation_costs_speed_and_no_token() -> None:
    """Two requests: one may ask it, the other decodes without, and both get their text."""

    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            home.workers[1].worker.faults.garbage = True
            assert (await home.answer()).token_ids == plain()
            drafter = home.controller.fleet.workers[1]
            home.workers[1].worker.faults.garbage = False
            await eventually(lambda: drafter.serving and bool(drafter.on_probation))
            home.workers[0].worker.faults.delay_s = 0.02

            asked = [home.answer(sampling={"seed": seed}, explain=True) for seed in range(3)]
            answers = await asyncio.gather(*asked)

            assert [answer.token_ids for answer in answers] == [plain(seed=seed) for seed in range(3)]
            assert sum(bool(answer.rounds[2].decision.drafters) for answer in answers) == 1
            while drafter.on_probation:  # what it foresaw is no exchange, so nobody knows how many answers that takes
                await home.answer()
            assert drafter.failures == 0

    run(scenario())


def test_a_session_moves_once_in_any_case_and_more_often_within_a_budget() -> None:
    async def scenario() -> None:
        async with house(*[VERIFY] * 4) as home:
            fleet = home.controller.fleet
            fleet.retries = RetryBudget(share=0.0, reserve=0)
            home.workers[0].worker.faults.die_after = 3
            assert (await home.answer()).token_ids == plain()

            for worker in home.workers:
                worker.worker.faults.die_after = worker.worker.exchanges
            with pytest.raises(Exception, match="UNAVAILABLE"):
                await home.answer()
            assert fleet.retries.denied == 1

    run(scenario())


def test_retries_are_a_share_of_calls_once_the_reserve_is_spent() -> None:
    budget = RetryBudget(share=0.1, reserve=5)
    allowed = 0
    for _ in range(1000):
        budget.called()
        allowed += budget.allows()

    assert 100 <= allowed <= 106
    assert budget.denied == 1000 - allowed


def test_where_calls_go_well_the_reserve_fills_again_and_no_further() -> None:
    budget = RetryBudget(share=0.1, reserve=5)
    for _ in range(1000):
        budget.called()

    assert [budget.allows() for _ in range(6)] == [True] * 5 + [False]


def test_ejection_and_trust_are_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with caplog.at_level("INFO", "controller.roster"):
            async with fakes.workers(VERIFY) as started, fleet_of(*started) as fleet:
                await until(fleet, lambda fleet: fleet.serves)
                (worker,) = fleet.workers
                worker.eject("broke a promise")
                await until(fleet, lambda fleet: fleet.serves)
                worked(fleet, worker, 0.01)

    run(scenario())
    told = [record.getMessage() for record in caplog.records if record.name == "controller.roster"]
    assert told == ["worker serving", "worker not serving", "worker serving", "worker trusted again"]
