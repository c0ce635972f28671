"""What a tenant may use, by a clock that stands still until it is told to move; and once over the wire."""

import asyncio
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller import quotas
from controller.quotas import Meter, Quota, Quotas
from controller.settings import QuotaSettings, Settings
from speculation.errors import QuotaError
from speculation.rpc import error_info, retry_after_s
from tests.controller.house import PROMPT, House, eventually, house, plain, read, request, run

MINUTE = 60.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def refused(counted: Quotas, tenant: str = "acme", *, tokens: int = 0) -> QuotaError:
    with pytest.raises(QuotaError) as caught, counted.visit(tenant) as visit:
        visit.reserve(tokens)
    return caught.value


def test_requests_at_once_are_counted_by_tenant(clock: Clock) -> None:
    counted = Quotas((Quota(requests_at_once=1),), now=clock)

    with counted.visit("acme"):
        error = refused(counted)
        with counted.visit("other"):
            pass

    assert error.metadata == {"field": "tenant", "tenant": "acme", "limit": "requests_at_once", "granted": "1"}
    with counted.visit("acme"):
        pass


def test_requests_a_minute_come_back_one_by_one(clock: Clock) -> None:
    counted = Quotas((Quota(requests_per_minute=6),), now=clock)
    for _ in range(6):
        with counted.visit("acme"):
            pass

    error = refused(counted)
    assert error.retry_after_s == pytest.approx(10.0)

    clock.now += 10.0
    with counted.visit("acme"):
        pass
    assert refused(counted).retry_after_s == pytest.approx(10.0)


def test_tokens_are_set_aside_and_what_was_not_used_comes_back(clock: Clock) -> None:
    counted = Quotas((Quota(tokens_per_minute=100),), now=clock)

    with counted.visit("acme") as visit:
        visit.reserve(80)
        assert refused(counted, tokens=30).retry_after_s == pytest.approx(6.0)
        visit.used(10)

    with counted.visit("acme") as visit:
        visit.reserve(90)
        assert refused(counted, tokens=1).retry_after_s == pytest.approx(0.6)


def test_a_request_of_more_than_a_minutes_tokens_waits_for_a_full_minute(clock: Clock) -> None:
    """Otherwise it could never be served; the tenant pays for it afterwards."""
    counted = Quotas((Quota(tokens_per_minute=100),), now=clock)
    with counted.visit("acme") as visit:
        visit.reserve(300)
        visit.used(300)

    assert refused(counted, tokens=1).retry_after_s == pytest.approx(2 * MINUTE + 0.6)


def test_the_first_quota_that_matches_holds_alone(clock: Clock) -> None:
    counted = Quotas((Quota(tenant="acme*", requests_per_minute=2), Quota(requests_at_once=1)), now=clock)

    with counted.visit("acme-1"), counted.visit("acme-1"), counted.visit("acme-2"):
        assert refused(counted, "acme-1").metadata["limit"] == "requests_per_minute"
    with counted.visit("other"):
        assert refused(counted, "other").metadata["limit"] == "requests_at_once"


def test_other_quotas_hold_for_what_was_used_before(clock: Clock) -> None:
    counted = Quotas((Quota(requests_per_minute=10),), now=clock)
    for _ in range(5):
        with counted.visit("acme"):
            pass

    counted.obey((Quota(requests_per_minute=5),))

    assert refused(counted).metadata["granted"] == "5"


def test_very_many_tenants_are_not_all_remembered(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a request inside is; of those there are never many."""
    monkeypatch.setattr(quotas, "MOST_TENANTS", 10)
    counted = Quotas((Quota(requests_at_once=1),), now=clock)

    with counted.visit("first"):
        for number in range(1000):
            with counted.visit(f"tenant {number}"):
                pass

        assert len(counted) <= 11
        assert refused(counted, "first").metadata["limit"] == "requests_at_once"


def test_tenants_without_a_quota_are_not_remembered_at_all(clock: Clock) -> None:
    counted = Quotas((Quota(tenant="acme", requests_at_once=1),), now=clock)
    with counted.visit("other"):
        pass

    assert len(counted) == 0


@given(
    rate=st.integers(1, 1000),
    wishes=st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 500)), max_size=60),
)
def test_no_meter_gives_more_than_a_minutes_worth_and_its_rate(rate: int, wishes: list[tuple[float, float]]) -> None:
    """Whatever is asked when: of amounts within a minute's worth, at most rate * (1 + minutes) is given."""
    meter, now, given_out = Meter(), 0.0, 0.0
    for pause_s, amount in wishes:
        now += pause_s
        amount = min(amount, rate)
        wait_s = meter.wait_s(amount, per_minute=rate, now=now)
        if not wait_s:
            meter.take(amount)
            given_out += amount
        else:
            assert meter.wait_s(amount, per_minute=rate, now=now + wait_s + 1e-6) == 0
            now += wait_s + 1e-6

    assert given_out <= rate * (1 + now / MINUTE) + 1e-6


async def refusal(home: House, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.answer(**fields)
    return caught.value


def test_over_quota_a_call_is_refused_with_the_limit_and_a_time_to_come_back() -> None:
    async def scenario() -> None:
        more = {"quotas": (QuotaSettings(tenant="acme", requests_at_once=1), QuotaSettings(tokens_per_minute=100))}
        async with house(more=more) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            first = home.generation.Generate(request(tenant="acme"), timeout=20)
            answer = asyncio.create_task(read(first))
            await eventually(lambda: home.controller.generation.reception.inside == 1)

            error = await refusal(home, tenant="acme")
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            info = error_info(error)
            assert info is not None
            assert (info.reason, info.metadata["field"], info.metadata["limit"]) == (
                "QUOTA",
                "tenant",
                "requests_at_once",
            )
            assert retry_after_s(error) == quotas.PAUSE_S
            assert (await answer).token_ids == plain()

            assert (await home.answer(tenant="other")).token_ids == plain()
            used = len(PROMPT) + 40
            assert error_info(await refusal(home, tenant="other")).metadata["limit"] == "tokens_per_minute"  # type: ignore[union-attr]
            assert used <= 100 < 2 * used
            assert home.controller.access.refusals.counts == {"QUOTA": 2}
            assert home.controller.generation.reception.inside == 0

    run(scenario())


def test_an_answer_that_was_broken_off_costs_what_it_brought() -> None:
    async def scenario() -> None:
        async with house(more={"quotas": (QuotaSettings(tokens_per_minute=3000),)}) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            call = home.generation.Generate(request(max_new_tokens=2500), timeout=20)
            await call.read()
            assert error_info(await refusal(home, max_new_tokens=2500)).reason == "QUOTA"  # type: ignore[union-attr]
            call.cancel()
            await eventually(lambda: home.controller.generation.reception.inside == 0)

            home.workers[0].worker.faults.delay_s = 0.0
            assert (await home.answer(max_new_tokens=2500)).summary.usage.completion_tokens == 2500

    run(scenario())


def test_a_quota_that_is_never_reached_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="never reached"):
        Settings(tokenizer="t", quotas=(QuotaSettings(requests_at_once=1), QuotaSettings(tenant="acme")))
