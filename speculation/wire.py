"""Domain values to protobuf and back; what comes from outside is checked on the way in."""

from collections.abc import Iterable
from math import inf
from types import MappingProxyType

from speculation.calibration import LARGEST_OFFSET, LARGEST_SLOPE, Calibration
from speculation.errors import InvalidRequestError, InvalidTreeError
from speculation.foresight import Foreseen
from speculation.prefix import Context
from speculation.profile import ForwardProfile
from speculation.sampling import SamplingParameters
from speculation.tree import MAX_NODES, TokenTree, TreeShape
from speculation.v1 import common_pb2, draft_pb2, verify_pb2
from speculation.verdict import TokenLogprob, Verdict, WorkerTimings


def tree_to_proto(tree: TokenTree) -> common_pb2.TokenTree:
    """Parents are shifted by one, so that the root is 0 and takes one byte."""
    return common_pb2.TokenTree(
        token_ids=tree.token_ids,
        parents=[parent + 1 for parent in tree.parents],
        confidences=tree.confidences,
    )


def tree_from_proto(message: common_pb2.TokenTree, *, vocab_size: int | None = None) -> TokenTree:
    """The tree of a message.

    Raises:
        InvalidTreeError: It is no tree, too large, or names a token that is not below vocab_size.
    """
    if len(message.token_ids) > MAX_NODES:
        raise InvalidTreeError(f"{len(message.token_ids)} nodes; at most {MAX_NODES} are allowed")
    token_ids = tuple(message.token_ids[:])  # a slice is read at once, and a round reads many trees
    largest = max(token_ids, default=0)
    if vocab_size is not None and largest >= vocab_size:
        raise InvalidTreeError(f"token id {largest} is not below the vocabulary size {vocab_size}")
    return TokenTree(
        token_ids=token_ids,
        parents=tuple([parent - 1 for parent in message.parents[:]]),
        confidences=tuple(message.confidences[:]) or (1.0,) * len(token_ids),
    )


def foreseen_to_proto(foreseen: Foreseen) -> draft_pb2.Foreseen:
    """The message of a tree drafted ahead."""
    return draft_pb2.Foreseen(token_ids=foreseen.token_ids, tree=tree_to_proto(foreseen.tree))


def profile_to_proto(profile: ForwardProfile) -> common_pb2.ForwardProfile:
    """The message of a profile."""
    return common_pb2.ForwardProfile(
        forward_ms=profile.forward_ms, node_ms=profile.node_ms, prompt_token_ms=profile.prompt_token_ms
    )


def profile_from_proto(message: common_pb2.ForwardProfile) -> ForwardProfile:
    """The profile of a message.

    Raises:
        InvalidRequestError: It holds something else than lengths of time.
    """
    profile = ForwardProfile(
        forward_ms=message.forward_ms, node_ms=message.node_ms, prompt_token_ms=message.prompt_token_ms
    )
    for field in ("forward_ms", "node_ms", "prompt_token_ms"):
        if not 0.0 <= (took_ms := getattr(profile, field)) < inf:
            raise InvalidRequestError(f"forward_profile.{field}", f"{took_ms} is not a length of time")
    return profile


def shape_to_proto(shape: TreeShape) -> common_pb2.TreeShape:
    """The message of a shape."""
    return common_pb2.TreeShape(
        depth=shape.depth,
        branching=shape.branching,
        budget=shape.budget,
        least_confidence=shape.least_confidence,
    )


def shape_from_proto(message: common_pb2.TreeShape) -> TreeShape:
    """The shape of a message; raises InvalidRequestError if a value is out of range."""
    return TreeShape(
        depth=message.depth,
        branching=message.branching,
        budget=message.budget,
        least_confidence=message.least_confidence,
    )


def calibration_to_proto(calibration: Calibration) -> common_pb2.Calibration:
    """The message of a calibration."""
    return common_pb2.Calibration(offset=calibration.offset, slope=calibration.slope)


def calibration_from_proto(message: common_pb2.Calibration) -> Calibration:
    """The calibration of a message; raises InvalidRequestError if it would change the order of candidates."""
    if not -LARGEST_OFFSET <= message.offset <= LARGEST_OFFSET:
        raise InvalidRequestError("calibration.offset", f"{message.offset} is not within {LARGEST_OFFSET:g} of 0")
    if not 0.0 < message.slope <= LARGEST_SLOPE:
        raise InvalidRequestError("calibration.slope", f"{message.slope} is not between 0 and {LARGEST_SLOPE:g}")
    return Calibration(offset=message.offset, slope=message.slope)


