"""Who gets a place, who waits, and who is turned away: without a controller around it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import pytest

from controller.concurrency import ConcurrencyLimit
from controller.latency_classes import LatencyClass, Precedence
from controller.reception import Reception
from controller.waiting_line import Waiting, WaitingLine
from speculation.errors import CapacityError, DrainingError, NotAllowedError, UnknownNameError
from tests.controller.house import eventually, run

HIGH = LatencyClass(name="high", most_wait_s=20.0)
MIDDLE = LatencyClass(name="middle", most_wait_s=20.0)
LOW = LatencyClass(name="low", most_wait_s=20.0)
CLASSES = (HIGH, MIDDLE, LOW)
FAR = 1e9


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Requests that come to a reception, and the order in which they get their places."""

    def __init__(self, places: int, *, most_waiting: int = 100, classes: tuple[LatencyClass, ...] = CLASSES) -> None:
        self.clock = Clock()
        self.served: list[str] = []
        self.refused: dict[str, CapacityError | DrainingError] = {}
        precedence = Precedence(classes=classes, default=classes[-1].name, most_waiting=most_waiting)
        self.reception = Reception(ConcurrencyLimit(places), precedence, now=self.clock, rng=Random(1))
        self._leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(
        self,
        name: str,
        latency_class: LatencyClass = MIDDLE,
        *,
        tenant: str = "",
        tokens: int = 1,
        deadline: float = FAR,
    ) -> None:
        """A request comes, and is where it belongs when this returns."""
        self._leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._live(name, latency_class, tenant, tokens, deadline))
        for _ in range(5):
            await asyncio.sleep(0)

    async def leave(self, name: str) -> None:
        """It has been answered."""
        self._leave[name].set()
        await self.tasks[name]
        for _ in range(5):
            await asyncio.sleep(0)

    async def leave_in_turn(self) -> None:
        """All are answered, in the order in which they got their places."""
        for place, name in enumerate(self.served):
            await self.leave(name)
            assert len(self.served) > place

    async def _live(self, name: str, latency_class: LatencyClass, tenant: str, tokens: int, deadline: float) -> None:
        try:
            with self.reception.ticket(latency_class, tenant, deadline=deadline) as ticket:
                await ticket.turn(tokens=tokens)
                self.served.append(name)
                await self._leave[name].wait()
                ticket.used(tokens)
        except (CapacityError, DrainingError) as error:
            self.refused[name] = error


@asynccontextmanager
async def crowd(places: int, **how: object) -> AsyncIterator[Crowd]:
    """A crowd that has gone when the body ends, and left nothing behind."""
    people = Crowd(places, **how)  # type: ignore[arg-type]
    yield people
    for task in people.tasks.values():
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert (people.reception.inside, people.reception.waiting) == (0, 0)
    await people.reception.drained()


def test_places_go_to_the_highest_class_that_waits() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("first", LOW)
            for name, latency_class in (("l", LOW), ("m", MIDDLE), ("h", HIGH), ("h2", HIGH)):
                await people.come(name, latency_class)
            assert people.served == ["first"]
            assert people.reception.waiting == 4

            await people.leave_in_turn()

            assert people.served == ["first", "h", "h2", "m", "l"]

    run(scenario())


def test_tenants_of_a_class_take_turns_however_many_requests_one_of_them_sends() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("a0", tenant="a")
            for number in range(1, 5):
                await people.come(f"a{number}", tenant="a")
            await people.come("b0", tenant="b")
            await people.come("b1", tenant="b")

            await people.leave_in_turn()

            assert people.served == ["a0", "b0", "a1", "b1", "a2", "a3", "a4"]

    run(scenario())


def test_turns_are_counted_in_tokens() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("large", tenant="a", tokens=300)
            await people.come("large again", tenant="a", tokens=300)
            for number in range(4):
                await people.come(f"small {number}", tenant="b", tokens=100)

            await people.leave_in_turn()

            assert people.served[:5] == ["large", "small 0", "small 1", "small 2", "large again"]

    run(scenario())


