"""Drafters that are idle score answers that others drafted, and are in nobody's way."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from controller import scorer
from controller.experience import ScoreLesson, score_lesson
from controller.settings import RedisSettings, RuleSettings
from router_models.policy import LearningPolicy
from speculation.v1 import router_pb2
from tests.controller.house import DRAFT, DRAFT_TOO, PROMPT, QUICK, VERIFY, House, eventually, house, request, run
from tests.fakes import FakeWorker

ALPHA, BETA = 1, 2
"""Places of the drafters among the workers; alpha drafts."""

LONG = 60
"""Seconds that no test waits for."""

PATIENT = QUICK.model_copy(update={"health_timeout_s": 10.0})
"""A drafter that a busy machine keeps waiting has not gone: its passes would be dropped."""


@asynccontextmanager
async def scoring_house(folder: Path, **router: Any) -> AsyncIterator[tuple[House, Redis]]:
    """A controller with two drafters, one of which drafts, and a log; every answer is scored unless told otherwise."""
    settings = RedisSettings(url=f"embedded://{folder}/r", shared_learning=False)
    options: dict[str, Any] = {"drafter": "alpha", "scoring_share": 1.0, "timeouts": PATIENT} | router
    async with (
        house(VERIFY, DRAFT, DRAFT_TOO, redis=settings, **options) as at_home,
        Redis.from_url(f"unix://{folder}/r/redis.sock") as redis,
    ):
        yield at_home, redis


def drafters(at_home: House) -> tuple[FakeWorker, FakeWorker]:
    return at_home.workers[ALPHA].worker, at_home.workers[BETA].worker


async def state(at_home: House) -> Any:
    return (await at_home.router.Show(router_pb2.ShowRequest(), timeout=10)).scoring


async def settled(at_home: House, *, scored: int, dropped: int = 0) -> None:
    """Wait until so many passes have ended."""
    while True:
        now = await state(at_home)
        assert now.scored <= scored, now
        assert now.dropped <= dropped, now
        if (now.scored, now.dropped, now.waiting) == (scored, dropped, 0):
            return


async def lessons(redis: Redis, count: int) -> list[ScoreLesson]:
    """The scores in the log, as soon as there are so many."""
    while len(entries := await redis.xrange("forerun:default:scores")) < count:
        pass
    assert len(entries) == count
    return [score_lesson(fields[b"record"]) for _, fields in entries]


@asynccontextmanager
async def busy(at_home: House) -> AsyncIterator[None]:
    """A request that does not end while the body runs."""
    at_home.workers[0].worker.faults.delay_s = 0.05
    call = at_home.generation.Generate(request(max_new_tokens=2000), timeout=LONG)
    await call.read()
    yield
    at_home.workers[0].worker.faults.delay_s = 0.0
    call.cancel()


def test_an_answer_is_scored_by_all_and_what_its_drafter_says_teaches_nobody(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, redis):
            answer = await at_home.answer(request_id="r1", task="code", tenant="acme", max_new_tokens=12)
            lesson, of_drafter = await lessons(redis, 2)

            assert [one.scored for one in drafters(at_home)] == [[(PROMPT, tuple(answer.token_ids))]] * 2
            assert (of_drafter.drafter, of_drafter.frozen) == ("alpha", True)
            assert (lesson.drafter, lesson.scores.ranks) == ("beta", (1,) * 12)
            context = lesson.context
            assert (context.request_id, context.task, context.tenant) == ("r1", "code", "acme")
            assert (context.prompt_tokens, context.emitted_tokens, context.remaining_tokens) == (len(PROMPT), 12, 0)
            assert context.round == answer.summary.acceptance.num_spec_steps
            assert context.prompt_surprisal.keys() == {"alpha", "beta"}
            assert not lesson.frozen
            assert {salt for worker in at_home.workers for salt in worker.worker.cache_salts} == {"acme"}

    run(body())


def test_what_can_be_learnt_comes_first_and_waits_for_nothing_else(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, redis):
            async with busy(at_home):
                await at_home.answer(max_new_tokens=3)
                await at_home.answer(max_new_tokens=4)

            await settled(at_home, scored=4)
            told = await lessons(redis, 4)

            assert [(one.drafter, one.frozen) for one in told] == [("beta", False)] * 2 + [("alpha", True)] * 2

    run(body())


def test_the_session_is_opened_as_the_request_was_and_in_the_background(tmp_path: Path) -> None:
    """Then the candidates are those that the drafter would have proposed."""

    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _):
            beta = drafters(at_home)[1]
            beta.faults.delays_s = [0, 0, LONG]
            await at_home.answer(sampling={"seed": 99, "temperature": 0.5})
            await eventually(lambda: beta.exchanges == 2)

            (session,) = beta.sessions
            assert (session.seed, session.background) == (99, True)

    run(body())


def test_a_share_of_none_scores_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path, scoring_share=0.0) as (at_home, _):
            for _ in range(5):
                await at_home.answer(max_new_tokens=4)

            assert (await state(at_home)).waiting == 0
            assert drafters(at_home)[1].opened == 0

    run(body())


@pytest.mark.parametrize(
    ("rule", "call", "passes"),
    [
        ({"denied_drafters": ("beta",)}, {}, 1),
        ({"allowed_drafters": ("alpha",)}, {}, 1),
        ({"scoring_share": 0.0}, {}, 0),
        ({}, {"speculation": {"drafters": ["alpha"]}}, 1),
    ],
    ids=["denied", "not allowed", "the rule's own share", "not the caller's"],
)
def test_who_may_not_draft_for_a_request_does_not_read_its_answer(
    tmp_path: Path, rule: dict[str, Any], call: dict[str, Any], passes: int
) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path, rules=(RuleSettings(task="secret", **rule),)) as (at_home, _):
            await at_home.answer(task="secret", **call)
            await at_home.answer(task="open")
            await settled(at_home, scored=passes + 2)

            assert drafters(at_home)[1].opened == 1

    run(body())


def test_nobody_scores_while_a_request_is_served_on_the_same_machine(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _):
            async with busy(at_home):
                await at_home.answer(max_new_tokens=4)
                assert (await state(at_home)).waiting == 2
                assert drafters(at_home)[1].opened == 0

            await settled(at_home, scored=2)

    run(body())


def test_a_pass_gives_way_to_a_request_and_is_done_when_that_has_ended(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _):
            beta = drafters(at_home)[1]
            beta.faults.delays_s = [0, 0, LONG]
            await at_home.answer(max_new_tokens=4)
            await eventually(lambda: beta.exchanges == 2)

            await at_home.answer(max_new_tokens=5)
            await settled(at_home, scored=4)

            assert [len(text) for _, text in beta.scored] == [4, 5]

    run(body())


@pytest.mark.parametrize("fault", ["dies", "busy", "answers garbage"])
def test_what_goes_wrong_is_counted_and_nothing_more(tmp_path: Path, fault: str) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _):
            beta = drafters(at_home)[1]
            beta.faults.die_after = 2 if fault == "dies" else None
            beta.faults.garbage = fault == "answers garbage"
            beta.faults.statuses = [0, 0, 3] if fault == "busy" else []
            await at_home.answer(max_new_tokens=4)
            await settled(at_home, scored=1, dropped=1)

            assert all(worker.serving for worker in at_home.controller.fleet.workers)
            beta.faults.die_after, beta.faults.garbage = None, False
            await at_home.answer(max_new_tokens=4)
            await settled(at_home, scored=3, dropped=1)

    run(body())


def test_of_too_many_the_oldest_are_dropped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "MOST_ANSWERS", 2)

    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _):
            async with busy(at_home):
                for length in (3, 4, 5, 6):
                    await at_home.answer(max_new_tokens=length)
                now = await state(at_home)
                assert (now.waiting, now.dropped) == (4, 4)
            await settled(at_home, scored=4, dropped=4)

            assert [len(text) for _, text in drafters(at_home)[1].scored] == [5, 6]

    run(body())


def test_what_has_waited_too_long_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "PATIENCE_S", 0.05)

    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _), busy(at_home):
            await at_home.answer(max_new_tokens=3)
            await settled(at_home, scored=0, dropped=2)

    run(body())


def test_the_kill_switch_stops_scoring_too(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path) as (at_home, _):
            async with busy(at_home):
                await at_home.answer(max_new_tokens=3)
                await at_home.router.SetKillSwitch(router_pb2.SetKillSwitchRequest(engaged=True), timeout=10)
            await settled(at_home, scored=0, dropped=2)
            await at_home.answer(max_new_tokens=3)

            assert (await state(at_home)).waiting == 0

    run(body())


def test_a_controller_ends_in_the_middle_of_a_pass(tmp_path: Path) -> None:
    async def body() -> FakeWorker:
        async with scoring_house(tmp_path) as (at_home, _):
            beta = drafters(at_home)[1]
            beta.faults.delays_s = [0, 0, LONG]
            await at_home.answer(max_new_tokens=4)
            await eventually(lambda: beta.exchanges == 2)
        return beta

    assert run(body()).scored == []


def test_a_policy_that_learns_alone_learns_from_scores() -> None:
    """Without a log; nobody has drafted."""

    async def body() -> list[Any]:
        async with house(VERIFY, DRAFT, DRAFT_TOO, policy="planner", mode="off", scoring_share=1.0) as at_home:
            await at_home.answer(max_new_tokens=6)
            await settled(at_home, scored=2)
            planner = at_home.controller.steering.policies["planner"]
            assert isinstance(planner, LearningPolicy)
            return list(planner.state().labels["acceptance"])

    learnt = run(body())

    assert {key[2] for key in learnt if len(key) > 2} == {"alpha", "beta"}


def test_frozen_scores_are_logged_and_teach_nobody(tmp_path: Path) -> None:
    async def body() -> None:
        async with scoring_house(tmp_path, policy="planner", mode="frozen") as (at_home, redis):
            await at_home.answer(max_new_tokens=6, speculation={"off": True})
            learnt = await lessons(redis, 2)

            planner = at_home.controller.steering.policies["planner"]
            assert isinstance(planner, LearningPolicy)
            assert [lesson.frozen for lesson in learnt] == [True, True]
            assert planner.state().labels["acceptance"] == []

    run(body())


def test_where_nobody_would_learn_from_it_nothing_is_scored() -> None:
    """Neither a log nor a policy that learns."""

    async def body() -> int:
        async with house(VERIFY, DRAFT, DRAFT_TOO, drafter="alpha", scoring_share=1.0) as at_home:
            await at_home.answer(max_new_tokens=6)
            return int((await state(at_home)).waiting)

    assert run(body()) == 0
