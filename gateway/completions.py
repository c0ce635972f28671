"""/v1/completions: a text to be continued."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from forerun.client import Delta, GenerateOptions, Generation
from gateway.answers import Head, Usage, finish_reason_of, headed, label, spelled, tier_of, usage_of
from gateway.errors import HTTPProblem
from gateway.fields import A_BOOLEAN, A_NUMBER, Fields

DEFAULT_MAX_TOKENS = 16
"""As OpenAI has it."""


class CompletionRequest(Fields):
    """A text to be continued."""

    prompt: str | list[str] | list[int] | list[list[int]]
    """One text, or one list of token ids; also as the only entry of a list."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report the log-probability of each token, and of this many likeliest alternatives."""
    best_of: Annotated[Literal[1], A_NUMBER] | None = None
    """One answer a request."""
    echo: Annotated[Literal[False], A_BOOLEAN] | None = None
    """The prompt is not repeated."""
    suffix: None = None
    """Not offered."""

    def options(self) -> GenerateOptions:
        """As the client takes them; raises as Fields.options."""
        given = super().options()
        given.setdefault("max_new_tokens", DEFAULT_MAX_TOKENS)
        if self.logprobs is not None:
            given["logprobs"] = self.logprobs
        prompt = self._one_prompt()
        if not isinstance(prompt, str):
            given["token_ids"] = prompt
        return given

    @property
    def text(self) -> str | None:
        """The prompt, if it is text."""
        prompt = self._one_prompt()
        return prompt if isinstance(prompt, str) else None

    def _one_prompt(self) -> str | list[int]:
        if isinstance(self.prompt, str):
            return self.prompt
        if all(isinstance(part, int) for part in self.prompt):
            return [part for part in self.prompt if isinstance(part, int)]
        if len(self.prompt) > 1:
            raise HTTPProblem(
                400, "prompt: one prompt a request is offered here", param="prompt", code="unsupported_value"
            )
        (only,) = self.prompt
        assert not isinstance(only, int)
        return only


class CompletionLogprobs(BaseModel):
    """Log-probabilities under the model's distribution before any sampling transform, one entry for each token.

    Attributes:
        tokens: Text of each token; `token_id:N` for one that is no text on its own.
        token_logprobs: Of the token itself.
        top_logprobs: Of it and the likeliest alternatives.
        text_offset: Where the token begins in the answer, in characters.
    """

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """The answer; in a chunk, what is new of it."""

    index: Literal[0]
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(Head):
    """An answer, or a chunk of one."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


class CompletionForm:
    """Writes one answer as completions are written."""

    def __init__(self, head: Head, request: CompletionRequest) -> None:
        self._head = head
        self._with_logprobs = request.logprobs is not None
        self._include_usage = request.include_usage
        self._offset = 0

    def whole(self, answer: Generation) -> Completion:
        """See Form."""
        reason = finish_reason_of(answer)
        choice = self._choice(text=answer.text, logprobs=self._logprobs(answer), finish_reason=reason)
        return self._completion([choice], usage=usage_of(answer), **tier_of(answer))

    def opening(self) -> Iterable[Completion]:
        """See Form."""
        return ()

    def delta(self, delta: Delta) -> Completion:
        """See Form."""
        return self._chunk(text=delta.text, logprobs=self._logprobs(delta), finish_reason=None)

    def closing(self, answer: Generation) -> Completion:
        """See Form."""
        return self._chunk(text="", logprobs=None, finish_reason=finish_reason_of(answer))

    def usage(self, answer: Generation) -> Completion:
        """See Form."""
        return self._completion([], usage=usage_of(answer))

    def _chunk(self, **choice: Any) -> Completion:
        return self._completion([self._choice(**choice)], **({"usage": None} if self._include_usage else {}))

    def _choice(self, **fields: Any) -> CompletionChoice:
        return CompletionChoice(index=0, **fields)

    def _completion(self, choices: list[CompletionChoice], **more: Any) -> Completion:
        return Completion(**headed(self._head, object="text_completion", choices=choices, **more))

    def _logprobs(self, new: Delta | Generation) -> CompletionLogprobs | None:
        if not self._with_logprobs:
            return None
        told = CompletionLogprobs(tokens=[], token_logprobs=[], top_logprobs=[], text_offset=[])
        for token, entry in spelled(new):
            name = label(token.text, token.token_id)
            told.tokens.append(name)
            told.token_logprobs.append(token.logprob)
            alternatives = {label(top.text, top.token_id): top.logprob for top in entry.top}
            told.top_logprobs.append(alternatives | {name: token.logprob})
            told.text_offset.append(self._offset)
            self._offset += len(token.text)
        return told
