"""The services over real gRPC: streams are sessions, every message gets its answer, and nothing malformed passes."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from speculation.foresight import MOST_OUTCOMES
from speculation.rpc import error_info
from speculation.tree import TreeShape, chain
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc, verify_pb2, verify_pb2_grpc
from speculation.verdict import MAX_RUN, MAX_STOP_TOKENS
from speculation.wire import tree_from_proto
from tests.architectures import VOCAB_SIZE
from tests.worker.grpc_session import (
    DraftTalk,
    VerifyTalk,
    extend_draft,
    extend_verify,
    foresee,
    open_draft,
    open_verify,
    propose,
    save_tiny_model,
    score,
    verify,
    worker_and_channel,
)
from tests.worker.tiny_worker import MAX_LENGTH, PROMPT, SAMPLINGS, reference_text, run
from worker import batching, foresight, sessions, surprisal
from worker.host import TREE_ROOM
from worker.serve import Ready
from worker.settings import Role

OK = common_pb2.SESSION_STATUS_OK
NEED_CONTEXT = common_pb2.SESSION_STATUS_NEED_CONTEXT
BUSY = common_pb2.SESSION_STATUS_BUSY
DRAINING = common_pb2.SESSION_STATUS_DRAINING

SERVICES: dict[Role, str] = {"draft": "speculation.v1.DraftService", "verify": "speculation.v1.VerifyService"}
ROLES: tuple[Role, ...] = ("draft", "verify")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@asynccontextmanager
async def both_workers(folder: Path) -> AsyncIterator[tuple[grpc.aio.Channel, grpc.aio.Channel]]:
    """Channels to a draft and to a verify worker of the same model."""
    async with (
        worker_and_channel("draft", folder) as (_, drafts),
        worker_and_channel("verify", folder) as (_, verdicts),
    ):
        yield drafts, verdicts


async def eventually(holds: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait until something that nobody announces has happened."""
    while not (await outcome if inspect.isawaitable(outcome := holds()) else outcome):  # noqa: ASYNC110
        await asyncio.sleep(0.005)


async def described(role: Role, channel: grpc.aio.Channel) -> common_pb2.DescribeResponse:
    """What the worker says of itself."""
    kind: Any = draft_pb2_grpc.DraftServiceStub if role == "draft" else verify_pb2_grpc.VerifyServiceStub
    reply: common_pb2.DescribeResponse = await kind(channel).Describe(common_pb2.DescribeRequest())
    return reply


def hold_engine(ready: Ready) -> asyncio.Event:
    """What is called until this is set stays under way."""
    held, loop = asyncio.Event(), asyncio.get_running_loop()
    ready.host._thread.post(lambda: asyncio.run_coroutine_threadsafe(held.wait(), loop).result(10) and None)
    return held


async def ask_all(talk: Any, *messages: Any) -> list[Any]:
    """Send all messages, then read as many replies."""
    for message in messages:
        await talk.call.write(message)
    return [await talk.call.read() for _ in messages]


def test_drafts_and_verdicts_make_the_targets_text(folder: Path) -> None:
    """The drafter is the target here, so every tree is accepted whole."""
    sampling = SAMPLINGS["everything"]

    async def converse() -> tuple[list[int], list[int]]:
        async with (
            worker_and_channel("draft", folder) as (_, drafts),
            worker_and_channel("verify", folder) as (_, verdicts),
        ):
            drafter, target = DraftTalk(drafts), VerifyTalk(verdicts)
            await drafter.ask(open_draft(sampling))
            await target.ask(open_verify(sampling))
            tokens, told, kept, accepted = list(PROMPT), 0, 0, []
            for number in range(4):
                drafted = await drafter.ask(propose(tokens, told, number=number))
                tree = tree_from_proto(drafted.proposal.tree)
                told = len(tokens)
                reply = await target.ask(verify(tokens, kept, tree=tree, number=number))
                assert drafted.proposal.round == reply.verdict.round == number
                tokens += reply.verdict.token_ids
                kept = len(tokens)
                accepted.append(len(reply.verdict.accepted))
            return tokens[len(PROMPT) :], accepted

    text, accepted = run(converse())

    assert accepted == [4, 4, 4, 4]
    assert text == reference_text(sampling, 20)


