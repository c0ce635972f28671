"""Drafting without a model, as jobs and as a worker: within its shape, blind to other tenants, and never believed."""

import asyncio
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation.errors import ConfigurationError, ModelNotFoundError
from speculation.rpc import error_info
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, MAX_BRANCHING, TokenTree, TreeShape
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from speculation.wire import tree_from_proto
from tests.architectures import VOCAB_SIZE
from tests.worker.grpc_session import (
    DraftTalk,
    VerifyTalk,
    extend_draft,
    foresee,
    open_draft,
    open_verify,
    propose,
    save_tiny_model,
    score,
    verify,
    worker_and_channel,
)
from tests.worker.tiny_worker import MAX_LENGTH, PROMPT, SAMPLINGS, context_of, new_session, reference_text, run
from worker.scoring import Scores
from worker.sessions import Session, SessionTable
from worker.settings import WorkerSettings
from worker.slots import NoModel
from worker.suffix_drafter import SuffixDrafter
from worker.tenant_memory import TenantMemory

CHAIN = TreeShape(depth=6, branching=1, budget=6)

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
SHAPES = st.builds(
    TreeShape,
    depth=st.integers(1, 6),
    branching=st.integers(1, 3),
    budget=st.integers(1, 12),
    least_confidence=st.sampled_from((0.0, 0.1, 0.4)),
)


class Alone:
    """A drafter, and the sessions of one worker, without threads."""

    def __init__(self, slots: int = 2, remember: int = 0) -> None:
        self.table = SessionTable(NoModel(slots=slots, vocab_size=VOCAB_SIZE), max_length=MAX_LENGTH)
        self.memory = TenantMemory(tokens=remember, tenants=4)
        self.drafter = SuffixDrafter(VOCAB_SIZE, self.memory)

    def draft(
        self, session: Session, text: list[int], shape: TreeShape = CHAIN, max_length: int = MAX_LENGTH
    ) -> TokenTree:
        steps = self.drafter.draft(session, shape, max_length=max_length)
        with pytest.raises(StopIteration) as end:
            next(self.table.call(session, context_of(text), steps))
        tree: TokenTree = end.value.value
        return tree

    def score(self, session: Session, text: list[int], scored: list[int]) -> Scores:
        with pytest.raises(StopIteration) as end:
            next(self.table.call(session, context_of(text), self.drafter.score(session, scored)))
        scores: Scores = end.value.value
        return scores


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@given(TEXTS, SHAPES)
def test_a_tree_is_as_its_shape_wants_it(text: list[int], shape: TreeShape) -> None:
    tree = Alone().draft(new_session(), text, shape)

    assert tree.depth <= shape.depth
    assert len(tree) <= shape.budget
    assert all(len(children) <= shape.branching for children in tree.children.values())
    assert all(chance >= shape.least_confidence for chance in tree.path_confidences)
    assert all(0 < confidence <= 1 for confidence in tree.confidences)


@given(TEXTS, TEXTS, SHAPES)
def test_a_repeated_call_gives_the_same_tree_whatever_was_asked_between(
    text: list[int], more: list[int], shape: TreeShape
) -> None:
    worker, session = Alone(), new_session()

    first = worker.draft(session, text, shape)
    worker.draft(session, text + more)
    worker.score(session, text, more)

    assert worker.draft(session, text, shape) == first


@given(TEXTS, TEXTS)
def test_scores_are_the_ranks_that_drafts_would_have_had(text: list[int], scored: list[int]) -> None:
    worker = Alone()
    scores = worker.score(new_session(), text, scored)

    wide = TreeShape(depth=1, branching=MAX_BRANCHING, budget=MAX_BRANCHING)
    for place, token in enumerate(scored):
        tree = worker.draft(new_session(), text + scored[:place], wide)
        drafted = dict(zip(tree.token_ids, tree.confidences, strict=True))
        rank = 1 + tree.token_ids.index(token) if token in drafted else VOCAB_SIZE
        assert scores.ranks[place] == rank
        assert scores.confidences[place] == pytest.approx(drafted.get(token, 0.0))


