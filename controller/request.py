"""What a caller asks for, once it has been checked."""

from dataclasses import dataclass, field

from speculation.sampling import SamplingParameters
from speculation.tree import TreeShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Pins:
    """The caller's say in what is speculated; none of it changes the text.

    Attributes:
        off: Plain decoding.
        policy: A policy by name; empty: the operator's.
        drafters: Only these drafters; none: any.
        shape: The tree to draft; None: the policy's.
        uncoupled: Drafters do not use the seed.
        in_turn: Drafters do not draft on while the target judges.
    """

    off: bool = False
    policy: str = ""
    drafters: tuple[str, ...] = ()
    shape: TreeShape | None = None
    uncoupled: bool = False
    in_turn: bool = False

    @property
    def force(self) -> bool:
        """Whether the caller, not the policy alone, decides what is chosen."""
        return self.off or bool(self.policy or self.drafters) or self.shape is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One request, with every default filled in.

    Attributes:
        request_id: Unique among recent requests.
        prompt: Token ids, at least one.
        max_new_tokens: Most tokens to emit; prompt and answer fit into the target's context.
        stop: Texts at which to stop.
        stop_token_ids: Tokens at which to stop, the model's own end tokens among them unless the caller ignores those.
        sampling: How tokens are chosen, seed included.
        logprobs: Alternatives to report for each token; None: report nothing.
        task: The caller's label, or empty.
        tenant: The caller's label, or empty.
        latency_class: How long it may be kept waiting.
        pins: The caller's say in what is speculated.
        explain: Whether each round is reported.
        trace_id: Of the caller's trace, or of that which began here; empty: there is none.
    """

    request_id: str
    prompt: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = frozenset()
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    logprobs: int | None = None
    task: str = ""
    tenant: str = ""
    latency_class: str = ""
    pins: Pins = field(default_factory=Pins)
    explain: bool = False
    trace_id: str = ""
