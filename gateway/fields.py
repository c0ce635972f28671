"""What both kinds of request have in common, and how it becomes a request to the controller."""

import secrets
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from forerun.client import GenerateOptions
from gateway.errors import HTTPProblem
from speculation.tree import TreeShape

SEED_BITS = 53
"""Of the seeds drawn here: every JSON reader keeps such a number exactly."""


def _of(kind: type) -> BeforeValidator:
    """Of exactly this type: to Python, and so to Literal, 0 is False and true is 1."""

    def same(value: Any) -> Any:
        if value is not None and type(value) is not kind:
            raise PydanticCustomError("type", "Input should be of type {kind}", {"kind": kind.__name__})
        return value

    return BeforeValidator(same)


A_NUMBER, A_BOOLEAN = _of(int), _of(bool)


class Body(BaseModel):
    """A part of a request; what it does not know is refused, so that nothing you wrote is silently ignored."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Shape(Body):
    """The tree that drafters draft."""

    depth: int
    """Levels, 1 to 64."""
    branching: int = 1
    """Nodes expanded a level and children of each, 1 to 64; 1 gives a chain."""
    budget: int
    """Most nodes, 1 to 256."""
    least_confidence: float = 0.0
    """Nodes whose path confidence is lower are not drafted."""


class Speculation(Body):
    """The caller's say in what is speculated, and the labels of the request. None of it changes the text."""

    off: bool = False
    """Plain decoding."""
    policy: str | None = None
    """A policy by name; absent: the operator's."""
    drafters: list[str] = []
    """Only these drafters; none: any."""
    shape: Shape | None = None
    """Pins the tree; absent: the policy's."""
    uncoupled: bool = False
    """Drafters do not use the seed. For comparison."""
    in_turn: bool = False
    """Drafters wait for the target's word. For comparison."""
    task: str | None = None
    """What kind of text this is, for example "code"."""
    tenant: str | None = None
    """On whose behalf."""

    def options(self) -> GenerateOptions:
        """As the client takes them; what was not said is left to the controller."""
        given: dict[str, Any] = {
            name: value for name in ("policy", "drafters", "task", "tenant") if (value := getattr(self, name))
        }
        given |= {name: True for name in ("uncoupled", "in_turn") if getattr(self, name)}
        if self.off:
            given["speculation"] = False
        if self.shape is not None:
            given["shape"] = TreeShape(**self.shape.model_dump())
        return cast(GenerateOptions, given)


class StreamOptions(Body):
    """How a stream is written."""

    include_usage: bool = False
    """End with a chunk that has no choice but the usage."""
    include_obfuscation: bool | None = None
    """Without effect: nothing is added to hide the lengths of chunks."""


class Fields(Body):
    """What a request may say besides its prompt."""

    model: str
    """What /v1/models lists."""
    max_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    """Most tokens to generate."""
    temperature: float | None = None
    """0 takes the likeliest token. Absent: 1."""
    top_p: float | None = None
    """Keep the smallest set of likeliest tokens whose probability reaches this. Absent: 1."""
    presence_penalty: float | None = None
    """Subtracted once from the logit of each token that the answer holds."""
    frequency_penalty: float | None = None
    """Subtracted for each occurrence in the answer."""
    logit_bias: dict[Annotated[str, Field(pattern=r"^\d{1,10}$")], float] | None = None
    """Added to the logits of these token ids."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    """The same seed gives the same text, whatever is speculated. Absent: one is drawn; the answer tells it."""
    stop: str | list[str] | None = None
    """Text at which to stop; it is not part of the answer."""
    stream: bool | None = None
    """Send the answer as it comes, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Only with `stream`."""
    n: Annotated[Literal[1], A_NUMBER] | None = None
    """One answer a request."""
    service_tier: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")] | None = None
    """How long the request may be kept waiting when there are too many: a class by the name that the operator gave it.
    "auto", "default" and absent: his default."""
    user: str | None = None
    """Without effect, and not passed on."""
    top_k: Annotated[int, Field(ge=-1, lt=2**32)] | None = None
    """As in vLLM: keep the k likeliest tokens; 0 and -1 keep all."""
    min_p: float | None = None
    """As in vLLM: keep the tokens at least this many times as likely as the likeliest."""
    repetition_penalty: float | None = None
    """As in vLLM: divides the positive and multiplies the negative logits of all tokens of prompt and answer."""
    ignore_eos: bool = False
    """As in vLLM: go on after the model's end tokens."""
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=2**32)]] | None = None
    """As in vLLM: token ids at which to stop, besides the model's own."""
    speculation: Speculation | None = None
    """What is speculated, and the labels of the request."""

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def options(self) -> GenerateOptions:
        """As the client takes them.

        Raises:
            HTTPProblem: Fields contradict each other.
            InvalidRequestError: The shape is out of its range.
        """
        if self.stream_options is not None and not self.stream:
            raise HTTPProblem(400, "stream_options: only with stream", param="stream_options", code="invalid_value")
        given: dict[str, Any] = {"temperature": 1.0, "seed": secrets.randbits(SEED_BITS)}
        given |= {name: value for name in _AS_THEY_ARE if (value := getattr(self, name)) is not None}
        # Unsigned on the wire; the negative ones keep their 64 bits.
        given["seed"] %= 2**64
        if self.max_tokens is not None:
            given["max_new_tokens"] = self.max_tokens
        if self.service_tier not in _OPERATORS_DEFAULT:
            given["latency_class"] = self.service_tier
        if self.top_k is not None:
            given["top_k"] = max(0, self.top_k)
        if self.logit_bias:
            given["logit_bias"] = {int(token): bias for token, bias in self.logit_bias.items()}
        if self.stop is not None:
            given["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        spoken = self.speculation.options() if self.speculation is not None else GenerateOptions()
        return cast(GenerateOptions, {**given, **spoken})


_OPERATORS_DEFAULT = (None, "auto", "default")

_AS_THEY_ARE = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "stop_token_ids",
)
