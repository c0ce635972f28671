"""What sampling parameters are refused, by name."""

import math

import pytest

from speculation.errors import InvalidRequestError
from speculation.sampling import SamplingParameters


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", -1),
        ("seed", 2**64),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", 101.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("repetition_penalty", math.nan),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: math.inf}),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_field(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        SamplingParameters(**{field: value})

    assert caught.value.field == field


def test_a_token_may_be_forbidden_by_an_infinite_bias() -> None:
    assert SamplingParameters(logit_bias={3: -math.inf}).logit_bias[3] == -math.inf


def test_a_bias_on_a_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="not below the vocabulary size 10"):
        SamplingParameters(logit_bias={10: 1.0}).check_vocabulary(10)


def test_zero_temperature_is_greedy() -> None:
    assert SamplingParameters().greedy
    assert not SamplingParameters(temperature=0.1).greedy
