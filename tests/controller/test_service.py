"""GenerationService as a backend service meets it."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from controller.settings import LimitSettings
from speculation.rpc import error_info, error_of
from speculation.v1 import generation_pb2, generation_pb2_grpc
from tests import fakes
from tests.controller.house import (
    DRAFT,
    END_TOKEN,
    NOBODY_WAITS,
    ONE_PLACE,
    PROMPT,
    QUICK,
    VERIFY,
    House,
    LetterTokenizer,
    eventually,
    house,
    plain,
    read,
    request,
    run,
)

SERVICE = "speculation.v1.GenerationService"


async def refusal(home: House, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await home.answer(**fields)
    return caught.value


REFUSED = [
    pytest.param({"text": ""}, "text", id="empty text"),
    pytest.param({"tokens": {"ids": []}}, "tokens", id="no tokens"),
    pytest.param({"tokens": {"ids": [1, 97]}}, "tokens", id="a token beyond the vocabulary"),
    pytest.param({"chat": {"messages": []}}, "chat", id="no message"),
    pytest.param({"chat": {"messages": [{"content": "hi"}]}}, "chat", id="a message without a role"),
    pytest.param({"chat": {"messages": [{"role": "judge", "content": "hi"}]}}, "chat", id="the template refuses"),
    pytest.param({"max_new_tokens": 5000}, "prompt", id="more than the context holds"),
    pytest.param({"tokens": {"ids": [1] * 4096}, "max_new_tokens": 0}, "prompt", id="a prompt that leaves no room"),
    pytest.param({"stop": [""]}, "stop", id="an empty stop"),
    pytest.param({"stop": ["x"] * 17}, "stop", id="too many stops"),
    pytest.param({"stop": ["x" * 1_025]}, "stop", id="a stop that is too long"),
    pytest.param({"tokens": {"ids": [1] * 1_000_000}}, "prompt", id="a million tokens"),
    pytest.param({"stop_token_ids": [97]}, "stop_token_ids", id="a stop token beyond the vocabulary"),
    pytest.param({"sampling": {"temperature": -1}}, "temperature", id="negative temperature"),
    pytest.param({"sampling": {"top_p": 0}}, "top_p", id="top-p of nothing"),
    pytest.param({"sampling": {"top_p": 1.5}}, "top_p", id="top-p of more than all"),
    pytest.param({"sampling": {"min_p": 2}}, "min_p", id="min-p"),
    pytest.param({"sampling": {"repetition_penalty": 0}}, "repetition_penalty", id="repetition penalty"),
    pytest.param({"sampling": {"presence_penalty": 3}}, "presence_penalty", id="presence penalty"),
    pytest.param({"sampling": {"frequency_penalty": -3}}, "frequency_penalty", id="frequency penalty"),
    pytest.param({"sampling": {"logit_bias": {99: 1.0}}}, "logit_bias", id="a bias beyond the vocabulary"),
    pytest.param({"sampling": {"logit_bias": {1: float("nan")}}}, "logit_bias", id="a bias that is no number"),
    pytest.param({"logprobs": 21}, "logprobs", id="too many alternatives"),
    pytest.param({"request_id": "r" * 129}, "request_id", id="long request id"),
    pytest.param({"task": "t" * 65}, "task", id="long task"),
    pytest.param({"tenant": "t" * 65}, "tenant", id="long tenant"),
    pytest.param({"speculation": {"shape": {"depth": 65, "branching": 1, "budget": 9}}}, "shape.depth", id="too deep"),
    pytest.param({"speculation": {"shape": {"depth": 4, "branching": 1}}}, "shape.budget", id="a tree without nodes"),
]


def test_a_wrong_field_is_named() -> None:
    """One house for all cases: what is wrong with one request must not touch the next."""

    async def scenario() -> None:
        async with house() as home:
            for case in REFUSED:
                fields, field = case.values
                error = await refusal(home, **fields)  # type: ignore[arg-type]

                assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, case.id
                info = error_info(error)
                assert info is not None
                assert info.metadata["field"] == field, case.id
            assert (await home.answer()).token_ids == plain()
            assert home.controller.generation.reception.inside == 0

    run(scenario())


def test_a_request_without_a_prompt_is_refused() -> None:
    async def scenario() -> None:
        async with house() as home:
            call = home.generation.Generate(generation_pb2.GenerateRequest(), timeout=5)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(call)

            assert error_info(caught.value).metadata["field"] == "prompt"  # type: ignore[union-attr]

    run(scenario())


def test_a_text_that_cannot_fit_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer would read many megabytes for many seconds, and nobody else's prompt meanwhile."""
    read_lengths = []

    async def encode(self: LetterTokenizer, text: str) -> tuple[int, ...]:
        read_lengths.append(len(text))
        return tuple(ord(character) - 32 for character in text)

    async def scenario() -> None:
        monkeypatch.setattr(LetterTokenizer, "encode", encode)
        turns = [{"role": "user", "content": "a" * 100_000}] * 2
        async with house() as home:
            for prompt in ({"text": "a" * 100_000}, {"chat": {"messages": turns}}):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await read(home.generation.Generate(generation_pb2.GenerateRequest(**prompt), timeout=5))
                assert error_info(caught.value).reason == "PROMPT_TOO_LONG"  # type: ignore[union-attr]
                assert caught.value.details().startswith("prompt: at least ")  # type: ignore[union-attr]

    run(scenario())
    assert read_lengths == []