def sampling_to_proto(sampling: SamplingParameters) -> common_pb2.SamplingParameters:
    """The message of the parameters, with every field set."""
    return common_pb2.SamplingParameters(
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        seed=sampling.seed,
    )


def sampling_from_proto(message: common_pb2.SamplingParameters, *, default_seed: int = 0) -> SamplingParameters:
    """The parameters of a message; `default_seed` stands in for an absent seed.

    float32 values are read as the shortest decimal that gives the same float32, so that 0.9 stays 0.9.

    Raises:
        InvalidRequestError: A value is out of its range.
    """
    return SamplingParameters(
        seed=message.seed if message.HasField("seed") else default_seed,
        temperature=_decimal(message.temperature),
        top_k=message.top_k,
        top_p=_decimal(message.top_p) if message.HasField("top_p") else 1.0,
        min_p=_decimal(message.min_p),
        repetition_penalty=_decimal(message.repetition_penalty) if message.HasField("repetition_penalty") else 1.0,
        presence_penalty=_decimal(message.presence_penalty),
        frequency_penalty=_decimal(message.frequency_penalty),
        logit_bias=MappingProxyType({token: _decimal(bias) for token, bias in message.logit_bias.items()}),
    )


def _decimal(value: float) -> float:
    return float(f"{value:.7g}")


def context_to_proto(context: Context) -> common_pb2.Context:
    """The message of a context."""
    return common_pb2.Context(
        base_length=context.base_length, prefix_hash=context.prefix_hash, token_ids=context.token_ids
    )


def context_from_proto(message: common_pb2.Context, *, vocab_size: int) -> Context:
    """The context of a message.

    Raises:
        InvalidRequestError: A token id is not below vocab_size.
    """
    check_token_ids("context.token_ids", message.token_ids, vocab_size)
    return Context(base_length=message.base_length, prefix_hash=message.prefix_hash, token_ids=tuple(message.token_ids))


def check_token_ids(field: str, token_ids: Iterable[int], vocab_size: int) -> None:
    """Raise InvalidRequestError unless every id lies in [0, vocab_size)."""
    for place, token in enumerate(token_ids):
        if not 0 <= token < vocab_size:
            raise InvalidRequestError(field, f"token id {token} at index {place} is not below {vocab_size}")


def timings_to_proto(timings: WorkerTimings) -> common_pb2.WorkerTimings:
    """The message of a worker's timings."""
    return common_pb2.WorkerTimings(
        queue_ns=timings.queue_ns,
        compute_ns=timings.compute_ns,
        total_ns=timings.total_ns,
        batch_size=timings.batch_size,
        batch_positions=timings.batch_positions,
        forwards=timings.forwards,
        nodes_beside=timings.nodes_beside,
        trees_beside=timings.trees_beside,
    )


def timings_from_proto(message: common_pb2.WorkerTimings) -> WorkerTimings:
    """The timings of a message."""
    return WorkerTimings(
        queue_ns=message.queue_ns,
        compute_ns=message.compute_ns,
        total_ns=message.total_ns,
        batch_size=message.batch_size,
        batch_positions=message.batch_positions,
        forwards=message.forwards,
        nodes_beside=message.nodes_beside,
        trees_beside=message.trees_beside,
    )


def verdict_to_proto(verdict: Verdict, round_number: int) -> verify_pb2.Verdict:
    """The message of a verdict; its timings travel beside it."""
    return verify_pb2.Verdict(
        round=round_number,
        accepted=verdict.accepted,
        token_ids=verdict.token_ids,
        logprobs=verdict.logprobs,
        top_logprobs=[
            verify_pb2.TopLogprobs(
                token_ids=[entry.token_id for entry in entries], logprobs=[entry.logprob for entry in entries]
            )
            for entries in verdict.top_logprobs
        ],
        node_probs=verdict.node_probs,
        near_ties=verdict.near_ties,
        run_ns=verdict.run_ns,
    )


def verdict_from_proto(message: verify_pb2.Verdict, timings: WorkerTimings) -> Verdict:
    """The verdict of a message and the timings beside it."""
    return Verdict(
        accepted=tuple(message.accepted[:]),
        token_ids=tuple(message.token_ids[:]),
        logprobs=tuple(message.logprobs[:]),
        top_logprobs=tuple(
            tuple(TokenLogprob(token, logprob) for token, logprob in zip(top.token_ids, top.logprobs, strict=True))
            for top in message.top_logprobs
        ),
        node_probs=tuple(message.node_probs[:]),
        near_ties=message.near_ties,
        run_ns=message.run_ns,
        timings=timings,
    )