def test_a_part_of_the_places_is_kept_for_the_classes_above() -> None:
    async def scenario() -> None:
        batch = LatencyClass(name="batch", most_wait_s=20.0, most_share=0.5)
        async with crowd(4, classes=(HIGH, batch)) as people:
            for number in range(4):
                await people.come(f"b{number}", batch)
            assert people.served == ["b0", "b1"]

            await people.come("h0", HIGH)
            await people.come("h1", HIGH)
            await people.come("h2", HIGH)

            assert people.served == ["b0", "b1", "h0", "h1"]
            await people.leave("b0")
            assert people.served[-1] == "h2"
            await people.leave("b1")
            assert people.served[-1] == "b2"

    run(scenario())


def test_who_would_wait_for_too_long_is_turned_away_at_once_and_told_when_to_come_back() -> None:
    """Two places, ten seconds each: the fifth would wait for more than its twelve seconds."""

    async def scenario() -> None:
        hurried = LatencyClass(name="hurried", most_wait_s=12.0)
        async with crowd(2, classes=(hurried,)) as people:
            await people.come("measure", hurried)
            people.clock.now += 10.0
            await people.leave("measure")
            for number in range(5):
                await people.come(f"{number}", hurried)

            assert people.served == ["measure", "0", "1"]
            assert people.reception.waiting == 2
            error = people.refused["4"]
            assert error.metadata == {"latency_class": "hurried", "cause": "hopeless"}
            assert error.retry_after_s is not None
            assert 15.0 <= error.retry_after_s <= 1.5 * 15.0
            assert people.reception.shed == {("hurried", "hopeless"): 1}

    run(scenario())


def test_so_is_who_would_wait_beyond_his_deadline() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("measure")
            people.clock.now += 5.0
            await people.leave("measure")
            now = asyncio.get_running_loop().time()
            await people.come("runs")
            await people.come("late", deadline=now + 4.0)
            await people.come("in time", deadline=now + 60.0)

            assert people.refused["late"].metadata["cause"] == "hopeless"
            assert people.reception.waiting == 1

    run(scenario())


def test_a_tenant_with_few_requests_is_not_told_to_go_because_another_has_many() -> None:
    async def scenario() -> None:
        hurried = LatencyClass(name="hurried", most_wait_s=12.0)
        async with crowd(1, classes=(hurried,)) as people:
            await people.come("measure", hurried)
            people.clock.now += 3.0
            await people.leave("measure")
            for number in range(6):
                await people.come(f"a{number}", hurried, tenant="a")
            await people.come("b", hurried, tenant="b")

            assert set(people.refused) == {"a5"}
            await people.leave("a0")
            assert people.served[-1] == "b"

    run(scenario())


def test_who_comes_later_and_goes_first_is_reckoned_with() -> None:
    """One place, a second each: alone, a low request would be served at once; where the high take them all, never."""

    async def scenario() -> None:
        hurried = LatencyClass(name="low", most_wait_s=5.0)
        async with crowd(1, classes=(HIGH, hurried)) as people:
            for number in range(150):
                await people.come(f"h{number}", HIGH)
                people.clock.now += 1.0
                await people.leave(f"h{number}")
            await people.come("last", HIGH)
            await people.come("low", hurried)
            assert people.refused["low"].metadata["cause"] == "hopeless"

            await people.leave("last")
            for number in range(150):
                await people.come(f"l{number}", hurried)
                people.clock.now += 1.0
                await people.leave(f"l{number}")
            await people.come("last of all", HIGH)
            await people.come("low again", hurried)
            assert people.reception.waiting == 1

    run(scenario())


def test_where_the_lines_are_full_the_lowest_class_makes_way() -> None:
    async def scenario() -> None:
        async with crowd(1, most_waiting=2) as people:
            await people.come("runs", LOW)
            await people.come("m", MIDDLE)
            await people.come("l", LOW)
            await people.come("h", HIGH)
            await people.come("l2", LOW)

            assert people.refused["l"].metadata == {"latency_class": "low", "cause": "displaced"}
            assert people.refused["l2"].metadata == {"latency_class": "low", "cause": "full"}
            assert all(error.retry_after_s for error in people.refused.values())
            await people.leave_in_turn()
            assert people.served == ["runs", "h", "m"]

    run(scenario())


