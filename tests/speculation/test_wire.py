"""What crosses the wire arrives as it was sent, and what no one could have sent is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation import wire
from speculation.calibration import Calibration
from speculation.errors import InvalidRequestError, InvalidTreeError
from speculation.prefix import Context
from speculation.profile import ForwardProfile
from speculation.sampling import SamplingParameters
from speculation.tree import TokenTree, TreeShape, chain
from speculation.v1 import common_pb2
from speculation.verdict import TokenLogprob, Verdict, WorkerTimings
from tests.strategies import sampling_parameters, trees

float32 = st.floats(-100, 0, width=32)
times = st.floats(0, 1e6, width=32)


@given(trees())
def test_a_tree_survives_the_wire(tree: TokenTree) -> None:
    assert wire.tree_from_proto(common_pb2.TokenTree.FromString(wire.tree_to_proto(tree).SerializeToString())) == tree


@given(sampling_parameters())
def test_sampling_parameters_survive_the_wire(sampling: SamplingParameters) -> None:
    received = wire.sampling_from_proto(wire.sampling_to_proto(sampling))

    assert received == wire.sampling_from_proto(wire.sampling_to_proto(received))
    assert received.seed == sampling.seed
    assert received.top_k == sampling.top_k
    assert received.temperature == pytest.approx(sampling.temperature, rel=1e-6)


def test_decimals_are_read_as_they_were_written() -> None:
    sent = SamplingParameters(temperature=0.7, top_p=0.9, min_p=0.05, repetition_penalty=1.1, logit_bias={1: -0.3})

    assert wire.sampling_from_proto(wire.sampling_to_proto(sent)) == sent


def test_absent_fields_change_nothing() -> None:
    assert wire.sampling_from_proto(common_pb2.SamplingParameters(), default_seed=5) == SamplingParameters(seed=5)


@given(st.integers(0, 2**31), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 99), max_size=5))
def test_a_context_survives_the_wire(base_length: int, prefix_hash: int, token_ids: list[int]) -> None:
    context = Context(base_length=base_length, prefix_hash=prefix_hash, token_ids=tuple(token_ids))

    assert wire.context_from_proto(wire.context_to_proto(context), vocab_size=100) == context


@given(st.floats(-20, 20), st.floats(0, 10, exclude_min=True))
def test_a_calibration_survives_the_wire(offset: float, slope: float) -> None:
    calibration = Calibration(offset=offset, slope=slope)

    assert wire.calibration_from_proto(wire.calibration_to_proto(calibration)) == calibration


@pytest.mark.parametrize(("offset", "slope"), [(21.0, 1.0), (float("nan"), 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, 11.0)])
def test_a_calibration_that_would_change_the_order_is_refused(offset: float, slope: float) -> None:
    with pytest.raises(InvalidRequestError, match="calibration"):
        wire.calibration_from_proto(common_pb2.Calibration(offset=offset, slope=slope))


@given(times, times, times)
def test_a_forward_profile_survives_the_wire(forward_ms: float, node_ms: float, prompt_token_ms: float) -> None:
    profile = ForwardProfile(forward_ms=forward_ms, node_ms=node_ms, prompt_token_ms=prompt_token_ms)

    assert wire.profile_from_proto(wire.profile_to_proto(profile)) == profile


@pytest.mark.parametrize("field", ["forward_ms", "node_ms", "prompt_token_ms"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_profile_of_something_else_than_times_is_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"forward_profile.{field}"):
        wire.profile_from_proto(common_pb2.ForwardProfile(**{field: value}))


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 256), st.floats(0, 1))
def test_a_shape_survives_the_wire(depth: int, branching: int, budget: int, least: float) -> None:
    shape = TreeShape(depth=depth, branching=branching, budget=budget, least_confidence=least)

    assert wire.shape_from_proto(wire.shape_to_proto(shape)) == shape


@given(st.lists(float32, min_size=1, max_size=4), st.integers(0, 3))
def test_a_verdict_survives_the_wire(logprobs: list[float], near_ties: int) -> None:
    verdict = Verdict(
        accepted=(0, 2),
        token_ids=tuple(range(len(logprobs))),
        logprobs=tuple(logprobs),
        top_logprobs=tuple((TokenLogprob(3, -0.5), TokenLogprob(4, -1.5)) for _ in logprobs),
        node_probs=(0.25, 0.5),
        near_ties=near_ties,
        timings=WorkerTimings(
            queue_ns=1,
            compute_ns=2,
            total_ns=3,
            batch_size=4,
            batch_positions=6,
            forwards=5,
            nodes_beside=7,
            trees_beside=8,
        ),
    )

    timings = wire.timings_from_proto(wire.timings_to_proto(verdict.timings))
    assert wire.verdict_from_proto(wire.verdict_to_proto(verdict, 7), timings) == verdict


def test_a_tree_without_confidences_is_read_as_certain() -> None:
    message = common_pb2.TokenTree(token_ids=[1, 2], parents=[0, 1])

    assert wire.tree_from_proto(message) == chain([1, 2])


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        pytest.param(common_pb2.TokenTree(token_ids=[1, 2], parents=[2, 0]), "parents must come first", id="order"),
        pytest.param(common_pb2.TokenTree(token_ids=[1, 2], parents=[0]), "1 parents", id="lengths"),
        pytest.param(common_pb2.TokenTree(token_ids=[100], parents=[0]), "vocabulary size 100", id="token"),
        pytest.param(common_pb2.TokenTree(token_ids=[1] * 5000, parents=[0] * 5000), "5000 nodes", id="size"),
        pytest.param(
            common_pb2.TokenTree(token_ids=[1], parents=[0], confidences=[2.0]), "must lie in", id="confidence"
        ),
    ],
)
def test_what_is_no_tree_is_refused(message: common_pb2.TokenTree, problem: str) -> None:
    with pytest.raises(InvalidTreeError, match=problem):
        wire.tree_from_proto(message, vocab_size=100)


def test_a_token_outside_the_vocabulary_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidRequestError, match="token id 100 at index 1") as caught:
        wire.check_token_ids("prompt", [3, 100], 100)

    assert caught.value.field == "prompt"