def test_a_session_drafts_from_its_own_text_only() -> None:
    worker, one, other = Alone(slots=1), new_session(), new_session()

    assert worker.draft(one, [1, 2, 3, 1, 2]).token_ids[:1] == (3,)
    assert worker.draft(other, [1, 2]) == EMPTY_TREE
    assert worker.draft(one, [1, 2, 4, 1, 2]).token_ids[:1] == (4,)


@given(st.lists(st.tuples(st.sampled_from(["", "bolt", "coil"]), TEXTS), max_size=6), TEXTS, SHAPES)
def test_what_others_tenants_said_moves_no_tree(
    others: list[tuple[str, list[int]]], text: list[int], shape: TreeShape
) -> None:
    alone, among_others, session = Alone(), Alone(remember=1 << 16), new_session(salt="acme")
    for salt, said in others:
        among_others.memory.remember(salt, said)
        among_others.score(new_session(salt=salt), text, said)

    assert among_others.draft(session, text, shape) == alone.draft(new_session(), text, shape)


@given(TEXTS, TEXTS, SHAPES)
def test_without_a_tenant_nothing_is_remembered(said: list[int], text: list[int], shape: TreeShape) -> None:
    worker = Alone(remember=1 << 16)
    worker.memory.remember("", said)
    worker.score(new_session(), text, said)

    assert worker.memory.num_tokens == 0
    assert worker.draft(new_session(), text, shape) == Alone().draft(new_session(), text, shape)


@given(st.lists(TEXTS, max_size=4), TEXTS, SHAPES)
def test_a_tree_from_memory_is_as_its_shape_wants_it(said: list[list[int]], text: list[int], shape: TreeShape) -> None:
    worker = Alone(remember=64)
    for earlier in said:
        worker.memory.remember("acme", earlier)

    tree = worker.draft(new_session(salt="acme"), text, shape)

    assert tree.depth <= shape.depth
    assert len(tree) <= shape.budget
    assert all(len(children) <= shape.branching for children in tree.children.values())
    assert all(len({tree.token_ids[child] for child in those}) == len(those) for those in tree.children.values())
    assert all(0 <= token < VOCAB_SIZE for token in tree.token_ids)


def test_what_the_tenant_said_before_is_drafted_where_the_text_itself_says_nothing() -> None:
    worker, session = Alone(remember=1000), new_session(salt="acme")
    worker.memory.remember("acme", [1, 2, 3, 4, 5, 6])

    assert worker.draft(session, [9, 1, 2, 3]).token_ids == (4, 5, 6)
    assert worker.draft(session, [9, 2, 3]) == EMPTY_TREE, "two tokens agree with too much"


def test_the_longer_agreement_has_the_first_say_wherever_it_is() -> None:
    """Its tenant said 6 after five tokens. The text says 8 after two of them, then 9 after three."""
    worker, session = Alone(remember=1000), new_session(salt="acme")
    worker.memory.remember("acme", [1, 2, 3, 4, 5, 6])

    assert worker.draft(session, [4, 5, 8, 1, 2, 3, 4, 5]).token_ids[0] == 6
    assert worker.draft(session, [3, 4, 5, 9, 1, 2, 3, 4, 5]).token_ids[0] == 9, "five there are worth less than three"


@given(TEXTS, TEXTS, TEXTS)
def test_scores_are_of_the_text_alone_however_often_it_was_heard(
    said: list[int], text: list[int], scored: list[int]
) -> None:
    worker = Alone(remember=1 << 16)
    worker.memory.remember("acme", said)

    first = worker.score(new_session(salt="acme"), text, scored)
    again = worker.score(new_session(salt="acme"), text, scored)

    assert first == again == Alone().score(new_session(), text, scored)


