"""The client: one behaviour, whether one waits with threads or with asyncio."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from forerun.client import (
    AcceptanceRecord,
    AsyncClient,
    Client,
    DeadlineExceededError,
    Delta,
    FinishReason,
    Generation,
    Retry,
)
from forerun.client.retries import with_jitter
from speculation.errors import (
    CapacityError,
    InvalidRequestError,
    QuotaError,
    UnknownNameError,
    WorkerUnavailableError,
)
from speculation.tree import TreeShape
from tests.forerun.fake_service import WORDS, FakeGenerationService, serving

TEXT = "".join(WORDS)
Generate = Callable[..., Generation]
QUICK = Retry(attempts=3, first_pause_s=0.01)


@pytest.fixture
def service() -> FakeGenerationService:
    return FakeGenerationService()


@pytest.fixture
def address(service: FakeGenerationService) -> Iterator[str]:
    with serving(service) as address:
        yield address


def generate_waiting_with_threads(address: str, *prompt: str, **options: Any) -> Generation:
    with Client(address, retry=QUICK) as client:
        return client.generate(*prompt, **options)


def generate_waiting_with_asyncio(address: str, *prompt: str, **options: Any) -> Generation:
    async def main() -> Generation:
        async with AsyncClient(address, retry=QUICK) as client:
            return await client.generate(*prompt, **options)

    return asyncio.run(main())


both = pytest.mark.parametrize(
    "generate",
    [
        pytest.param(generate_waiting_with_threads, id="threads"),
        pytest.param(generate_waiting_with_asyncio, id="asyncio"),
    ],
)


@both
def test_an_answer_holds_all_that_the_service_said(generate: Generate, address: str) -> None:
    answer = generate(address, "what?", max_new_tokens=4)

    assert answer.text == TEXT
    assert answer.token_ids == (4, 5, 6, 7)
    assert answer.finish_reason is FinishReason.LENGTH
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 4)
    assert answer.decision.shape == TreeShape(depth=2, branching=2, budget=3)
    assert answer.model_revisions == {"target": "abc"}
    assert answer.tokens_per_second == pytest.approx(2.0)
    assert answer.tokens_per_round == pytest.approx(2.0)
    with pytest.raises(FrozenInstanceError):
        answer.text = "other"  # type: ignore[misc]


@both
def test_every_option_reaches_the_service(generate: Generate, address: str, service: FakeGenerationService) -> None:
    generate(
        address,
        messages=[{"role": "user", "content": "2 + 2?"}],
        max_new_tokens=9,
        stop=["\n\n"],
        temperature=0.5,
        top_p=0.9,
        seed=0,
        task="math",
        logprobs=0,
        policy="merged",
        drafters=["code", "math"],
        shape=TreeShape(depth=3, branching=2, budget=5),
        uncoupled=True,
    )

    request = service.requests[0]
    assert request.chat.messages[0].content == "2 + 2?"
    assert (request.max_new_tokens, list(request.stop), request.task) == (9, ["\n\n"], "math")
    assert request.sampling.temperature == pytest.approx(0.5)
    assert request.sampling.top_p == pytest.approx(0.9)
    assert request.sampling.HasField("seed")
    assert request.sampling.seed == 0
    assert request.HasField("logprobs")
    assert (request.speculation.policy, list(request.speculation.drafters)) == ("merged", ["code", "math"])
    assert request.speculation.shape.budget == 5
    assert request.speculation.uncoupled


def test_what_is_not_said_is_left_to_the_service(address: str, service: FakeGenerationService) -> None:
    generate_waiting_with_threads(address, token_ids=[1, 2], temperature=1.0, speculation=False)

    request = service.requests[0]
    assert list(request.tokens.ids) == [1, 2]
    assert not request.sampling.HasField("seed")
    assert not request.HasField("logprobs")
    assert request.speculation.off


def test_a_request_without_a_say_in_speculation_carries_none(address: str, service: FakeGenerationService) -> None:
    generate_waiting_with_threads(address, "what?", speculation=True)

    assert not service.requests[0].HasField("speculation")


def test_metadata_travels_beside_the_request(address: str, service: FakeGenerationService) -> None:
    generate_waiting_with_asyncio(address, "what?", metadata={"authorization": "Bearer a"})
    generate_waiting_with_threads(address, "what?", metadata={"authorization": "Bearer b"})

    assert [metadata["authorization"] for metadata in service.metadata] == ["Bearer a", "Bearer b"]


def test_a_client_is_told_what_is_served(address: str) -> None:
    with Client(address) as client:
        (model,) = client.models()

    assert (model.name, model.revision, model.max_length) == ("words", "abc", 64)


def test_nobody_there_is_said_of_questions_too() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(WorkerUnavailableError):
        client.models()


@both
def test_a_bias_beyond_all_tokens_is_refused_before_it_is_sent(generate: Generate, address: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        generate(address, "what?", logit_bias={2**32: 1.0})

    assert caught.value.field == "logit_bias"


@both
def test_every_call_has_a_deadline(generate: Generate, address: str, service: FakeGenerationService) -> None:
    generate(address, "what?")
    generate(address, "what?", timeout_s=5)

    assert 60 < service.deadlines_s[0] < 121
    assert 0 < service.deadlines_s[1] < 60


@both
def test_a_passed_deadline_keeps_what_had_come(
    generate: Generate, address: str, service: FakeGenerationService
) -> None:
    service.hangs = True

    with pytest.raises(DeadlineExceededError, match=r"within 0\.3 s") as caught:
        generate(address, "what?", timeout_s=0.3)

    assert caught.value.partial_text == WORDS[0]


@both
def test_unavailable_is_retried_while_nothing_has_come(
    generate: Generate, address: str, service: FakeGenerationService
) -> None:
    service.failures = [WorkerUnavailableError("no target"), WorkerUnavailableError("no target")]

    assert generate(address, "what?").text == TEXT
    assert len(service.requests) == 3


@both
def test_retries_end(generate: Generate, address: str, service: FakeGenerationService) -> None:
    service.failures = [WorkerUnavailableError("no target")] * 9

    with pytest.raises(WorkerUnavailableError, match="no target"):
        generate(address, "what?")

    assert len(service.requests) == QUICK.attempts


@both
def test_nothing_is_retried_once_text_has_come(
    generate: Generate, address: str, service: FakeGenerationService
) -> None:
    service.failure_after_first_word = WorkerUnavailableError("the target died")

    with pytest.raises(WorkerUnavailableError, match="the target died"):
        generate(address, "what?")

    assert len(service.requests) == 1


@both
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(UnknownNameError("policy", "psychic", ["none"]), id="unknown policy"),
        pytest.param(CapacityError("64 requests in flight"), id="too many"),
        pytest.param(InvalidRequestError("max_new_tokens", "too many"), id="bad field"),
    ],
)
def test_errors_arrive_as_they_were_raised(
    generate: Generate, address: str, service: FakeGenerationService, error: Any
) -> None:
    service.failures = [error]

    with pytest.raises(type(error)) as caught:
        generate(address, "what?")

    assert str(caught.value) == str(error)
    assert caught.value.metadata == error.metadata
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("options", "field"),
    [
        pytest.param({"temperature": -1.0}, "temperature", id="negative temperature"),
        pytest.param({"max_new_tokens": -1}, "max_new_tokens", id="negative count"),
        pytest.param({"token_ids": [-4]}, "token_ids", id="negative token"),
        pytest.param({"prompt": "x", "token_ids": [4]}, "prompt", id="two prompts"),
        pytest.param({}, "prompt", id="no prompt"),
        pytest.param({"messages": [{"role": "user"}]}, "messages", id="a turn without content"),
        pytest.param({"prompt": "x", "drafters": [3]}, "speculation.drafters", id="a drafter that is no name"),
    ],
)
def test_a_bad_value_is_refused_before_any_call(
    address: str, service: FakeGenerationService, options: dict[str, Any], field: str
) -> None:
    prompt = options.pop("prompt", None if "token_ids" in options or "messages" in options or not options else "x")

    with pytest.raises(InvalidRequestError) as caught, Client(address) as client:
        client.generate(prompt, **options)

    assert caught.value.field == field
    assert service.requests == []


def test_deltas_come_one_by_one_and_the_whole_at_the_end(address: str) -> None:
    with Client(address) as client, client.stream("what?") as deltas:
        first = next(deltas)
        with pytest.raises(WorkerUnavailableError):
            _ = deltas.generation
        rest = list(deltas)

    assert first == Delta(WORDS[0], (4,))
    assert [delta.text for delta in rest] == list(WORDS[1:])
    assert deltas.generation.text == deltas.text == TEXT


def test_explaining_brings_the_rounds(address: str) -> None:
    with Client(address) as client:
        answer = client.generate("what?", explain=True)

    assert answer.rounds[0].accepted == (0, 2)
    assert answer.rounds[0].tree.parents == (-1, -1, 0)
    assert answer.rounds[0].timings.round_ns == 5_000_000


def test_closing_a_stream_cancels_the_call(address: str, service: FakeGenerationService) -> None:
    service.hangs = True
    with Client(address) as client:
        stream = client.stream("what?")
        next(stream)
        stream.close()

        assert service.ended.wait(timeout=1.0)


def test_closing_an_asynchronous_stream_cancels_the_call(address: str, service: FakeGenerationService) -> None:
    service.hangs = True

    async def main() -> None:
        async with AsyncClient(address) as client, client.stream("what?") as stream:
            await anext(stream)
        assert await asyncio.to_thread(service.ended.wait, 1.0)

    asyncio.run(main())


def test_cancelling_the_waiting_task_cancels_the_call(address: str, service: FakeGenerationService) -> None:
    service.hangs = True

    async def main() -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await client.generate("what?")
            assert await asyncio.to_thread(service.ended.wait, 1.0)

    asyncio.run(main())


def test_no_controller_is_said_in_one_line() -> None:
    with (
        pytest.raises(WorkerUnavailableError) as caught,
        Client("127.0.0.1:1", retry=QUICK) as client,
    ):
        client.generate("what?")

    assert "127.0.0.1:1" in str(caught.value)
    assert caught.value.metadata["code"] == "UNAVAILABLE"


def test_what_the_acceptance_record_says_can_be_read_off_it() -> None:
    record = AcceptanceRecord(
        num_spec_steps=3, num_draft_tokens=12, num_accepted_draft_tokens=6, per_step_accepted=(4, 0, 2)
    )

    assert record.mean_acceptance_length == pytest.approx(3.0)
    assert record.draft_acceptance_rate == pytest.approx(0.5)
    assert record.histogram == {0: 1, 2: 1, 4: 1}
    assert AcceptanceRecord().mean_acceptance_length == 1.0
    assert AcceptanceRecord().draft_acceptance_rate == 0.0


@both
def test_a_refusal_that_says_when_is_obeyed(generate: Generate, service: FakeGenerationService, address: str) -> None:
    """However short the pauses of `Retry` are. What is left of the deadline tells that the client has waited; of one
    that is far away gRPC tells no fractions."""
    service.failures = [QuotaError("acme", "requests_per_minute", 60, 0.3)]

    assert generate(address, "what?", max_new_tokens=4, timeout_s=8).text == TEXT
    assert len(service.requests) == 2
    assert service.deadlines_s[1] <= 7.75


@both
def test_a_refusal_until_after_the_deadline_is_told_at_once(
    generate: Generate, service: FakeGenerationService, address: str
) -> None:
    service.failures = [QuotaError("acme", "tokens_per_minute", 1000, 3600.0)]

    with pytest.raises(QuotaError) as caught:
        generate(address, "what?", max_new_tokens=4, timeout_s=20)

    assert (caught.value.retry_after_s, caught.value.metadata["limit"]) == (3600.0, "tokens_per_minute")
    assert len(service.requests) == 1


def test_a_service_in_trouble_is_not_asked_again_and_again(service: FakeGenerationService, address: str) -> None:
    """Four repetitions are spent; then every call is one call, but for its share of a repetition."""
    service.failures = [WorkerUnavailableError("no target")] * 10
    with Client(address, retry=Retry(attempts=3, first_pause_s=0.01, share=0.25, reserve=4)) as client:
        for _ in range(5):
            with pytest.raises(WorkerUnavailableError):
                client.generate("what?")
        assert len(service.requests) == 3 + 3 + 1 + 1 + 2

        service.failures = []
        for _ in range(4):
            client.generate("what?")
        service.failures = [WorkerUnavailableError("no target")]
        assert client.generate("what?").text == TEXT


def test_waiting_for_ones_quota_takes_nothing_from_the_budget(service: FakeGenerationService, address: str) -> None:
    service.failures = [QuotaError("acme", "requests_per_minute", 60, 0.01)] * 4
    retry = Retry(attempts=9, first_pause_s=0.01, reserve=1)

    with Client(address, retry=retry) as client:
        assert client.generate("what?").text == TEXT


@both
def test_a_refusal_for_want_of_room_is_obeyed_too(
    generate: Generate, service: FakeGenerationService, address: str
) -> None:
    full = CapacityError("64 requests in flight")
    full.retry_after_s = 0.01
    service.failures = [full]

    assert generate(address, "what?").text == TEXT
    assert len(service.requests) == 2


@both
def test_only_some_statuses_are_repeated_whatever_they_say_of_time(
    generate: Generate, service: FakeGenerationService, address: str
) -> None:
    wrong = InvalidRequestError("max_new_tokens", "too many")
    wrong.retry_after_s = 0.01
    service.failures = [wrong]

    with pytest.raises(InvalidRequestError):
        generate(address, "what?")

    assert len(service.requests) == 1


@pytest.mark.parametrize("wanted_s", [0.1, 3.0])
def test_pauses_differ_and_are_never_too_short(wanted_s: float) -> None:
    pauses = {with_jitter(wanted_s) for _ in range(20)}

    assert len(pauses) > 1
    assert all(wanted_s <= pause <= 1.2 * wanted_s for pause in pauses)
