"""What a worker's forwards take, measured once and alone when it starts: what is believed before a round was timed."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardProfile:
    """Milliseconds; all 0 where no model runs.

    Attributes:
        forward_ms: A forward of one token.
        node_ms: Every further token of a tree in it.
        prompt_token_ms: Every token of a prompt.
    """

    forward_ms: float
    node_ms: float
    prompt_token_ms: float


NO_FORWARDS = ForwardProfile(forward_ms=0.0, node_ms=0.0, prompt_token_ms=0.0)
"""Of a drafter without a model."""