def test_an_answer_that_was_scored_is_remembered_once() -> None:
    worker = Alone(remember=1000)

    for _ in range(3):
        worker.score(new_session(salt="acme"), [1, 2, 3], [4, 5, 6])

    assert worker.memory.num_tokens == 7
    assert worker.draft(new_session(salt="acme"), [9, 2, 3, 4]).token_ids == (5, 6)


def test_no_tree_reaches_beyond_what_a_session_may_hold() -> None:
    text = [1, 2, 3] * 4

    assert Alone().draft(new_session(), text, max_length=14).depth == 2
    assert Alone().draft(new_session(), text, max_length=12) == EMPTY_TREE


async def answered(
    drafts: grpc.aio.Channel, verdicts: grpc.aio.Channel, sampling: SamplingParameters, tenant: str = ""
) -> tuple[list[int], int]:
    """An answer of 40 tokens, and in how many rounds it came."""
    drafter, target = DraftTalk(drafts), VerifyTalk(verdicts)
    await drafter.ask(open_draft(sampling, cache_salt=tenant))
    await target.ask(open_verify(sampling))
    tokens, told, kept, rounds = list(PROMPT), 0, 0, 0
    while len(tokens) < len(PROMPT) + 40:
        drafted = await drafter.ask(propose(tokens, told, shape=CHAIN))
        told = len(tokens)
        assert drafted.status == common_pb2.SESSION_STATUS_OK
        reply = await target.ask(verify(tokens, kept, tree=tree_from_proto(drafted.proposal.tree)))
        tokens += reply.verdict.token_ids
        kept = len(tokens)
        rounds += 1
    await drafter.call.done_writing()
    assert await drafter.call.read() == grpc.aio.EOF
    return tokens[len(PROMPT) :][:40], rounds


@pytest.mark.parametrize("sampling", ["greedy", "temperature 1", "everything"])
def test_with_a_target_of_the_same_tokens_the_text_is_the_targets(folder: Path, sampling: str) -> None:
    async def converse() -> tuple[list[int], int]:
        async with (
            worker_and_channel("draft", Path(f"suffix:{folder}")) as (_, drafts),
            worker_and_channel("verify", folder) as (_, verdicts),
        ):
            return await answered(drafts, verdicts, SAMPLINGS[sampling])

    assert run(converse())[0] == reference_text(SAMPLINGS[sampling], 40)


def test_what_is_remembered_makes_the_same_text_in_fewer_rounds_for_its_tenant_alone(folder: Path) -> None:
    sampling = SAMPLINGS["temperature 1"]

    async def converse() -> tuple[list[tuple[list[int], int]], list[int]]:
        async with (
            worker_and_channel("draft", Path(f"suffix:{folder}"), remember=1000) as (ready, drafts),
            worker_and_channel("verify", folder) as (_, verdicts),
        ):
            asked, remembered = [], []
            for tenant in ("acme", "bolt", "", "", "acme"):
                asked.append(await answered(drafts, verdicts, sampling, tenant))
                after = DraftTalk(drafts)
                await after.ask(open_draft())
                await after.ask(extend_draft([1]))  # done in order: what ended before it is remembered by now
                remembered.append(ready.host.cache_use.remembered_tokens)
            return asked, remembered

    asked, remembered = run(converse())

    rounds = [rounds for _, rounds in asked]
    assert all(text == reference_text(sampling, 40) for text, _ in asked)
    assert rounds[0] == rounds[1] == rounds[2] == rounds[3], "what acme was told helps nobody else"
    assert rounds[4] < rounds[0] / 2
    assert 0 < remembered[0] < remembered[1] == remembered[3] <= remembered[4]