@pytest.mark.parametrize(("slots", "status"), [(2, OK), (1, BUSY)])
def test_scores_in_the_background_are_the_same_but_take_no_slot_that_is_needed(
    folder: Path, slots: int, status: int
) -> None:
    text = reference_text(SAMPLINGS["greedy"], 3)

    async def converse() -> Any:
        async with worker_and_channel("draft", folder, slots=slots) as (_, drafts):
            talk = DraftTalk(drafts)
            return (await ask_all(talk, open_draft(background=True), score(PROMPT, 0, text)))[-1]

    scored = run(converse())

    assert scored.status == status
    assert list(scored.scores.ranks) == ([1, 1, 1] if status == OK else [])


def test_pipelined_messages_are_answered_in_order(folder: Path) -> None:
    async def converse() -> tuple[list[Any], list[Any]]:
        async with (
            worker_and_channel("draft", folder) as (_, drafts),
            worker_and_channel("verify", folder) as (_, verdicts),
        ):
            trees = await ask_all(
                DraftTalk(drafts),
                open_draft(),
                extend_draft(PROMPT[:4]),
                propose(PROMPT, 4, number=7),
                score(PROMPT, len(PROMPT), reference_text(SAMPLINGS["greedy"], 3)),
                propose(PROMPT, len(PROMPT), number=8),
            )
            return trees, await ask_all(
                VerifyTalk(verdicts), open_verify(), extend_verify(PROMPT[:4]), verify(PROMPT, 4, number=9)
            )

    (opened, extended, first, scores, second), (began, continued, judged) = run(converse())

    assert [reply.status for reply in (opened, extended, first, scores, second, began, continued, judged)] == [OK] * 8
    assert opened.opened.name == began.opened.name == "tiny"
    assert opened.opened.model_revision == began.opened.model_revision != ""
    assert extended.extended.held_length == continued.extended.held_length == 4
    assert not extended.extended.HasField("prompt_surprisal")
    assert [first.proposal.round, second.proposal.round, judged.verdict.round] == [7, 8, 9]
    assert list(scores.scores.ranks) == [1, 1, 1]
    assert first.proposal.tree.token_ids == second.proposal.tree.token_ids
    assert first.proposal.HasField("prompt_surprisal")
    assert judged.timings.total_ns >= judged.timings.compute_ns > 0
    assert judged.timings.forwards == 1


