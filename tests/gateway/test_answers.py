"""OpenAI's own client gets the text that gRPC gives, in the shape that it knows."""

import asyncio
import json
from typing import Any

import pytest

from tests import fakes
from tests.controller.house import END_TOKEN, house, plain, run
from tests.forerun.fake_service import WORDS, FakeGenerationService, serving
from tests.gateway.front import CONVERSATION, MODEL, PROMPT, front, front_of

LETTERS = [ord(letter) - 32 for letter in PROMPT]


def text_of(token_ids: list[int]) -> str:
    return "".join(chr(32 + token) for token in token_ids)


@pytest.mark.parametrize("temperature", [pytest.param(0.0, id="greedy"), pytest.param(0.8, id="sampled")])
def test_a_completion_is_what_grpc_gives(temperature: float) -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            over_grpc = await home.answer(text=PROMPT, sampling={"seed": 7, "temperature": temperature})
            answer = await gateway.completion(temperature=temperature)

            assert answer.choices[0].text == over_grpc.text == text_of(plain(prompt=LETTERS))
            assert (answer.object, answer.model, answer.seed) == ("text_completion", MODEL, 7)
            assert answer.choices[0].finish_reason == "length"
            assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(PROMPT), 40)
            assert answer.usage.total_tokens == len(PROMPT) + 40

    run(scenario())


def test_a_chat_completion_is_what_grpc_gives() -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            over_grpc = await home.answer(chat={"messages": CONVERSATION})
            answer = await gateway.chat()

            assert answer.choices[0].message.content == over_grpc.text
            assert (answer.object, answer.choices[0].message.role) == ("chat.completion", "assistant")
            assert answer.choices[0].finish_reason == "length"

    run(scenario())


def test_usage_tells_what_was_drafted_and_accepted() -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            record = (await home.answer(text=PROMPT)).summary.acceptance
            usage = (await gateway.completion()).usage.speculation

            assert usage["accepted_tokens"] == record.num_accepted_draft_tokens > 0
            assert usage["drafted_tokens"] == record.num_draft_tokens
            assert usage["rounds"] == record.num_spec_steps

    run(scenario())


def test_speculation_is_the_callers_to_forbid() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            off = await gateway.completion(extra_body={"ignore_eos": True, "speculation": {"off": True}})

            assert off.usage.speculation["drafted_tokens"] == 0
            assert off.choices[0].text == text_of(plain(prompt=LETTERS))

    run(scenario())


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param(PROMPT, id="text"),
        pytest.param([PROMPT], id="a list of one text"),
        pytest.param(LETTERS, id="tokens"),
        pytest.param([LETTERS], id="a list of one list of tokens"),
    ],
)
def test_a_prompt_may_be_written_in_four_ways(prompt: Any) -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            answer = await gateway.completion(prompt=prompt)

            assert answer.choices[0].text == text_of(plain(prompt=LETTERS))

    run(scenario())


def test_a_developer_is_a_system_and_parts_are_lines() -> None:
    async def scenario() -> None:
        service = FakeGenerationService()
        with serving(service) as controller:
            async with front_of(controller) as gateway:
                parts = [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]
                sent_back = (await gateway.chat(model="words")).choices[0].message.model_dump()
                turns = [{"role": "developer", "content": parts}, sent_back, {"role": "user", "content": "é"}]
                await gateway.chat(model="words", messages=turns)

                said = [(turn.role, turn.content) for turn in service.requests[1].chat.messages]
                assert said == [("system", "be\nbrief"), ("assistant", "".join(WORDS)), ("user", "é")]

    run(scenario())


def test_a_stream_of_completions_is_the_text() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            stream = await gateway.completion(stream=True, stream_options={"include_usage": True})
            chunks = [chunk async for chunk in stream]

            assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == text_of(plain(prompt=LETTERS))
            assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
            assert len({chunk.id for chunk in chunks}) == 1
            assert chunks[-1].choices == []
            assert chunks[-1].usage.completion_tokens == 40
            assert chunks[-1].usage.speculation["accepted_tokens"] > 0

    run(scenario())


def test_a_stream_of_chat_begins_with_the_role_and_ends_with_the_reason() -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            over_grpc = await home.answer(chat={"messages": CONVERSATION})
            chunks = [chunk async for chunk in await gateway.chat(stream=True)]

            assert chunks[0].choices[0].delta.role == "assistant"
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == over_grpc.text
            assert chunks[-1].choices[0].finish_reason == "length"
            assert len(chunks) > 4, "rounds arrive one by one"
            assert all(chunk.usage is None for chunk in chunks)

    run(scenario())