def test_a_worker_that_remembers_says_so_and_forgets_what_is_too_much(folder: Path) -> None:
    async def converse() -> list[common_pb2.DescribeResponse]:
        told = []
        bounds = {"remember": 40, "remember_tenants": 2}
        async with worker_and_channel("draft", Path(f"suffix:{folder}"), **bounds) as (_, channel):
            for tenant in ("", "acme", "bolt", "coil", "dune"):
                talk = DraftTalk(channel)
                await talk.ask(open_draft(cache_salt=tenant))
                await talk.ask(score(range(10), 0, range(10, 40)))
                about = await draft_pb2_grpc.DraftServiceStub(channel).Describe(common_pb2.DescribeRequest())  # type: ignore[no-untyped-call]
                told.append(about)
        return told

    told = run(converse())

    assert [about.cache_use.remembered_tokens for about in told] == [0, 20, 40, 40, 40]
    assert {about.model_revision for about in told} == {"suffix-1+memory-1"}, "its trees are others"


def test_as_a_worker_it_says_what_it_is_and_scores_and_drafts_nothing_ahead(folder: Path) -> None:
    async def converse() -> tuple[common_pb2.DescribeResponse, draft_pb2.DraftResponse, grpc.aio.AioRpcError]:
        async with worker_and_channel("draft", Path(f"suffix:{folder}")) as (_, channel):
            about = await draft_pb2_grpc.DraftServiceStub(channel).Describe(common_pb2.DescribeRequest())  # type: ignore[no-untyped-call]
            talk = DraftTalk(channel)
            await talk.ask(open_draft())
            scored = await talk.ask(score([1, 2, 3, 1], 0, [2, 3, 9]))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await talk.ask(foresee([1, 2, 3, 1], 0, EMPTY_TREE))
            return about, scored, refused.value

    about, scored, refused = run(converse())

    assert about.most_outcomes == 0
    assert about.forward_profile == common_pb2.ForwardProfile(), "measured, and nothing"
    assert about.HasField("forward_profile")
    assert about.vocab_size == VOCAB_SIZE
    assert about.model_revision == "suffix-1"
    assert list(scored.scores.ranks) == [1, 1, VOCAB_SIZE]
    assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert error_info(refused).metadata["field"] == "outcomes"


def test_a_session_that_lost_its_slot_is_asked_for_its_text_again(folder: Path) -> None:
    async def converse() -> list[int]:
        async with worker_and_channel("draft", Path(f"suffix:{folder}"), slots=1) as (_, channel):
            one, other = DraftTalk(channel), DraftTalk(channel)
            await asyncio.gather(one.ask(open_draft()), other.ask(open_draft()))
            statuses = []
            for talk, base_length in ((one, 0), (other, 0), (one, 4), (one, 0)):
                reply = await talk.ask(propose([1, 2, 3, 1, 2], base_length, shape=CHAIN))
                statuses.append(reply.status)
            return statuses

    ok, need_context = common_pb2.SESSION_STATUS_OK, common_pb2.SESSION_STATUS_NEED_CONTEXT
    assert run(converse()) == [ok, ok, need_context, ok]


@pytest.mark.parametrize("model", ["", "suffix:"])
def test_it_must_be_told_whose_tokens_it_drafts(model: str) -> None:
    with pytest.raises(ConfigurationError, match="suffix:TARGET"):
        WorkerSettings(role="draft", model=model, name="suffix")


def test_it_cannot_verify() -> None:
    with pytest.raises(ConfigurationError, match="no model to verify with"):
        WorkerSettings(role="verify", model="suffix:anything", name="target")


@pytest.mark.parametrize(
    ("model", "wrong", "told"),
    [
        pytest.param("suffix:target", {"remember": -1}, "remember: -1 is not a number", id="less than nothing"),
        pytest.param("suffix:target", {"remember_tenants": 0}, "remember_tenants: 0 is not positive", id="nobody"),
        pytest.param("some/model", {"remember": 100}, "remember: is for drafters without a model", id="a model"),
    ],
)
def test_a_memory_that_cannot_be_is_refused(model: str, wrong: dict[str, int], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        WorkerSettings(role="draft", model=model, name="suffix", **wrong)


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def start() -> None:
        async with worker_and_channel("draft", Path(f"suffix:{tmp_path}/missing")):
            pass

    with pytest.raises(ModelNotFoundError, match="missing"):
        run(start())
