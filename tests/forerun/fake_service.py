"""A GenerationService that answers from a script, on a real port: what the client is tested against."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_status import rpc_status

from speculation.errors import ForerunError
from speculation.rpc import status_of
from speculation.v1 import common_pb2, generation_pb2, generation_pb2_grpc

WORDS = ("def ", "area", "(radius)", ":")


def delta(text: str, *token_ids: int) -> generation_pb2.GenerateResponse:
    return generation_pb2.GenerateResponse(delta=generation_pb2.Delta(text=text, token_ids=token_ids))


def round_report() -> generation_pb2.GenerateResponse:
    tree = common_pb2.TokenTree(token_ids=[5, 6, 7], parents=[0, 0, 1], confidences=[0.9, 0.1, 0.5])
    return generation_pb2.GenerateResponse(
        round=generation_pb2.RoundReport(
            round=0,
            decision=decision(),
            tree=tree,
            accepted=[0, 2],
            node_texts=["area", "volume", "(radius)"],
            extra_text=":",
            timings=generation_pb2.RoundTimings(round_ns=5_000_000, draft_ns=1_000_000, verify_ns=3_000_000),
        )
    )


def decision() -> generation_pb2.Decision:
    shape = common_pb2.TreeShape(depth=2, branching=2, budget=3)
    return generation_pb2.Decision(policy="static", drafters=["code"], shape=shape, propensity=1.0, explanation="asked")


def summary(seed: int = 7) -> generation_pb2.GenerateResponse:
    return generation_pb2.GenerateResponse(
        summary=generation_pb2.Summary(
            request_id="r-1",
            finish_reason=generation_pb2.FINISH_REASON_LENGTH,
            usage=generation_pb2.Usage(prompt_tokens=3, completion_tokens=4),
            seed=seed,
            acceptance=generation_pb2.AcceptanceRecord(
                num_spec_steps=2,
                num_draft_tokens=6,
                num_accepted_draft_tokens=2,
                per_step_drafted=[3, 3],
                per_step_accepted=[2, 0],
            ),
            decision=decision(),
            timings=generation_pb2.RequestTimings(time_to_first_token_ns=1_000_000, total_ns=2_000_000_000),
            model_revisions={"target": "abc"},
            prompt_surprisal={"code": 1.5},
        )
    )


class FakeGenerationService(generation_pb2_grpc.GenerationServiceServicer):
    """Fails as often as it is told to, then answers WORDS; with `hangs` it waits for a cancel after the first word."""

    def __init__(self) -> None:
        self.requests: list[generation_pb2.GenerateRequest] = []
        self.deadlines_s: list[float] = []
        self.metadata: list[dict[str, Any]] = []
        self.failures: list[ForerunError] = []
        self.failure_after_first_word: ForerunError | None = None
        self.hangs = False
        self.ended = threading.Event()

    def Generate(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        self.requests.append(request)
        self.deadlines_s.append(context.time_remaining())
        self.metadata.append({entry.key: entry.value for entry in context.invocation_metadata()})
        context.add_callback(self.ended.set)
        if self.failures:
            context.abort_with_status(rpc_status.to_status(status_of(self.failures.pop(0))))
        yield delta(WORDS[0], 4)
        if self.failure_after_first_word is not None:
            context.abort_with_status(rpc_status.to_status(status_of(self.failure_after_first_word)))
        if self.hangs:
            self.ended.wait(timeout=30)
            return
        if request.explain:
            yield round_report()
        for place, word in enumerate(WORDS[1:]):
            yield delta(word, 5 + place)
        yield summary(seed=request.sampling.seed if request.sampling.HasField("seed") else 7)

    def ListModels(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.metadata.append({entry.key: entry.value for entry in context.invocation_metadata()})
        model = generation_pb2.ServedModel(name="words", revision="abc", max_length=64)
        return generation_pb2.ListModelsResponse(models=[model])


@contextmanager
def serving(service: FakeGenerationService) -> Iterator[str]:
    """Serve on a free port of the loopback; the address."""
    server = grpc.server(ThreadPoolExecutor(max_workers=4))
    generation_pb2_grpc.add_GenerationServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()
