"""/v1/chat/completions: a conversation to be answered."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from forerun.client import Delta, GenerateOptions, Generation, TokenLogprob
from gateway.answers import Head, Usage, finish_reason_of, headed, is_whole, label, spelled, tier_of, usage_of
from gateway.errors import HTTPProblem
from gateway.fields import A_BOOLEAN, Body, Fields

Nothing = Annotated[list[Any], Field(max_length=0)] | None
"""What clients send along empty, as they got it."""


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Body):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    """ "developer" is another word for "system"."""
    content: str | list[TextPart]
    """Text; several pieces are joined by line ends."""
    name: str | None = None
    """Without effect: chat templates know none."""
    refusal: None = None
    """Taken from answers, where it is always null."""
    annotations: Nothing = None
    """Likewise."""
    audio: None = None
    """Likewise."""
    function_call: None = None
    """Likewise."""
    tool_calls: Nothing = None
    """Likewise."""

    def turn(self) -> dict[str, str]:
        """As the client takes it."""
        content = self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class TextFormat(Body):
    """The only form of answer that is offered."""

    type: Literal["text"]


class ChatRequest(Fields):
    """A conversation to be answered."""

    messages: list[Message]
    """So far, oldest first."""
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    """The newer name of max_tokens."""
    logprobs: bool | None = None
    """Report the log-probability of each token."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """And of this many likeliest alternatives."""
    response_format: TextFormat | None = None
    """Text."""
    modalities: list[Literal["text"]] | None = None
    """Text."""
    tools: Nothing = None
    """Not offered."""
    tool_choice: Literal["none", "auto"] | None = None
    """There are no tools."""
    functions: Nothing = None
    """Not offered."""
    function_call: Literal["none", "auto"] | None = None
    """There are no functions."""
    parallel_tool_calls: bool | None = None
    """Without effect: there are no tools."""
    store: Annotated[Literal[False], A_BOOLEAN] | None = None
    """Nothing is stored."""
    metadata: dict[str, str] | None = None
    """Without effect: nothing is stored."""
    safety_identifier: str | None = None
    """Without effect, and not passed on."""
    prompt_cache_key: str | None = None
    """Without effect: prompts are looked up by what they say."""

    def options(self) -> GenerateOptions:
        """As the client takes them; raises as Fields.options."""
        given = super().options()
        given["messages"] = [message.turn() for message in self.messages]
        if self.max_completion_tokens is not None:
            if self.max_tokens not in (None, self.max_completion_tokens):
                raise HTTPProblem(
                    400,
                    "max_completion_tokens: max_tokens says something else",
                    param="max_completion_tokens",
                    code="invalid_value",
                )
            given["max_new_tokens"] = self.max_completion_tokens
        if self.top_logprobs is not None and not self.logprobs:
            raise HTTPProblem(400, "top_logprobs: only with logprobs", param="top_logprobs", code="invalid_value")
        if self.logprobs:
            given["logprobs"] = self.top_logprobs or 0
        return given

    @property
    def text(self) -> None:
        """The prompt is no text."""


class Alternative(BaseModel):
    """A token and its log-probability.

    Attributes:
        token: Its text; `token_id:N` if it is no text on its own.
        logprob: Under the model's distribution before any sampling transform.
        bytes: Its text in UTF-8; null if it is no text on its own.
    """

    token: str
    logprob: float
    bytes: list[int] | None


class Position(Alternative):
    """An emitted token beside the likeliest alternatives."""

    top_logprobs: list[Alternative]


class ChatLogprobs(BaseModel):
    """One entry for each token."""

    content: list[Position]
    refusal: None


class Said(BaseModel):
    """The answer; in a chunk, what is new of it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None


class ChatChoice(BaseModel):
    """A complete answer."""

    index: Literal[0]
    message: Said
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(Head):
    """A complete answer and what it took."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChunkChoice(BaseModel):
    """A piece of an answer."""

    index: Literal[0]
    delta: Said
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatChunk(Head):
    """A chunk of a stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None


class ChatForm:
    """Writes one answer as chat completions are written."""

    def __init__(self, head: Head, request: ChatRequest) -> None:
        self._head = head
        self._with_logprobs = bool(request.logprobs)
        self._include_usage = request.include_usage

    def whole(self, answer: Generation) -> ChatCompletion:
        """See Form."""
        choice = ChatChoice(
            index=0,
            message=Said(role="assistant", content=answer.text, refusal=None),
            logprobs=self._logprobs(answer),
            finish_reason=finish_reason_of(answer),
        )
        fields = headed(self._head, object="chat.completion", choices=[choice], usage=usage_of(answer))
        return ChatCompletion(**fields | tier_of(answer))

    def opening(self) -> Iterable[ChatChunk]:
        """See Form."""
        yield self._chunk(Said(role="assistant", content=""))

    def delta(self, delta: Delta) -> ChatChunk:
        """See Form."""
        return self._chunk(Said(content=delta.text), logprobs=self._logprobs(delta))

    def closing(self, answer: Generation) -> ChatChunk:
        """See Form."""
        return self._chunk(Said(), finish_reason=finish_reason_of(answer))

    def usage(self, answer: Generation) -> ChatChunk:
        """See Form."""
        return self._written([], usage=usage_of(answer))

    def _chunk(self, said: Said, *, logprobs: ChatLogprobs | None = None, finish_reason: Any = None) -> ChatChunk:
        choice = ChunkChoice(index=0, delta=said, logprobs=logprobs, finish_reason=finish_reason)
        return self._written([choice], **({"usage": None} if self._include_usage else {}))

    def _written(self, choices: list[ChunkChoice], **usage: Any) -> ChatChunk:
        return ChatChunk(**headed(self._head, object="chat.completion.chunk", choices=choices, **usage))

    def _logprobs(self, new: Delta | Generation) -> ChatLogprobs | None:
        if not self._with_logprobs:
            return None
        positions = [
            Position(**_alternative(token), top_logprobs=[Alternative(**_alternative(top)) for top in entry.top])
            for token, entry in spelled(new)
        ]
        return ChatLogprobs(content=positions, refusal=None)


def _alternative(token: TokenLogprob) -> dict[str, Any]:
    return {
        "token": label(token.text, token.token_id),
        "logprob": token.logprob,
        "bytes": list(token.text.encode()) if is_whole(token.text) else None,
    }
