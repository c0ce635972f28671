"""Drafting without a model, as jobs and as a worker: within its shape, blind to other sessions, and never believed."""

import asyncio
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation.errors import ConfigurationError, ModelNotFoundError
from speculation.rpc import error_info
from speculation.tree import EMPTY_TREE, MAX_BRANCHING, TokenTree, TreeShape
from speculation.v1 import common_pb2, draft_pb2, draft_pb2_grpc
from speculation.wire import tree_from_proto
from tests.architectures import VOCAB_SIZE
from tests.worker.grpc_session import (
    DraftTalk,
    VerifyTalk,
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

    def __init__(self, slots: int = 2) -> None:
        self.table = SessionTable(NoModel(slots=slots, vocab_size=VOCAB_SIZE), max_length=MAX_LENGTH)
        self.drafter = SuffixDrafter(VOCAB_SIZE)

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


def test_no_tree_reaches_beyond_what_a_session_may_hold() -> None:
    text = [1, 2, 3] * 4

    assert Alone().draft(new_session(), text, max_length=14).depth == 2
    assert Alone().draft(new_session(), text, max_length=12) == EMPTY_TREE


@pytest.mark.parametrize("sampling", ["greedy", "temperature 1", "everything"])
def test_with_a_target_of_the_same_tokens_the_text_is_the_targets(folder: Path, sampling: str) -> None:
    async def converse() -> list[int]:
        async with (
            worker_and_channel("draft", Path(f"suffix:{folder}")) as (_, drafts),
            worker_and_channel("verify", folder) as (_, verdicts),
        ):
            drafter, target = DraftTalk(drafts), VerifyTalk(verdicts)
            await drafter.ask(open_draft(SAMPLINGS[sampling]))
            await target.ask(open_verify(SAMPLINGS[sampling]))
            tokens, told, kept = list(PROMPT), 0, 0
            while len(tokens) < len(PROMPT) + 40:
                drafted = await drafter.ask(propose(tokens, told, shape=CHAIN))
                told = len(tokens)
                assert drafted.status == common_pb2.SESSION_STATUS_OK
                reply = await target.ask(verify(tokens, kept, tree=tree_from_proto(drafted.proposal.tree)))
                tokens += reply.verdict.token_ids
                kept = len(tokens)
            return tokens[len(PROMPT) :][:40]

    assert run(converse()) == reference_text(SAMPLINGS[sampling], 40)


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


def test_a_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    async def start() -> None:
        async with worker_and_channel("draft", Path(f"suffix:{tmp_path}/missing")):
            pass

    with pytest.raises(ModelNotFoundError, match="missing"):
        run(start())
