"""A service that streams the same answer to every request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from forerun.client import AcceptanceRecord, Decision, Delta, FinishReason, Generation, RequestTimings, Usage
from router_models.policy import RoundTimings
from speculation.errors import ForerunError


def answer_of(tokens: int) -> Generation:
    return Generation(
        request_id="r",
        text="",
        token_ids=tuple(range(tokens)),
        finish_reason=FinishReason.LENGTH,
        usage=Usage(prompt_tokens=1, completion_tokens=tokens),
        seed=0,
        acceptance=AcceptanceRecord(),
        decision=Decision(policy="none"),
        timings=RequestTimings(time_to_first_token_ns=1, total_ns=2, rounds=RoundTimings()),
    )


@dataclass
class ScriptedStream:
    """Deltas, then the answer or an error."""

    deltas: tuple[Delta, ...]
    generation: Generation
    error: ForerunError | None = None

    async def __aiter__(self) -> AsyncIterator[Delta]:
        for delta in self.deltas:
            await asyncio.sleep(0)
            yield delta
        if self.error is not None:
            raise self.error


class ScriptedClient:
    """Answers every request with the same stream, and counts how many are asked at once."""

    def __init__(self, stream: ScriptedStream) -> None:
        self.asked: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self._stream = stream

    @asynccontextmanager
    async def stream(self, prompt: str, **options: Any) -> AsyncIterator[ScriptedStream]:
        self.asked.append({"prompt": prompt, **options})
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        yield self._stream
        self.at_once -= 1


FOUR_TOKENS = ScriptedStream((Delta("a", (0,)), Delta("later"), Delta("b", (1, 2, 3))), answer_of(4))