@pytest.mark.parametrize(
    "speculation",
    [pytest.param({"policy": "psychic"}, id="policy"), pytest.param({"drafters": ["alpha", "gamma"]}, id="drafter")],
)
def test_an_unknown_name_is_not_found(speculation: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with house() as home:
            error = await refusal(home, speculation=speculation)

            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert "known: " in str(error.details())

    run(scenario())


def test_text_chat_and_tokens_are_three_ways_to_say_the_same() -> None:
    async def scenario() -> None:
        async with house() as home:
            prompt = [ord(letter) - 32 for letter in "user:hi;"]
            answers = [
                await home.answer(text="user:hi;"),
                await home.answer(chat={"messages": [{"role": "user", "content": "hi"}]}),
                await home.answer(tokens={"ids": prompt}),
            ]

            assert [answer.token_ids for answer in answers] == [plain(prompt=prompt)] * 3
            assert answers[0].text == "".join(chr(32 + token) for token in plain(prompt=prompt))

    run(scenario())


def test_the_summary_is_complete() -> None:
    async def scenario() -> None:
        async with house() as home:
            summary = (await home.answer(request_id="mine", task="code", sampling={"seed": 7})).summary

            assert summary.request_id == "mine"
            assert summary.finish_reason == generation_pb2.FINISH_REASON_LENGTH
            assert (summary.usage.prompt_tokens, summary.usage.completion_tokens) == (len(PROMPT), 40)
            assert summary.seed == 7
            record = summary.acceptance
            assert record.num_spec_steps == len(record.per_step_drafted) == len(record.per_step_accepted)
            assert record.num_draft_tokens == sum(record.per_step_drafted)
            assert record.num_accepted_draft_tokens == sum(record.per_step_accepted) > 0
            assert summary.decision.policy == "static"
            assert list(summary.decision.drafters) == ["alpha"]
            assert summary.decision.propensity == 1.0
            assert summary.decision.explanation
            assert dict(summary.model_revisions) == {"target": "r1", "alpha": "r1"}
            assert summary.prompt_surprisal["alpha"] == pytest.approx(1.3)
            rounds = summary.timings.rounds
            assert 0 < summary.timings.time_to_first_token_ns <= summary.timings.total_ns
            assert rounds.round_ns >= rounds.verify_ns > rounds.verify_worker_ns > 0
            assert rounds.draft_ns > rounds.draft_worker_ns > 0

    run(scenario())


def test_a_seed_is_drawn_and_told_if_none_is_given() -> None:
    async def scenario() -> None:
        async with house() as home:
            first, second = await home.answer(sampling={}), await home.answer(sampling={})
            again = await home.answer(sampling={"seed": first.summary.seed})

            assert first.summary.seed != second.summary.seed
            assert again.token_ids == first.token_ids == plain(seed=first.summary.seed)

    run(scenario())


def test_an_answer_ends_at_the_models_end_token_unless_told_otherwise() -> None:
    async def scenario() -> None:
        async with house() as home:
            seed = next(seed for seed in range(1000) if END_TOKEN in plain(25, seed=seed)[3:])
            expected = plain(30, seed=seed)
            end = expected.index(END_TOKEN)

            ended = await home.answer(ignore_eos=False, sampling={"seed": seed}, max_new_tokens=30)
            ignored = await home.answer(ignore_eos=True, sampling={"seed": seed}, max_new_tokens=30)

            assert ended.token_ids == expected[: end + 1]
            assert len(ended.text) == end, "an end token is not text"
            assert ended.summary.finish_reason == generation_pb2.FINISH_REASON_STOP
            assert ignored.token_ids == expected

    run(scenario())


def test_a_stop_string_ends_the_answer_before_it() -> None:
    async def scenario() -> None:
        async with house() as home:
            text = "".join(chr(32 + token) for token in plain())
            stop = text[10:13]
            for policy in ("none", "static"):
                answer = await home.answer(stop=["never", stop], speculation={"policy": policy})

                assert answer.text == text[: text.index(stop)]
                assert answer.summary.matched_stop == stop
                assert answer.summary.finish_reason == generation_pb2.FINISH_REASON_STOP
                assert len(answer.token_ids) == text.index(stop) + 3, "nothing after the stop, however rounds fell"

    run(scenario())


def test_max_new_tokens_has_a_default_that_fits() -> None:
    async def scenario() -> None:
        async with house(fakes.description(max_length=100), limits=LimitSettings(default_max_new_tokens=30)) as home:
            few = await home.answer(tokens={"ids": [1] * 90}, max_new_tokens=0)
            many = await home.answer(tokens={"ids": [1]}, max_new_tokens=0)

            assert (len(few.token_ids), len(many.token_ids)) == (10, 30)

    run(scenario())


@pytest.mark.parametrize(("asked", "alternatives"), [(0, 0), (1, 1)])
def test_logprobs_come_with_their_tokens(asked: int, alternatives: int) -> None:
    async def scenario() -> None:
        async with house() as home:
            answer = await home.answer(logprobs=asked)
            without = await home.answer()

            for delta in answer.deltas:
                assert len(delta.logprobs) == len(delta.token_ids)
                assert all(len(entry.top) == alternatives for entry in delta.logprobs)
            assert not any(delta.logprobs for delta in without.deltas)

    run(scenario())


def test_rounds_are_explained_if_asked_for() -> None:
    async def scenario() -> None:
        async with house() as home:
            answer = await home.answer(explain=True)

            assert [report.round for report in answer.rounds] == list(range(len(answer.deltas)))
            for report, delta in zip(answer.rounds, answer.deltas, strict=True):
                assert len(report.node_texts) == len(report.tree.token_ids)
                accepted = "".join(report.node_texts[node] for node in report.accepted)
                assert (accepted + report.extra_text).startswith(delta.text)
                assert report.timings.round_ns > 0

    run(scenario())


async def freed_within_a_second(home: House) -> None:
    await eventually(lambda: not home.sessions() and not home.controller.generation.reception.inside, within_s=1.0)


def test_cancelling_frees_everything_within_a_second() -> None:
    async def scenario() -> None:
        async with house() as home:
            for worker in home.workers:
                worker.worker.faults.delay_s = 0.05
            call = home.generation.Generate(request(max_new_tokens=2000), timeout=20)
            await call.read()

            call.cancel()

            await freed_within_a_second(home)

    run(scenario())


def test_a_deadline_frees_everything_within_a_second() -> None:
    async def scenario() -> None:
        async with house() as home:
            for worker in home.workers:
                worker.worker.faults.delay_s = 0.05
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(home.generation.Generate(request(max_new_tokens=2000), timeout=0.6))

            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await freed_within_a_second(home)
            assert all(worker.serving for worker in home.controller.fleet.workers), "a deadline is nobody's fault"

    run(scenario())


def test_a_request_without_a_deadline_gets_one() -> None:
    async def scenario() -> None:
        async with house(timeouts=QUICK.model_copy(update={"longest_request_s": 0.5})) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await read(home.generation.Generate(request(max_new_tokens=2000)))

            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await freed_within_a_second(home)

    run(scenario())


def test_more_requests_than_places_are_sent_away_at_once() -> None:
    async def scenario() -> None:
        async with house(limits=ONE_PLACE, more=NOBODY_WAITS) as home:
            home.workers[0].worker.faults.delay_s = 0.05
            first = home.generation.Generate(request(max_new_tokens=2000), timeout=20)
            await first.read()

            error = await refusal(home)
            first.cancel()
            await freed_within_a_second(home)
            home.workers[0].worker.faults.delay_s = 0.0

            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert (await home.answer()).token_ids == plain()

    run(scenario())


def test_many_requests_at_once_do_not_mix() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, policy="merged") as home:
            answers = await asyncio.gather(*(home.answer(sampling={"seed": seed}) for seed in range(16)))

            assert [answer.token_ids for answer in answers] == [plain(seed=seed) for seed in range(16)]

    run(scenario())


