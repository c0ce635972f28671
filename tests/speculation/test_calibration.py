"""A calibration moves chances and keeps their order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speculation.calibration import UNCALIBRATED, Calibration

calibrations = st.builds(Calibration, offset=st.floats(-3, 3), slope=st.floats(0.5, 2))
chances = st.floats(0, 1)


@given(chances)
def test_without_calibration_a_confidence_is_the_chance(confidence: float) -> None:
    assert UNCALIBRATED(confidence) == pytest.approx(confidence, abs=1e-5)


@given(calibrations, chances, chances)
def test_candidates_keep_their_order(calibration: Calibration, one: float, other: float) -> None:
    assert (calibration(one) <= calibration(other)) or one > other
    assert 0.0 < calibration(one) < 1.0


@given(calibrations, st.floats(0.02, 0.98))
def test_a_confidence_can_be_told_from_its_chance(calibration: Calibration, confidence: float) -> None:
    assert calibration.undone(calibration(confidence)) == pytest.approx(confidence, rel=1e-3)


def test_an_offset_above_zero_believes_more_than_the_drafter() -> None:
    assert Calibration(offset=1.0)(0.5) == pytest.approx(0.7311, abs=1e-4)