def test_where_the_lines_are_full_a_tenant_that_fills_them_makes_way_for_another() -> None:
    async def scenario() -> None:
        async with crowd(1, most_waiting=3) as people:
            await people.come("runs")
            for number in range(4):
                await people.come(f"a{number}", tenant="a")
            await people.come("b0", tenant="b")
            await people.come("b1", tenant="b")

            causes = {name: error.metadata["cause"] for name, error in people.refused.items()}
            assert causes == {"a3": "full", "a2": "displaced", "b1": "full"}

    run(scenario())


def test_who_has_waited_as_long_as_its_class_allows_is_turned_away() -> None:
    async def scenario() -> None:
        impatient = LatencyClass(name="impatient", most_wait_s=0.05)
        async with crowd(1, classes=(impatient,)) as people:
            await people.come("runs", impatient)
            await people.come("waits", impatient)
            await eventually(lambda: "waits" in people.refused)

            assert people.refused["waits"].metadata["cause"] == "waited"
            assert people.reception.waiting == 0
            assert people.reception.inside == 1

    run(scenario())


def test_a_caller_that_leaves_the_line_leaves_no_gap() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("runs")
            await people.come("gives up")
            await people.come("stays")
            people.tasks["gives up"].cancel()
            await people.leave("runs")

            assert people.served == ["runs", "stays"]

    run(scenario())


def test_a_place_given_to_a_caller_that_leaves_at_that_moment_goes_to_the_next() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("runs")
            await people.come("leaves")
            await people.come("stays")
            people.tasks["runs"].cancel()
            async with asyncio.timeout(5):
                while people.reception.waiting > 1:  # noqa: ASYNC110 - at the very moment, and not one later
                    await asyncio.sleep(0)
            people.tasks["leaves"].cancel()
            await eventually(lambda: "stays" in people.served)

            assert "leaves" not in people.served
            assert people.reception.inside == 1

    run(scenario())


def test_closing_the_door_sends_away_who_has_not_begun() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("runs")
            await people.come("waits")
            people.reception.close()
            await people.come("comes late")
            await asyncio.sleep(0)

            assert set(people.refused) == {"waits", "comes late"}
            assert all(isinstance(error, DrainingError) for error in people.refused.values())
            assert all(error.retry_after_s for error in people.refused.values())
            assert people.served == ["runs"]

    run(scenario())


def test_other_rules_let_in_who_waits_for_a_place_that_is_there_now() -> None:
    async def scenario() -> None:
        async with crowd(1) as people:
            await people.come("runs")
            await people.come("waits", LOW)
            people.reception.obey(Precedence(classes=(HIGH,), default="high"), most=2, adaptive=True)
            await asyncio.sleep(0)
            await people.come("high", HIGH)

            assert people.served == ["runs", "waits"]
            await people.leave("waits")
            assert people.served == ["runs", "waits", "high"]

    run(scenario())


def test_a_class_is_named_by_those_who_may() -> None:
    paid = LatencyClass(name="paid", tenants=("acme-*",))
    precedence = Precedence(classes=(paid, MIDDLE), default="middle")

    assert precedence.of("", "anybody") is MIDDLE
    assert precedence.of("paid", "acme-1") is paid
    with pytest.raises(NotAllowedError, match=r"admission\.classes\.0") as refused:
        precedence.of("paid", "other")
    assert refused.value.metadata["field"] == "latency_class"
    with pytest.raises(UnknownNameError, match="known: middle"):
        precedence.of("urgent", "other")


def test_who_comes_back_after_a_pause_has_saved_up_nothing() -> None:
    async def scenario() -> None:
        line = WaitingLine()

        def asks(tenant: str, tokens: int = 100) -> Waiting:
            one = Waiting(latency_class=MIDDLE, tenant=tenant, tokens=tokens)
            line.join(one)
            return one

        for _ in range(10):
            line.serve(asks("busy"))
        waiting = [asks("busy"), asks("idle until now"), asks("idle until now"), asks("busy")]

        order = []
        while (first := line.first) is not None:
            line.serve(first)
            order.append(first)
        assert order == [waiting[1], waiting[0], waiting[2], waiting[3]]

    run(scenario())