def test_a_stream_is_written_as_server_sent_events() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            response = await gateway.post(stream=True, seed=7)
            lines = response.text.split("\n\n")

            assert response.headers["content-type"].startswith("text/event-stream")
            assert lines[-2:] == ["data: [DONE]", ""]
            chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
            assert all("usage" not in chunk for chunk in chunks), "unless it is asked for"

    run(scenario())


def test_a_seed_is_drawn_and_told_and_gives_the_text_again() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            first, other = await gateway.completion(seed=None), await gateway.completion(seed=None)
            again = await gateway.completion(seed=first.seed)

            assert first.choices[0].text == again.choices[0].text
            assert first.seed != other.seed
            assert 0 <= first.seed < 2**53

    run(scenario())


def test_a_negative_seed_is_its_own_64_bits() -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            over_grpc = await home.answer(text=PROMPT, sampling={"seed": 2**64 - 3})

            assert (await gateway.completion(seed=-3)).choices[0].text == over_grpc.text

    run(scenario())


def test_logprobs_of_a_completion_name_the_tokens() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            told = (await gateway.completion(logprobs=1)).choices[0].logprobs
            streamed = [chunk async for chunk in await gateway.completion(logprobs=1, stream=True)]

            assert "".join(told.tokens) == text_of(plain(prompt=LETTERS))
            assert told.token_logprobs == [-0.5] * 40
            assert told.top_logprobs == [{token: -0.5} for token in told.tokens]
            assert told.text_offset == list(range(40))
            pieces = [chunk.choices[0].logprobs for chunk in streamed if chunk.choices[0].logprobs]
            assert [offset for piece in pieces for offset in piece.text_offset] == told.text_offset

    run(scenario())


def test_logprobs_of_a_chat_name_the_tokens_and_their_bytes() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            answer = await gateway.chat(logprobs=True, top_logprobs=1, max_tokens=3)
            bare = await gateway.chat(logprobs=True, max_tokens=3)
            silent = await gateway.chat(max_tokens=3)

            positions = answer.choices[0].logprobs.content
            assert "".join(position.token for position in positions) == answer.choices[0].message.content
            assert positions[0].bytes == list(positions[0].token.encode())
            assert positions[0].logprob == -0.5
            assert positions[0].top_logprobs[0].token == positions[0].token
            assert [position.top_logprobs for position in bare.choices[0].logprobs.content] == [[], [], []]
            assert silent.choices[0].logprobs is None

    run(scenario())


@pytest.mark.parametrize("several", [False, True])
def test_a_stop_ends_the_answer_before_it(several: bool) -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            whole = text_of(plain(prompt=LETTERS))
            stop = whole[10:13]
            answer = await gateway.completion(stop=[stop, "\n\n"] if several else stop)

            assert answer.choices[0].text == whole[: whole.index(stop)]
            assert answer.choices[0].finish_reason == "stop"

    run(scenario())


def test_an_answer_ends_at_the_models_end_token() -> None:
    async def scenario() -> None:
        seed = next(seed for seed in range(200) if END_TOKEN in plain(prompt=LETTERS, seed=seed)[:30])
        async with front() as (gateway, _):
            answer = await gateway.completion(seed=seed, extra_body={})

            assert answer.choices[0].finish_reason == "stop"
            assert answer.usage.completion_tokens == plain(prompt=LETTERS, seed=seed).index(END_TOKEN) + 1

    run(scenario())


def test_a_completion_has_sixteen_tokens_unless_told_otherwise() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            answer = await gateway.completion(max_tokens=None)

            assert answer.usage.completion_tokens == 16

    run(scenario())


def test_the_model_is_listed_and_retrieved() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            listed = [model async for model in gateway.openai.models.list()]
            one = await gateway.openai.models.retrieve(MODEL)

            assert [model.id for model in listed] == [MODEL]
            assert one.id == MODEL
            assert one.max_model_len == 4096

    run(scenario())


def test_the_model_is_called_as_the_operator_likes() -> None:
    async def scenario() -> None:
        async with front({"model_name": "ours"}) as (gateway, _):
            assert (await gateway.completion(model="ours")).model == "ours"
            assert (await gateway.post(model=MODEL)).status_code == 404

    run(scenario())


def test_a_folder_on_the_targets_machine_is_not_told() -> None:
    async def scenario() -> None:
        async with (
            house(fakes.description(model="/home/somebody/models/toy")) as home,
            front_of(home.controller.address) as gateway,
        ):
            assert [model.id async for model in gateway.openai.models.list()] == ["toy"]

    run(scenario())


def test_many_callers_get_each_their_own() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            answers = await asyncio.gather(*(gateway.completion(seed=seed) for seed in range(8)))

            for seed, answer in enumerate(answers):
                assert answer.choices[0].text == text_of(plain(prompt=LETTERS, seed=seed))

    run(scenario())
