"""A controller in miniature: real streams to a real worker, message by message."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape
from speculation.v1 import draft_pb2, draft_pb2_grpc, verify_pb2, verify_pb2_grpc
from speculation.wire import context_to_proto, sampling_to_proto, shape_to_proto, tree_to_proto
from tests.architectures import VOCAB_SIZE, plain_model
from tests.worker.tiny_worker import MODEL, PROMPT, context_of
from worker.serve import Ready, running
from worker.settings import Role, WorkerSettings


def save_tiny_model(folder: Path) -> Path:
    """The tiny model and a tokenizer for it, as files."""
    plain_model(MODEL).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{index}": index for index in range(VOCAB_SIZE)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


@asynccontextmanager
async def worker_and_channel(
    role: Role, folder: Path, **settings: Any
) -> AsyncIterator[tuple[Ready, grpc.aio.Channel]]:
    """A worker in this process, on a port of its own, and a channel to it."""
    fields = {"name": "tiny", "slots": 4, "max_length": 200, "grace_s": 0.2, "least_idle_s": 0.0, **settings}
    async with (
        running(WorkerSettings(role=role, model=str(folder), **fields)) as ready,
        grpc.aio.insecure_channel(ready.address) as channel,
    ):
        yield ready, channel


class DraftTalk:
    """One stream to a draft worker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = draft_pb2_grpc.DraftServiceStub(channel).Draft()  # type: ignore[no-untyped-call]

    async def ask(self, message: draft_pb2.DraftRequest) -> draft_pb2.DraftResponse:
        """Send, and read the reply."""
        await self.call.write(message)
        reply: draft_pb2.DraftResponse = await self.call.read()
        return reply


class VerifyTalk:
    """One stream to a verify worker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.call: Any = verify_pb2_grpc.VerifyServiceStub(channel).Verify()  # type: ignore[no-untyped-call]

    async def ask(self, message: verify_pb2.VerifyRequest) -> verify_pb2.VerifyResponse:
        """Send, and read the reply."""
        await self.call.write(message)
        reply: verify_pb2.VerifyResponse = await self.call.read()
        return reply


def open_draft(sampling: SamplingParameters | None = None, **fields: Any) -> draft_pb2.DraftRequest:
    """The first message to a draft worker."""
    options = {"session_id": "test", "prompt_length": len(PROMPT), **fields}
    proto = sampling_to_proto(sampling or SamplingParameters())
    return draft_pb2.DraftRequest(open=draft_pb2.OpenDraft(sampling=proto, **options))


def extend_draft(token_ids: Sequence[int], base_length: int = 0) -> draft_pb2.DraftRequest:
    """More context for a draft worker."""
    context = context_to_proto(context_of(token_ids, base_length))
    return draft_pb2.DraftRequest(extend=draft_pb2.ExtendDraft(context=context))


def propose(
    token_ids: Sequence[int], base_length: int = 0, *, shape: TreeShape | None = None, number: int = 0
) -> draft_pb2.DraftRequest:
    """A request for a tree."""
    message = draft_pb2.Propose(
        round=number,
        context=context_to_proto(context_of(token_ids, base_length)),
        shape=shape_to_proto(shape or TreeShape(depth=4, branching=1, budget=4)),
    )
    return draft_pb2.DraftRequest(propose=message)


def foresee(
    token_ids: Sequence[int],
    base_length: int,
    tree: TokenTree,
    *,
    shape: TreeShape | None = None,
    number: int = 0,
    outcomes: int = 4,
) -> draft_pb2.DraftRequest:
    """A request for the trees that may be needed next."""
    message = draft_pb2.Foresee(
        round=number,
        context=context_to_proto(context_of(token_ids, base_length)),
        tree=tree_to_proto(tree),
        shape=shape_to_proto(shape or TreeShape(depth=4, branching=1, budget=4)),
        outcomes=outcomes,
    )
    return draft_pb2.DraftRequest(foresee=message)


def score(token_ids: Sequence[int], base_length: int, scored: Sequence[int]) -> draft_pb2.DraftRequest:
    """A request for ranks."""
    context = context_to_proto(context_of(token_ids, base_length))
    return draft_pb2.DraftRequest(score=draft_pb2.Score(context=context, token_ids=scored))


def open_verify(sampling: SamplingParameters | None = None, **fields: Any) -> verify_pb2.VerifyRequest:
    """The first message to a verify worker."""
    options = {"session_id": "test", "prompt_length": len(PROMPT), **fields}
    proto = sampling_to_proto(sampling or SamplingParameters())
    return verify_pb2.VerifyRequest(open=verify_pb2.OpenVerify(sampling=proto, **options))


def extend_verify(token_ids: Sequence[int], base_length: int = 0) -> verify_pb2.VerifyRequest:
    """More context for a verify worker."""
    context = context_to_proto(context_of(token_ids, base_length))
    return verify_pb2.VerifyRequest(extend=verify_pb2.ExtendVerify(context=context))


def verify(
    token_ids: Sequence[int], base_length: int = 0, *, tree: TokenTree = EMPTY_TREE, number: int = 0, run: int = 0
) -> verify_pb2.VerifyRequest:
    """A request for a verdict, and a run after it."""
    message = verify_pb2.VerifyTree(
        round=number, context=context_to_proto(context_of(token_ids, base_length)), tree=tree_to_proto(tree), run=run
    )
    return verify_pb2.VerifyRequest(verify=message)
