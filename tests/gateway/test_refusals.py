"""What is wrong is said in OpenAI's words, with the field and a proper status."""

import asyncio
from typing import Any

import grpc
import httpx2
import openai
import pytest

from controller.settings import AdmissionSettings, LatencyClassSettings, QuotaSettings
from speculation.errors import (
    CapacityError,
    DrainingError,
    ForerunError,
    NotAllowedError,
    PromptTooLongError,
    UnknownNameError,
)
from tests.controller.house import NOBODY_WAITS, ONE_PLACE, QUICK, eventually, run
from tests.forerun.fake_service import WORDS, FakeGenerationService, serving
from tests.gateway.front import CONVERSATION, MODEL, PROMPT, front, front_of

CHAT = "/v1/chat/completions"
TEXT = {"model": MODEL, "prompt": PROMPT}
TALK = {"model": MODEL, "messages": CONVERSATION}
SHAPE = {"depth": 99, "branching": 1, "budget": 9}

REFUSED = [
    pytest.param({"prompt": ""}, "prompt", "invalid_request", id="no token"),
    pytest.param({"prompt": []}, "prompt", "invalid_request", id="an empty list"),
    pytest.param({"prompt": ["a", "b"]}, "prompt", "unsupported_value", id="two prompts"),
    pytest.param({"prompt": [1, 97]}, "prompt", "invalid_request", id="a token beyond the vocabulary"),
    pytest.param({"prompt": [-1]}, "prompt", "invalid_request", id="a negative token"),
    pytest.param({"prompt": 5}, "prompt", "invalid_value", id="a prompt that is none"),
    pytest.param({"prompt": "a" * 5000}, "prompt", "context_length_exceeded", id="too long a prompt"),
    pytest.param({"max_tokens": 0}, "max_tokens", "invalid_value", id="no tokens"),
    pytest.param({"max_tokens": 5000}, "prompt", "context_length_exceeded", id="too many tokens"),
    pytest.param({"max_tokens": 2**40}, "max_tokens", "invalid_value", id="far too many tokens"),
    pytest.param({"max_tokens": "4"}, "max_tokens", "invalid_value", id="text for a number"),
    pytest.param({"max_tokens": True}, "max_tokens", "invalid_value", id="a boolean for a number"),
    pytest.param({"temperature": -1}, "temperature", "invalid_request", id="temperature"),
    pytest.param({"top_p": 0}, "top_p", "invalid_request", id="top-p"),
    pytest.param({"min_p": 2}, "min_p", "invalid_request", id="min-p"),
    pytest.param({"top_k": -2}, "top_k", "invalid_value", id="top-k"),
    pytest.param({"presence_penalty": 3}, "presence_penalty", "invalid_request", id="presence penalty"),
    pytest.param({"frequency_penalty": -3}, "frequency_penalty", "invalid_request", id="frequency penalty"),
    pytest.param({"repetition_penalty": 0}, "repetition_penalty", "invalid_request", id="repetition penalty"),
    pytest.param({"logit_bias": {"99": 1}}, "logit_bias", "invalid_request", id="bias beyond the vocabulary"),
    pytest.param({"logit_bias": {"9999999999": 1}}, "logit_bias", "invalid_request", id="bias beyond all tokens"),
    pytest.param({"seed": 2**64}, "seed", "invalid_value", id="seed"),
    pytest.param({"stop": [""]}, "stop", "invalid_request", id="an empty stop"),
    pytest.param({"stop": ["x"] * 17}, "stop", "invalid_request", id="too many stops"),
    pytest.param({"stop_token_ids": [97]}, "stop_token_ids", "invalid_request", id="stop token"),
    pytest.param({"n": 2}, "n", "unsupported_value", id="two answers"),
    pytest.param({"n": True}, "n", "invalid_value", id="a boolean for one answer"),
    pytest.param({"echo": 0}, "echo", "invalid_value", id="a number for no echo"),
    pytest.param({"best_of": 2}, "best_of", "unsupported_value", id="the best of two"),
    pytest.param({"echo": True}, "echo", "unsupported_value", id="echo"),
    pytest.param({"suffix": "}"}, "suffix", "unsupported_parameter", id="suffix"),
    pytest.param({"logprobs": 21}, "logprobs", "invalid_value", id="too many alternatives"),
    pytest.param({"temprature": 1}, "temprature", "unknown_parameter", id="a misspelt field"),
    pytest.param({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value", id="no stream"),
    pytest.param({"speculation": {"fast": True}}, "speculation.fast", "unknown_parameter", id="a misspelt inner field"),
    pytest.param({"speculation": {"shape": SHAPE}}, "speculation.shape.depth", "invalid_request", id="shape"),
    pytest.param({"speculation": {"tenant": "t" * 65}}, "speculation.tenant", "invalid_request", id="long tenant"),
]

REFUSED_CHAT = [
    pytest.param({"messages": []}, "messages", "invalid_request", id="no message"),
    pytest.param({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter", id="no content"),
    pytest.param({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "unsupported_value", id="a tool"),
    pytest.param({"tools": [{"type": "function"}]}, "tools", "invalid_value", id="tools"),
    pytest.param({"response_format": {"type": "json_object"}}, "response_format.type", "unsupported_value", id="JSON"),
    pytest.param({"store": 0.0}, "store", "invalid_value", id="a number for no storing"),
    pytest.param({"top_logprobs": 2}, "top_logprobs", "invalid_value", id="alternatives of nothing"),
    pytest.param({"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", "invalid_value", id="both"),
    pytest.param({"n": 2}, "n", "unsupported_value", id="two answers"),
]


def problem_of(response: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's form."""
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    return dict(body["error"])


def test_a_wrong_field_is_named() -> None:
    """One gateway for all cases: what is wrong with one request must not touch the next."""

    async def scenario() -> None:
        async with front() as (gateway, home):
            for path, good, cases in (("/v1/completions", TEXT, REFUSED), (CHAT, TALK, REFUSED_CHAT)):
                for case in cases:
                    fields, param, code = case.values
                    response = await gateway.http.post(path, json=good | fields)  # type: ignore[operator]
                    problem = problem_of(response)

                    assert (response.status_code, problem["type"]) == (400, "invalid_request_error"), case.id
                    assert (problem["param"], problem["code"]) == (param, code), (case.id, problem)
            assert (await gateway.post(seed=7)).status_code == 200
            assert home.controller.generation.reception.inside == 0

    run(scenario())


@pytest.mark.parametrize("missing", ["model", "prompt"])
def test_a_missing_field_is_named(missing: str) -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            fields = {"model": MODEL, "prompt": PROMPT}
            del fields[missing]
            problem = problem_of(await gateway.http.post("/v1/completions", json=fields))

            assert (problem["param"], problem["code"]) == (missing, "missing_required_parameter")

    run(scenario())


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="broken off"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 100_000, id="deeply nested"),
        pytest.param(b'{"model": "m", "prompt": "p", "seed": ' + b"9" * 5000 + b"}", id="a huge number"),
        pytest.param(b'{"model": "m", "prompt": "p", "temperature": NaN}', id="no number"),
        pytest.param(b'{"model": "m", "prompt": "p", "\\ud800": 1}', id="a name that is half a character"),
        pytest.param(b'{"model": "acme/letters", "prompt": "\\ud800"}', id="half a character"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            response = await gateway.http.post(
                "/v1/completions", content=body, headers={"content-type": "application/json"}
            )

            assert response.status_code == 400
            assert problem_of(response)["type"] == "invalid_request_error"

    run(scenario())


def test_a_body_that_is_not_said_to_be_json_is_refused_in_words() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            response = await gateway.http.post("/v1/completions", content=b'{"model": "m", "prompt": "p"}')

            assert response.status_code == 400
            assert "application/json" in problem_of(response)["message"]

    run(scenario())


def test_names_that_do_not_exist_are_not_found() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            for fields, param, code in (
                ({"model": "gpt"}, "model", "model_not_found"),
                ({"speculation": {"policy": "psychic"}}, "speculation.policy", "unknown_name"),
                ({"speculation": {"drafters": ["gamma"]}}, "speculation.drafters", "unknown_name"),
            ):
                response = await gateway.post(**fields)  # type: ignore[arg-type]

                assert response.status_code == 404
                assert (problem_of(response)["param"], problem_of(response)["code"]) == (param, code)
            with pytest.raises(openai.NotFoundError):
                await gateway.openai.models.retrieve("gpt")

    run(scenario())


def test_paths_and_methods_that_do_not_exist() -> None:
    async def scenario() -> None:
        async with front() as (gateway, _):
            nowhere, not_so = await gateway.http.get("/v2"), await gateway.http.get("/v1/completions")

            assert (nowhere.status_code, not_so.status_code) == (404, 405)
            assert not_so.headers["allow"] == "POST"
            assert problem_of(nowhere)
            assert problem_of(not_so)

    run(scenario())


FAILURES = [
    pytest.param(NotAllowedError("drafters", "docs", "router.rules.0"), 403, "permission_error", id="not allowed"),
    pytest.param(UnknownNameError("policy", "x", ()), 404, "invalid_request_error", id="unknown"),
    pytest.param(CapacityError("full"), 429, "rate_limit_error", id="full"),
    pytest.param(DrainingError("ends"), 503, "server_error", id="draining"),
    pytest.param(PromptTooLongError(9, 9, 9), 400, "invalid_request_error", id="too long"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("error", "status", "kind"), FAILURES)
def test_what_the_controller_refuses_has_its_status(error: ForerunError, status: int, kind: str, stream: bool) -> None:
    """Also in a stream: nothing has been sent by then."""

    async def scenario() -> None:
        service = FakeGenerationService()
        # The client tries again where no controller took the call.
        service.failures = [error] * 4
        with serving(service) as controller:
            async with front_of(controller) as gateway:
                response = await gateway.post(model="words", stream=stream)

                assert response.status_code == status
                assert problem_of(response)["type"] == kind
                assert ("retry-after" in response.headers) == (status in (429, 503))

    run(scenario())


class LockedService(FakeGenerationService):
    """Lets nobody in."""

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no valid token")


def test_a_refused_token_is_401() -> None:
    async def scenario() -> None:
        with serving(LockedService()) as controller:
            async with front_of(controller) as gateway:
                with pytest.raises(openai.AuthenticationError) as caught:
                    await gateway.completion(model="words")

                assert caught.value.response.headers["www-authenticate"] == "Bearer"
                assert "secret" not in caught.value.response.text
                assert problem_of(caught.value.response)["message"] == "no valid token"
                assert problem_of(caught.value.response)["code"] == "unauthenticated"

    run(scenario())


def test_no_controller_is_503() -> None:
    async def scenario() -> None:
        async with front_of("127.0.0.1:1") as gateway:
            response = await gateway.post()

            assert response.status_code == 503
            assert response.headers["retry-after"] == "1"
            assert (problem_of(response)["type"], problem_of(response)["code"]) == ("server_error", "unavailable")
            assert "127.0.0.1" not in response.text, "where the controller runs is not the caller's business"
            assert (await gateway.http.get("/health")).status_code == 503

    run(scenario())


def test_no_target_is_503_whatever_the_model_is_called() -> None:
    async def scenario() -> None:
        async with front(timeouts=QUICK.model_copy(update={"verify_wait_s": 0.2})) as (gateway, home):
            assert (await gateway.http.get("/health")).json() == {"status": "serving"}
            await home.workers[0].kill()
            await eventually(lambda: not home.controller.fleet.serves)

            assert (await gateway.http.get("/v1/models")).json()["data"] == []
            assert (await gateway.post(model="anything")).status_code == 503
            assert (await gateway.http.get("/health")).status_code == 503

    run(scenario())


def test_a_full_controller_is_429() -> None:
    async def scenario() -> None:
        async with front(limits=ONE_PLACE, more=NOBODY_WAITS) as (gateway, home):
            home.workers[0].worker.faults.delay_s = 0.05
            first = asyncio.ensure_future(gateway.post(max_tokens=200, ignore_eos=True))
            await eventually(lambda: home.controller.generation.reception.inside == 1)
            with pytest.raises(openai.RateLimitError):
                await gateway.completion()

            assert (await first).status_code == 200

    run(scenario())


def test_the_service_tier_is_the_latency_class() -> None:
    async def scenario() -> None:
        async with front() as (gateway, home):
            tiers = {None: "standard", "auto": "standard", "batch": "batch"}
            for tier, served in tiers.items():
                said = {} if tier is None else {"service_tier": tier}
                assert (await gateway.post(**said)).json()["service_tier"] == served
                assert (await gateway.http.post(CHAT, json=TALK | said)).json()["service_tier"] == served

            unknown = await gateway.post(service_tier="flex")
            assert unknown.status_code == 404
            assert unknown.json()["error"]["param"] == "service_tier"
            assert (await gateway.post(service_tier="no tier")).status_code == 400

            home.workers[0].worker.faults.delay_s = 0.05
            streamed = [chunk async for chunk in await gateway.chat(stream=True, service_tier="batch")]
            assert streamed[-1].choices[0].finish_reason == "length"

    run(scenario())


def test_under_overload_a_caller_is_told_when_to_come_back() -> None:
    async def scenario() -> None:
        classes = (LatencyClassSettings(name="standard", most_wait_s=0.2),)
        async with front(limits=ONE_PLACE, more={"admission": AdmissionSettings(classes=classes)}) as (gateway, home):
            home.workers[0].worker.faults.delay_s = 0.05
            first = asyncio.ensure_future(gateway.post(max_tokens=200, ignore_eos=True))
            await eventually(lambda: home.controller.generation.reception.inside == 1)
            refused = await gateway.post()

            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "capacity"
            assert refused.headers["retry-after"] == "1"
            assert (await first).status_code == 200

    run(scenario())


def test_a_tenant_over_its_quota_is_told_at_once_when_to_come_back() -> None:
    """And is not kept waiting by the gateway, whose own client would wait out what it was told."""

    async def scenario() -> None:
        more = {"quotas": (QuotaSettings(requests_per_minute=1),)}
        async with front(more=more) as (gateway, _):
            assert (await gateway.post()).status_code == 200
            refused = await gateway.post()

            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "quota"
            assert 1 < int(refused.headers["retry-after"]) <= 60

    run(scenario())


def test_an_answer_that_takes_too_long_is_504() -> None:
    async def scenario() -> None:
        service = FakeGenerationService()
        service.hangs = True
        with serving(service) as controller:
            async with front_of(controller, longest_request_s=0.3) as gateway:
                response = await gateway.post(model="words")

                assert response.status_code == 504
                assert problem_of(response)["code"] == "deadline_exceeded"
                assert controller not in response.text

    run(scenario())


def test_what_fails_in_a_stream_is_told_by_an_event() -> None:
    async def scenario() -> None:
        service = FakeGenerationService()
        service.failure_after_first_word = DrainingError("this controller shuts down")
        with serving(service) as controller:
            async with front_of(controller) as gateway:
                stream = await gateway.completion(model="words", stream=True)
                first = await anext(stream)
                with pytest.raises(openai.APIError, match="shuts down"):
                    await anext(stream)
                raw = await gateway.post(model="words", stream=True)

                assert first.choices[0].text == WORDS[0]
                assert "[DONE]" not in raw.text

    run(scenario())


def test_a_path_that_is_nearly_one_is_none() -> None:
    """No redirect: it would be made of the Host that the caller names."""

    async def scenario() -> None:
        async with front() as (gateway, _):
            response = await gateway.http.get("/v1/completions/", headers={"host": "elsewhere.example"})

            assert response.status_code == 404
            assert problem_of(response)["type"] == "invalid_request_error"

    run(scenario())