def test_tenants_share_nothing_that_workers_have_computed() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT, policy="merged") as home:
            for tenant in ("acme", ""):
                await home.answer(tenant=tenant)

            assert [running.worker.cache_salts for running in home.workers] == [["acme", ""]] * 2

    run(scenario())


def test_without_a_target_a_request_waits_and_then_fails_as_unavailable() -> None:
    async def scenario() -> None:
        async with house(DRAFT, timeouts=QUICK.model_copy(update={"verify_wait_s": 0.3})) as home:
            error = await refusal(home)

            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert error_of(error, "controller").reason == "WORKER_UNAVAILABLE"

    run(scenario())


def test_health_follows_the_target() -> None:
    async def scenario() -> None:
        async with house(VERIFY, DRAFT) as home:
            stub = health_pb2_grpc.HealthStub(home.channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
            seen = [(await watch.read()).status]

            await home.workers[0].kill()
            seen.append((await watch.read()).status)
            successor = await fakes.start_worker(VERIFY, port=int(home.workers[0].address.rpartition(":")[2]))
            seen.append((await watch.read()).status)
            watch.cancel()
            await successor.kill()

            status = health_pb2.HealthCheckResponse
            assert seen == [status.SERVING, status.NOT_SERVING, status.SERVING]

    run(scenario())


def test_draining_finishes_what_runs_and_takes_nothing_new() -> None:
    async def scenario() -> None:
        ready: asyncio.Future[House] = asyncio.get_running_loop().create_future()
        leave = asyncio.Event()

        async def live() -> None:
            async with house(VERIFY) as home:
                home.workers[0].worker.faults.delay_s = 0.03
                ready.set_result(home)
                await leave.wait()

        living = asyncio.create_task(live())
        home = await ready
        async with grpc.aio.insecure_channel(home.controller.address) as channel:
            stub = generation_pb2_grpc.GenerationServiceStub(channel)
            reading = asyncio.create_task(read(stub.Generate(request(), timeout=20)))
            await eventually(lambda: len(home.workers[0].worker.rounds) > 2)
            leave.set()
            await eventually(lambda: home.controller.generation.reception.draining)
            with pytest.raises(grpc.aio.AioRpcError) as late:
                await read(stub.Generate(request(), timeout=20))
            answer = await reading
        await living

        assert late.value.code() is grpc.StatusCode.UNAVAILABLE
        assert error_of(late.value, "controller").reason == "DRAINING"
        assert answer.token_ids == plain()

    run(scenario())
