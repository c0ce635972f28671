"""What was learnt survives being written down, and nothing else is taken for it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from router_models.model_state import ModelState
from speculation.errors import InvalidModelStateError

labels = st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5) | st.integers() | st.none(), max_size=3))
numbers = arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=st.floats(-1e9, 1e9))


@given(labels, st.dictionaries(st.text(min_size=1, max_size=5), numbers, max_size=3))
def test_a_state_survives_being_written_down(about: dict[str, list[object]], values: dict[str, np.ndarray]) -> None:
    values.pop("__metadata__", None)
    state = ModelState(policy="planner", arrays=values, labels=about)

    read = ModelState.from_bytes(state.to_bytes())

    assert (read.policy, read.labels, read.arrays.keys()) == ("planner", about, values.keys())
    assert all(np.array_equal(read.arrays[name], values[name]) for name in values)
    assert read.to_bytes() == state.to_bytes()


def damaged(state: ModelState) -> dict[str, bytes]:
    whole = state.to_bytes()
    return {
        "nothing": b"",
        "no safetensors": b"\x80\x04\x95pickle" * 9,
        "cut off": whole[:-4],
        "of another format": whole.replace(b"forerun router model 2", b"forerun router model 9"),
        "a number that is none": ModelState(policy="p", arrays={"a": np.array([np.nan])}).to_bytes(),
        "no metadata": b"\x02\x00\x00\x00\x00\x00\x00\x00{}",
    }


@pytest.mark.parametrize("kind", damaged(ModelState(policy="p")).keys())
def test_what_is_no_state_is_refused(kind: str) -> None:
    with pytest.raises(InvalidModelStateError):
        ModelState.from_bytes(damaged(ModelState(policy="p", arrays={"a": np.ones(2)}))[kind])
