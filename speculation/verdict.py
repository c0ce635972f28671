"""What the target said about one tree, and what a round cost."""

from dataclasses import dataclass, replace

MAX_RUN = 64
"""Tokens that may be decoded after a verdict without a message in between."""

MAX_STOP_TOKENS = 1024
"""Tokens at which a run may end; what it decodes after another one that ends the answer is left out."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the logarithm of its probability under the target's unmodified distribution."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTimings:
    """Where a worker spent a call, in nanoseconds.

    Attributes:
        queue_ns: Waiting for the engine, admission to first forward.
        compute_ns: In the engine on this call's forwards, shared with whatever was batched alongside.
        total_ns: From reading the message to answering it.
        batch_size: Most sessions that shared a forward with this call, those of a run apart; likewise the next.
        batch_positions: Most positions of all these together at which a forward told the next token: in a verification
            one after each sequence, and one after each node.
        forwards: Model calls it took.
        nodes_beside: Nodes of other sessions' trees in its forwards, summed over these.
        trees_beside: Those trees.
    """

    queue_ns: int = 0
    compute_ns: int = 0
    total_ns: int = 0
    batch_size: int = 1
    batch_positions: int = 0
    forwards: int = 0
    nodes_beside: int = 0
    trees_beside: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one verification decided.

    Attributes:
        accepted: Accepted nodes of the verified tree, first level first.
        token_ids: The emitted tokens: those of the accepted nodes, then the extra token, then those of the run.
        logprobs: Log-probability of each emitted token under the target's unmodified distribution.
        top_logprobs: For each emitted token the likeliest alternatives, likeliest first; empty unless asked for.
        node_probs: (nodes,), the target's unmodified probability of each drafted node given its parent.
        near_ties: Emitted tokens whose two best scores lay so close that rounding could have swapped them.
        run_ns: Of the worker's time, from the verdict on the tree to the end of the run.
        timings: What it cost the worker.
    """

    accepted: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    node_probs: tuple[float, ...] = ()
    near_ties: int = 0
    run_ns: int = 0
    timings: WorkerTimings = WorkerTimings()

    @property
    def num_accepted(self) -> int:
        """Drafted tokens that were kept, without the extra token."""
        return len(self.accepted)

    @property
    def num_run(self) -> int:
        """Tokens that were decoded after the extra one, each by a forward of its own."""
        return len(self.token_ids) - len(self.accepted) - 1

    def and_then(self, plain: "Verdict", *, took_ns: int) -> "Verdict":
        """This verdict with one more token in its run: that of plain decoding after it."""
        return replace(
            self,
            token_ids=self.token_ids + plain.token_ids,
            logprobs=self.logprobs + plain.logprobs,
            top_logprobs=self.top_logprobs + plain.top_logprobs,
            near_ties=self.near_ties + plain.near_ties,
            run_ns=self.run_ns + took_ns,
        )