@pytest.mark.parametrize("name", sorted(SAMPLINGS))
def test_a_run_says_what_rounds_would_have_said(folder: Path, name: str) -> None:
    sampling, text = SAMPLINGS[name], reference_text(SAMPLINGS[name], 12)
    (begun, *drafted), end = text[:3], text[9]

    async def converse() -> tuple[Any, ...]:
        async with worker_and_channel("verify", folder) as (_, channel):
            whole, ended = VerifyTalk(channel), VerifyTalk(channel)
            await whole.ask(open_verify(sampling, top_logprobs=2))
            await ended.ask(open_verify(sampling, stop_token_ids=[end]))
            first = await whole.ask(verify(PROMPT, tree=chain([begun, *drafted, VOCAB_SIZE - 1]), run=4))
            token_ids = [*PROMPT, *first.verdict.token_ids]
            return (
                first,
                await whole.ask(verify(token_ids, len(token_ids), run=3)),
                await ended.ask(verify(PROMPT, run=MAX_RUN // 4)),
            )

    first, second, stopped = run(converse())

    assert list(first.verdict.accepted[:3]) == [0, 1, 2]
    assert [*first.verdict.token_ids, *second.verdict.token_ids][:12] == text
    assert len(second.verdict.token_ids) == second.timings.forwards == 4
    assert len(first.verdict.token_ids) == len(first.verdict.top_logprobs) == len(first.verdict.logprobs) >= 8
    assert 0 < second.verdict.run_ns < second.timings.total_ns
    assert list(stopped.verdict.token_ids) == text[: 1 + text.index(end)]


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drafter that is never sure, on a machine that may be busy, drafts ahead all the same."""
    monkeypatch.setattr(foresight, "LEAST_CHANCE", 0.0)
    monkeypatch.setattr(batching, "LEAST_SHARE", 0.0)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["greedy", "everything"])
def test_what_is_foreseen_is_what_a_propose_gives_then(folder: Path, name: str) -> None:
    async def converse() -> tuple[Any, list[Any]]:
        async with worker_and_channel("draft", folder) as (_, channel):
            talk = DraftTalk(channel)
            await talk.ask(open_draft(SAMPLINGS[name]))
            tree = tree_from_proto((await talk.ask(propose(PROMPT))).proposal.tree)
            ahead = await talk.ask(foresee(PROMPT, len(PROMPT), tree, number=5, outcomes=3))
            again = []
            for outcome in ahead.ahead.outcomes:
                tokens = [*PROMPT, *outcome.token_ids]
                again.append((await talk.ask(propose(tokens, len(PROMPT)))).proposal.tree)
            return ahead, again

    ahead, again = run(converse())

    assert (ahead.status, ahead.ahead.round, len(again)) == (OK, 5, 3)
    assert [list(outcome.tree.token_ids) for outcome in ahead.ahead.outcomes] == [
        list(tree.token_ids) for tree in again
    ]


def test_foreseeing_keeps_no_other_message_waiting_and_changes_no_answer(folder: Path) -> None:
    """All messages are sent before any reply is read; each has its own, in order, and what is told last holds."""
    sampling = SAMPLINGS["temperature 1"]

    async def converse(*, ahead: bool) -> list[list[int]]:
        async with worker_and_channel("draft", folder) as (_, channel):
            messages = [open_draft(sampling)]
            for end in range(1, 8):
                tokens = [*PROMPT, *range(end)]
                base = len(tokens) - 1 if end > 1 else 0
                messages += [foresee(tokens, base, chain([5, 6]), number=end)] * (1 + end % 2) if ahead else []
                messages.append(propose(tokens, len(tokens) if ahead else base, number=end))
            replies = await ask_all(DraftTalk(channel), *messages)
        kinds = [str(reply.WhichOneof("message")) for reply in replies]
        assert kinds == [
            {"open": "opened", "foresee": "ahead", "propose": "proposal"}[str(message.WhichOneof("message"))]
            for message in messages
        ]
        proposals = [reply.proposal for reply in replies if reply.HasField("proposal")]
        assert [proposal.round for proposal in proposals] == list(range(1, 8))
        return [list(proposal.tree.token_ids) for proposal in proposals]

    assert run(converse(ahead=True)) == run(converse(ahead=False))


def test_what_is_foreseen_builds_on_what_is_held(folder: Path) -> None:
    async def converse() -> list[Any]:
        async with worker_and_channel("draft", folder) as (_, channel):
            return await ask_all(
                DraftTalk(channel),
                open_draft(),
                foresee(PROMPT, 4, chain([1])),
                propose(PROMPT),
                foresee((*PROMPT, 1, 2), len(PROMPT), chain([1])),
                propose((*PROMPT, 1, 2, 3), len(PROMPT) + 2),
            )

    _, unknown, first, _, second = run(converse())

    assert (unknown.status, unknown.held_length) == (NEED_CONTEXT, 0)
    assert not unknown.HasField("ahead")
    assert (first.status, second.status) == (OK, OK)


def test_what_is_not_held_is_asked_for_on_the_same_stream(folder: Path) -> None:
    async def converse() -> list[Any]:
        async with worker_and_channel("verify", folder) as (_, channel):
            wrong = (1, *PROMPT[1:])
            return await ask_all(
                VerifyTalk(channel),
                open_verify(),
                verify(PROMPT, 4),
                extend_verify(PROMPT[:6]),
                verify(wrong, 6),
                verify(PROMPT),
            )

    _, unknown, extended, other, judged = run(converse())

    assert (unknown.status, unknown.held_length) == (NEED_CONTEXT, 0)
    assert extended.status == OK
    assert (other.status, other.held_length) == (NEED_CONTEXT, 0)
    assert list(judged.verdict.token_ids) == reference_text(SAMPLINGS["greedy"], 1)


def test_an_evicted_session_is_told_so_and_goes_on_with_the_same_text(folder: Path) -> None:
    sampling = SAMPLINGS["top-p"]

    async def converse() -> list[int]:
        async with worker_and_channel("verify", folder, slots=1) as (_, channel):
            ours, rival = VerifyTalk(channel), VerifyTalk(channel)
            for talk in (ours, rival):
                await talk.ask(open_verify(sampling))
            tokens = list(PROMPT)
            for _ in range(3):
                tokens += (await ours.ask(verify(tokens))).verdict.token_ids
                await rival.ask(verify(PROMPT))
                evicted = await ours.ask(verify(tokens, len(tokens)))
                assert (evicted.status, evicted.held_length) == (NEED_CONTEXT, 0)
            return tokens[len(PROMPT) :]

    assert run(converse()) == reference_text(sampling, 3)


@pytest.mark.parametrize("role", ROLES)
def test_a_prompt_read_before_is_not_read_again_unless_it_was_anothers(
    folder: Path, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", 16)
    monkeypatch.setattr(surprisal, "WINDOW", 10)
    prompt = [index * 3 % VOCAB_SIZE for index in range(50)]
    talk_to, opened, extended = (
        (DraftTalk, open_draft, extend_draft) if role == "draft" else (VerifyTalk, open_verify, extend_verify)
    )

    async def converse() -> list[Any]:
        told = []
        async with worker_and_channel(role, folder) as (_, channel):
            for salt in ("", "", "acme", "acme"):
                talk: Any = talk_to(channel)
                await ask_all(talk, opened(prompt_length=len(prompt), cache_salt=salt), extended(prompt))
                told.append((await described(role, channel)).cache_use)
        return told

    uses = run(converse())

    reused = 32 if role == "draft" else 48  # a drafter hears the end of a prompt again, for its surprisal
    assert [use.reused_tokens for use in uses] == [0, reused, reused, 2 * reused]
    assert [use.looked_up_tokens for use in uses] == [50, 100, 150, 200]
    assert uses[-1].bytes > 0
    assert uses[-1].session_tokens == 4 * 49
    assert uses[-1].capacity_tokens == 4 * (MAX_LENGTH + TREE_ROOM)


def test_many_streams_at_once_get_the_texts_of_each_alone(folder: Path) -> None:
    async def one(channel: grpc.aio.Channel, name: str) -> list[int]:
        talk = VerifyTalk(channel)
        await talk.ask(open_verify(SAMPLINGS[name]))
        tokens, base = list(PROMPT), 0
        while len(tokens) < len(PROMPT) + 6:
            reply = await talk.ask(verify(tokens, base, tree=chain([1, 2])))
            base = reply.held_length if reply.status == NEED_CONTEXT else len(tokens) + len(reply.verdict.token_ids)
            tokens += reply.verdict.token_ids
        return tokens[len(PROMPT) : len(PROMPT) + 6]

    async def together() -> list[list[int]]:
        async with worker_and_channel("verify", folder) as (_, channel):
            return await asyncio.gather(*(one(channel, name) for name in SAMPLINGS))

    assert run(together()) == [reference_text(sampling, 6) for sampling in SAMPLINGS.values()]


@pytest.mark.parametrize("ending", ["closed", "cancelled", "channel lost", "cancelled while it computes"])
def test_a_stream_that_ends_frees_its_slot_within_a_second(folder: Path, ending: str) -> None:
    async def end_one() -> float:
        async with worker_and_channel("verify", folder, slots=1) as (ready, _):
            other = grpc.aio.insecure_channel(ready.address, options=[("grpc.use_local_subchannel_pool", 1)])
            talk = VerifyTalk(other)
            await talk.ask(open_verify())
            if ending == "cancelled while it computes":
                for _ in range(200):
                    await talk.call.write(verify([5] * MAX_LENGTH))
            else:
                await talk.ask(verify(PROMPT))
            started = time.monotonic()
            await {
                "closed": talk.call.done_writing,
                "channel lost": other.close,
            }.get(ending, _cancelling(talk.call))()
            await eventually(lambda: _slot_is_free(ready.host))
            freed_s = time.monotonic() - started
            await other.close()
            return freed_s

    assert run(end_one()) < 1.0


def _cancelling(call: Any) -> Callable[[], Any]:
    async def cancel() -> None:
        call.cancel()

    return cancel


async def _slot_is_free(host: Any) -> bool:
    """Whether the engine's only slot can be had."""

    def probe() -> Any:
        return host._table.num_spare == 1
        yield

    free, _ = await host._thread.run(probe())
    return bool(free)


@pytest.mark.usefixtures("eager")
def test_a_stream_that_ends_while_its_drafter_drafts_ahead_frees_its_slot(folder: Path) -> None:
    async def end_one() -> None:
        async with worker_and_channel("draft", folder, slots=1) as (ready, channel):
            talk = DraftTalk(channel)
            await talk.ask(open_draft())
            await talk.ask(propose(PROMPT))
            deep = TreeShape(depth=64, branching=1, budget=64)
            await talk.call.write(foresee(PROMPT, len(PROMPT), chain([1]), shape=deep, outcomes=1))
            await talk.call.write(foresee(PROMPT, len(PROMPT), chain([1]), shape=deep, outcomes=1))
            talk.call.cancel()
            await eventually(lambda: _slot_is_free(ready.host))

    run(end_one())


def test_one_bad_stream_does_not_harm_the_others(folder: Path) -> None:
    async def converse() -> list[int]:
        async with worker_and_channel("verify", folder) as (_, channel):
            good, bad = VerifyTalk(channel), VerifyTalk(channel)
            await good.ask(open_verify())
            await bad.ask(open_verify())
            first = await good.ask(verify(PROMPT))
            await bad.call.write(verify([VOCAB_SIZE]))
            assert await bad.call.code() == grpc.StatusCode.INVALID_ARGUMENT
            tokens = [*PROMPT, *first.verdict.token_ids]
            second = await good.ask(verify(tokens, len(tokens)))
            return [*first.verdict.token_ids, *second.verdict.token_ids]

    assert run(converse()) == reference_text(SAMPLINGS["greedy"], 2)


CONTEXT = verify(PROMPT).verify.context
SHAPE = propose(PROMPT).propose.shape
LONG = [1] * MAX_LENGTH


def raw_verify(**fields: Any) -> verify_pb2.VerifyRequest:
    """A verify message with these fields alone."""
    return verify_pb2.VerifyRequest(verify=verify_pb2.VerifyTree(**fields))


def raw_tree(**fields: Any) -> verify_pb2.VerifyRequest:
    """A verify message with a tree that no TokenTree could be."""
    return raw_verify(context=CONTEXT, tree=common_pb2.TokenTree(**fields))


def raw_shape(depth: int, branching: int, budget: int) -> draft_pb2.DraftRequest:
    """A propose message with a shape that no TreeShape could be."""
    wanted = common_pb2.TreeShape(depth=depth, branching=branching, budget=budget)
    return draft_pb2.DraftRequest(propose=draft_pb2.Propose(context=CONTEXT, shape=wanted))


def raw_sampling(**fields: Any) -> common_pb2.SamplingParameters:
    """Sampling parameters out of their range."""
    return common_pb2.SamplingParameters(**fields)


MALFORMED_VERIFY = {
    "no message": ([verify_pb2.VerifyRequest()], "message"),
    "a second open": ([open_verify()], "open"),
    "no context": ([raw_verify()], "context"),
    "extend without context": ([verify_pb2.VerifyRequest(extend=verify_pb2.ExtendVerify())], "context"),
    "an empty context": ([verify([])], "context"),
    "an unknown token": ([verify([VOCAB_SIZE])], "context.token_ids"),
    "too long a context": ([extend_verify([*LONG, 1])], "context"),
    "a tree beyond the context": ([verify(LONG, tree=chain([1]))], "tree"),
    "an unknown token in the tree": ([raw_tree(token_ids=[VOCAB_SIZE], parents=[0])], "tree"),
    "a child before its parent": ([raw_tree(token_ids=[1, 2], parents=[2, 0])], "tree"),
    "a missing parent": ([raw_tree(token_ids=[1, 2], parents=[0])], "tree"),
    "a confidence above one": ([raw_tree(token_ids=[1], parents=[0], confidences=[1.5])], "tree"),
    "a confidence that is no number": ([raw_tree(token_ids=[1], parents=[0], confidences=[float("nan")])], "tree"),
    "too many nodes": ([raw_tree(token_ids=[1] * 257, parents=[0] * 257)], "tree"),
    "too deep a tree": ([raw_tree(token_ids=[1] * 65, parents=range(65))], "tree"),
    "too long a run": ([verify(PROMPT, run=MAX_RUN + 1)], "run"),
    "a run beyond the context": ([verify(LONG, run=1)], "run"),
}

MALFORMED_DRAFT = {
    "no message": ([draft_pb2.DraftRequest()], "message"),
    "a second open": ([open_draft()], "open"),
    "no context": ([draft_pb2.DraftRequest(propose=draft_pb2.Propose())], "shape.depth"),
    "no shape": ([draft_pb2.DraftRequest(propose=draft_pb2.Propose(context=CONTEXT))], "shape.depth"),
    "too deep a shape": ([raw_shape(65, 1, 1)], "shape.depth"),
    "too wide a shape": ([raw_shape(1, 65, 1)], "shape.branching"),
    "too large a budget": ([raw_shape(1, 1, 257)], "shape.budget"),
    "an unknown token": ([propose([VOCAB_SIZE])], "context.token_ids"),
    "nothing to score": ([score(PROMPT, 0, [])], "token_ids"),
    "an unknown token to score": ([score(PROMPT, 0, [VOCAB_SIZE])], "token_ids"),
    "no context to foresee from": (
        [draft_pb2.DraftRequest(foresee=draft_pb2.Foresee(outcomes=1, shape=SHAPE))],
        "context",
    ),
    "nothing to foresee": ([foresee(PROMPT, 0, chain([1]), outcomes=0)], "outcomes"),
    "too much to foresee": ([foresee(PROMPT, 0, chain([1]), outcomes=MOST_OUTCOMES + 1)], "outcomes"),
    "no shape to foresee": (
        [draft_pb2.DraftRequest(foresee=draft_pb2.Foresee(outcomes=1, context=CONTEXT))],
        "shape.depth",
    ),
    "an unknown token to foresee from": ([foresee(PROMPT, 0, chain([VOCAB_SIZE]))], "tree"),
    "too much to score": ([score(LONG, 0, [1])], "token_ids"),
}

MALFORMED_OPEN = {
    "top_logprobs": {"top_logprobs": 21},
    "stop_token_ids": {"stop_token_ids": range(MAX_STOP_TOKENS + 1)},
    "cache_salt": {"cache_salt": "s" * 257},
    "prompt_length": {"prompt_length": MAX_LENGTH + 1},
    "temperature": {"sampling": raw_sampling(temperature=-1.0)},
    "top_p": {"sampling": raw_sampling(top_p=0.0)},
    "min_p": {"sampling": raw_sampling(min_p=2.0)},
    "repetition_penalty": {"sampling": raw_sampling(repetition_penalty=0.0)},
    "presence_penalty": {"sampling": raw_sampling(presence_penalty=3.0)},
    "frequency_penalty": {"sampling": raw_sampling(frequency_penalty=-3.0)},
    "logit_bias": {"sampling": raw_sampling(logit_bias={VOCAB_SIZE: 1.0})},
}


async def _read_to_end(talk: Any) -> None:
    """A stream's status comes after all its replies."""
    while await talk.call.read() is not grpc.aio.EOF:
        pass


async def refusal(talk: Any, messages: list[Any]) -> tuple[grpc.StatusCode, str]:
    """The status of a stream after these messages, and the field its ErrorInfo names."""
    for message in messages:
        await talk.call.write(message)
    with pytest.raises(grpc.RpcError) as ended:
        await _read_to_end(talk)
    info = error_info(ended.value)
    assert info is not None
    return ended.value.code(), info.metadata["field"]


def test_every_malformed_message_is_refused_by_the_name_of_its_field(folder: Path) -> None:
    """One worker for all of them: none of them does it any harm."""

    async def converse() -> dict[str, tuple[grpc.StatusCode, str]]:
        outcomes = {}
        async with (
            worker_and_channel("verify", folder) as (_, verdicts),
            worker_and_channel("draft", folder) as (_, drafts),
        ):
            for name, (messages, _) in MALFORMED_VERIFY.items():
                outcomes["verify: " + name] = await refusal(VerifyTalk(verdicts), [open_verify(), *messages])
            for name, (messages, _) in MALFORMED_DRAFT.items():
                outcomes["draft: " + name] = await refusal(DraftTalk(drafts), [open_draft(), *messages])
            for name, fields in MALFORMED_OPEN.items():
                opening = verify_pb2.VerifyRequest(open=verify_pb2.OpenVerify(**fields))
                outcomes["open: " + name] = await refusal(VerifyTalk(verdicts), [opening])
            for talk, opening in ((VerifyTalk(verdicts), open_verify()), (DraftTalk(drafts), open_draft())):
                assert (await talk.ask(opening)).status == OK
        return outcomes

    fields = {f"verify: {name}": field for name, (_, field) in MALFORMED_VERIFY.items()}
    fields |= {f"draft: {name}": field for name, (_, field) in MALFORMED_DRAFT.items()}
    fields |= {f"open: {name}": name for name in MALFORMED_OPEN}
    assert run(converse()) == {name: (grpc.StatusCode.INVALID_ARGUMENT, field) for name, field in fields.items()}


def test_a_stream_that_does_not_begin_with_open_has_failed(folder: Path) -> None:
    async def converse() -> list[tuple[grpc.StatusCode, str]]:
        async with (
            worker_and_channel("verify", folder) as (_, verdicts),
            worker_and_channel("draft", folder) as (_, drafts),
        ):
            return [
                await refusal(VerifyTalk(verdicts), [verify(PROMPT)]),
                await refusal(VerifyTalk(verdicts), [verify_pb2.VerifyRequest()]),
                await refusal(DraftTalk(drafts), [propose(PROMPT)]),
            ]

    assert run(converse()) == [(grpc.StatusCode.FAILED_PRECONDITION, "message")] * 3


def test_a_worker_without_room_says_busy_and_serves_the_rest(folder: Path) -> None:
    async def converse() -> list[int]:
        async with worker_and_channel("verify", folder, max_calls=2) as (ready, channel):
            talks = [VerifyTalk(channel) for _ in range(5)]
            for talk in talks:
                await talk.ask(open_verify())
            held = hold_engine(ready)
            reads = [asyncio.create_task(talk.ask(verify(PROMPT))) for talk in talks]
            await eventually(lambda: sum(read.done() for read in reads) == 3)
            assert all(read.result().status == BUSY for read in reads if read.done())
            held.set()
            return sorted(reply.status for reply in await asyncio.gather(*reads))

    assert run(converse()) == sorted([OK] * 2 + [BUSY] * 3)


def test_streams_beyond_the_bound_are_refused(folder: Path) -> None:
    async def converse() -> grpc.StatusCode:
        async with worker_and_channel("verify", folder, max_sessions=1) as (_, channel):
            await VerifyTalk(channel).ask(open_verify())
            second = VerifyTalk(channel)
            with suppress(grpc.aio.AioRpcError):  # where the refusal is here before the message has left
                await second.call.write(open_verify())
            code: grpc.StatusCode = await second.call.code()
            return code

    assert run(converse()) == grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("role", ROLES)
def test_describe_says_what_the_worker_is(folder: Path, role: Role) -> None:
    async def ask() -> common_pb2.DescribeResponse:
        async with worker_and_channel(role, folder) as (_, channel):
            path = f"/{SERVICES[role]}/Describe"
            describe: Any = channel.unary_unary(
                path,
                request_serializer=common_pb2.DescribeRequest.SerializeToString,
                response_deserializer=common_pb2.DescribeResponse.FromString,
            )
            reply: common_pb2.DescribeResponse = await describe(common_pb2.DescribeRequest(), timeout=5)
            return reply

    worker = run(ask())

    assert worker.role == (common_pb2.WORKER_ROLE_DRAFT if role == "draft" else common_pb2.WORKER_ROLE_VERIFY)
    assert (worker.name, worker.model) == ("tiny", str(folder))
    assert (worker.vocab_size, worker.max_length, worker.slots) == (VOCAB_SIZE, MAX_LENGTH, 4)
    assert (worker.dtype, worker.device) == ("float32", "cpu")
    assert len(worker.tokenizer_fingerprint) == 64
    assert worker.model_revision
    assert worker.instance_id


@pytest.mark.parametrize("role", ROLES)
def test_health_is_watched_from_serving_to_not_serving(folder: Path, role: Role) -> None:
    async def watch() -> list[int]:
        async with AsyncExitStack() as watcher:
            async with worker_and_channel(role, folder) as (ready, _):
                channel = await watcher.enter_async_context(grpc.aio.insecure_channel(ready.address))
                stub: Any = health_pb2_grpc.HealthStub(channel)
                watches = [stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICES[role])]
                first = [(await call.read()).status for call in watches]
            return [*first, *[(await call.read()).status for call in watches]]

    serving, ending = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert run(watch()) == [serving, serving, ending, ending]


@pytest.mark.parametrize("role", ROLES)
def test_reflection_lists_the_services(folder: Path, role: Role) -> None:
    async def ask() -> set[str]:
        async with worker_and_channel(role, folder) as (_, channel):
            stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            call = stub.ServerReflectionInfo()
            await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            listed = (await call.read()).list_services_response.service
            call.cancel()
            return {service.name for service in listed}

    assert {SERVICES[role], "grpc.health.v1.Health"} <= run(ask())


def test_a_draining_worker_finishes_what_runs_and_takes_nothing_new(folder: Path) -> None:
    """The message under way is answered; the next one, and one on a new stream, are told to go elsewhere."""

    async def converse() -> tuple[Any, Any, Any]:
        async with worker_and_channel("verify", folder, grace_s=5.0) as (ready, channel):
            talk, late = VerifyTalk(channel), VerifyTalk(channel)
            await talk.ask(open_verify())
            held = hold_engine(ready)
            await talk.call.write(verify([5] * MAX_LENGTH))
            await eventually(lambda: ready.host._thread._num_jobs > 0)
            draining = asyncio.create_task(ready.host.drain(5.0))
            held.set()
            under_way = await talk.call.read()
            after = await talk.ask(verify(PROMPT))
            elsewhere = await late.ask(open_verify())
            for each in (talk, late):
                await each.call.done_writing()
            await draining
            return under_way, after, elsewhere

    under_way, after, elsewhere = run(converse())

    assert under_way.status == OK
    assert len(under_way.verdict.token_ids) == 1
    assert after.status == elsewhere.status == DRAINING


def test_a_drain_ends_with_its_grace(folder: Path) -> None:
    async def converse() -> float:
        async with worker_and_channel("verify", folder, grace_s=0.1) as (_, channel):
            talk = VerifyTalk(channel)
            await talk.ask(open_verify())
            started = time.monotonic()
        return time.monotonic() - started

    assert run(converse()) < 3.0


def test_a_repeated_message_gets_the_same_answer(folder: Path) -> None:
    sampling = SAMPLINGS["everything"]
    shape = TreeShape(depth=3, branching=3, budget=9)

    async def converse() -> tuple[list[Any], list[Any]]:
        async with (
            worker_and_channel("draft", folder) as (_, drafts),
            worker_and_channel("verify", folder) as (_, verdicts),
        ):
            asked = propose(PROMPT, shape=shape)
            trees = await ask_all(DraftTalk(drafts), open_draft(sampling), asked, asked, asked)
            judged = verify(PROMPT, tree=chain(reference_text(sampling, 2)))
            return trees[1:], (await ask_all(VerifyTalk(verdicts), open_verify(sampling), judged, judged))[1:]

    trees, verdicts = run(converse())

    assert len({tuple(reply.proposal.tree.token_ids) for reply in trees}) == 1
    assert len({tuple(reply.proposal.tree.parents) for reply in trees}) == 1
    assert [list(reply.verdict.token_ids) for reply in verdicts] == [reference_text(sampling, 3)] * 2
