"""What a caller gets back, as plain frozen values: no protobuf reaches a backend service."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from router_models.policy import RoundTimings
from speculation.tree import TokenTree, TreeShape

NS_PER_S = 1e9


class FinishReason(Enum):
    """Why an answer ended."""

    STOP = "stop"
    """An end token, a stop token or a stop string."""
    LENGTH = "length"
    """As many tokens as were asked for."""
    UNKNOWN = "unknown"
    """The service gave a reason that this client is too old to know."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its log-probability, and its text: a special token's name, U+FFFD for a piece of a character."""

    token_id: int
    logprob: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probability of an emitted token and of the likeliest alternatives, before any sampling transform; `text` as
    in TokenLogprob."""

    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    text: str = ""


@dataclass(frozen=True, slots=True)
class Delta:
    """What is new. The text of a token may come with a later delta, once a character or a possible stop is complete."""

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was chosen, and why.

    Attributes:
        policy: The policy that chose.
        drafters: Names of the drafters; none means plain decoding.
        shape: The tree each of them drafts; None in plain decoding.
        verify_budget: Most nodes verified.
        propensity: Probability with which the policy makes this choice in this context.
        explanation: In words.
        model_version: Version of the learnt model behind it; empty if there is none.
        run: Tokens that the target may decode after its verdict, without a round for each.
    """

    policy: str
    drafters: tuple[str, ...] = ()
    shape: TreeShape | None = None
    verify_budget: int = 0
    propensity: float = 1.0
    explanation: str = ""
    model_version: str = ""
    run: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundReport:
    """What one round did.

    Attributes:
        tree: The verified tree.
        accepted: Its accepted nodes, first level first.
        node_texts: The text of each node.
        extra_text: The text of the token that the target added.
        missing_drafters: Drafters that were asked and did not answer in time.
        foreseen_drafters: Drafters whose tree was there before it was asked for.
        silent_drafters: Drafters that had nothing to say, so that the round was planned again without them.
        run_text: The text that the target decoded after that, without a round for each token.
        tokens_emitted: Tokens that the answer gained.
    """

    round: int
    decision: Decision
    tree: TokenTree
    accepted: tuple[int, ...]
    node_texts: tuple[str, ...]
    extra_text: str
    timings: RoundTimings
    missing_drafters: tuple[str, ...] = ()
    foreseen_drafters: tuple[str, ...] = ()
    silent_drafters: tuple[str, ...] = ()
    run_text: str = ""
    tokens_emitted: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model that answers requests.

    Attributes:
        name: Its hub id, or the name of its folder.
        revision: Hash of its weights and configuration.
        max_length: Most tokens of a prompt and its answer together.
    """

    name: str
    revision: str
    max_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptanceRecord:
    """How much of what was drafted was kept. Names as in vLLM and AIPerf; a step is a round."""

    num_spec_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    per_step_drafted: tuple[int, ...] = ()
    per_step_accepted: tuple[int, ...] = ()

    @property
    def mean_acceptance_length(self) -> float:
        """Tokens a round emits: those accepted and the target's own."""
        return 1.0 + self.num_accepted_draft_tokens / self.num_spec_steps if self.num_spec_steps else 1.0

    @property
    def draft_acceptance_rate(self) -> float:
        """Share of the drafted tokens that was kept; 0 if none was drafted."""
        return self.num_accepted_draft_tokens / self.num_draft_tokens if self.num_draft_tokens else 0.0

    @property
    def histogram(self) -> dict[int, int]:
        """Number of rounds by how many drafted tokens they kept."""
        return dict(sorted(Counter(self.per_step_accepted).items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTimings:
    """Where the request spent its time, in nanoseconds, as the controller saw it; `rounds` holds sums over rounds,
    `queue_ns` is what passed before it had a place."""

    time_to_first_token_ns: int
    total_ns: int
    rounds: RoundTimings
    queue_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One complete answer.

    Attributes:
        text: The answer.
        token_ids: Every emitted token, an end token included.
        seed: Give it again, with the same prompt and parameters, to get the same text again.
        decision: The first round's.
        matched_stop: The stop string that ended it, or empty.
        logprobs: One for each of token_ids, if asked for.
        rounds: One report a round, if `explain` was asked for.
        model_revisions: Revision of each model that took part, by worker name.
        near_ties: Emitted tokens whose two best scores lay so close that rounding could have swapped them.
        failovers: Times a worker was lost and its session moved, or a drafter was given up for a round.
        prompt_surprisal: Nats per token of the end of the prompt, by drafter that reported it.
        latency_class: The class in which it was served.
    """

    request_id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    seed: int
    acceptance: AcceptanceRecord
    decision: Decision
    timings: RequestTimings
    matched_stop: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    rounds: tuple[RoundReport, ...] = ()
    model_revisions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    near_ties: int = 0
    failovers: int = 0
    prompt_surprisal: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    latency_class: str = ""

    @property
    def tokens_per_second(self) -> float:
        """Goodput of the whole request as the controller saw it, prompt included."""
        return self.usage.completion_tokens * NS_PER_S / self.timings.total_ns if self.timings.total_ns else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Tokens emitted for each pass of the target; 1 in plain decoding."""
        return self.usage.completion_tokens / max(1, len(self.acceptance.per_step_accepted))
