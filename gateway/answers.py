"""What both kinds of answer have in common."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from forerun.client import Delta, FinishReason, Generation, TokenLogprob, TokenLogprobs

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class SpeculationUsage(BaseModel):
    """What was drafted for an answer.

    Attributes:
        rounds: Exchanges with the target in which something was drafted.
        drafted_tokens: Drafted for it.
        accepted_tokens: Of these, what the target emitted too: tokens that cost no pass of their own.
    """

    rounds: int
    drafted_tokens: int
    accepted_tokens: int


class Usage(BaseModel):
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    speculation: SpeculationUsage


class Head(BaseModel):
    """What every answer and every chunk of it begins with.

    Attributes:
        id: Of the answer; it ends in the request id.
        created: Unix time in seconds.
        model: Whose answer it is.
        seed: Give it again, with the same request, to get the same text again.
        service_tier: The latency class in which it was served; of whole answers.
    """

    id: str
    created: int
    model: str
    seed: int
    service_tier: str | None = None


class Form(Protocol):
    """How one kind of answer is written."""

    def whole(self, answer: Generation) -> BaseModel:
        """A complete answer."""

    def opening(self) -> Iterable[BaseModel]:
        """Chunks before the first delta."""

    def delta(self, delta: Delta) -> BaseModel:
        """A chunk with what is new."""

    def closing(self, answer: Generation) -> BaseModel:
        """The chunk that tells why the answer ended."""

    def usage(self, answer: Generation) -> BaseModel:
        """The chunk that tells the usage."""


def usage_of(answer: Generation) -> Usage:
    """What an answer took."""
    counted, kept = answer.usage, answer.acceptance
    return Usage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
        speculation=SpeculationUsage(
            rounds=kept.num_spec_steps,
            drafted_tokens=kept.num_draft_tokens,
            accepted_tokens=kept.num_accepted_draft_tokens,
        ),
    )


def tier_of(answer: Generation) -> dict[str, str]:
    """The latency class in which it was served, if that is known."""
    return {"service_tier": answer.latency_class} if answer.latency_class else {}


def finish_reason_of(answer: Generation) -> Literal["stop", "length"]:
    """ "stop" or "length"."""
    return "length" if answer.finish_reason is FinishReason.LENGTH else "stop"


def label(text: str, token_id: int) -> str:
    """A token's text, or as in vLLM `token_id:N` if it has none of its own: a piece of a character, mostly."""
    return text if is_whole(text) else f"token_id:{token_id}"


def is_whole(text: str) -> bool:
    """Whether a token's text is text on its own."""
    return bool(text) and REPLACEMENT not in text


def spelled(delta: Delta | Generation) -> Iterable[tuple[TokenLogprob, TokenLogprobs]]:
    """Each emitted token beside what is known about its place."""
    for token_id, entry in zip(delta.token_ids, delta.logprobs, strict=True):
        yield TokenLogprob(token_id, entry.logprob, entry.text), entry


def written(answer: BaseModel) -> str:
    """JSON of an answer, without what its form left out."""
    return answer.model_dump_json(exclude_unset=True)


def headed(head: Head, **fields: Any) -> dict[str, Any]:
    """The fields of an answer that begins with this head."""
    return {**head.model_dump(exclude_unset=True), **fields}
