"""Calibration: from verified nodes to what a drafter's confidence is worth."""

from collections.abc import Callable

import numpy as np
import pytest

from router_models.calibration_model import BINS, OFFSET_GRID, SLOPE_GRID, CalibrationModel
from speculation.calibration import UNCALIBRATED, Calibration, chance_of, log_odds
from speculation.tree import chain


def taught(agrees: Callable[[float], float], *, nodes: int = 3000, used: Calibration = UNCALIBRATED) -> Calibration:
    """What is learnt of a drafter whose confidences are everything, if the target agrees as often as that."""
    rng, model = np.random.default_rng(2), CalibrationModel()
    for own in rng.uniform(0.05, 0.95, size=nodes):
        agreed = rng.random() < agrees(float(own))
        model.learn("code", chain([7], [used(float(own))]), (7 if agreed else 8, 9), used)
    return model.of("code")


def assert_close(found: Calibration, true: Calibration) -> None:
    assert found.offset == pytest.approx(true.offset, abs=1.5 * OFFSET_GRID)
    assert found.slope == pytest.approx(true.slope, abs=2.5 * SLOPE_GRID)


def test_who_knows_nothing_takes_the_drafters_own_word() -> None:
    assert CalibrationModel().of("code") == UNCALIBRATED


@pytest.mark.parametrize(
    "true", [UNCALIBRATED, Calibration(offset=2.0, slope=1.25), Calibration(offset=-1.5, slope=0.5)]
)
def test_the_line_that_made_the_agreements_is_found(true: Calibration) -> None:
    assert_close(taught(true), true)


def test_it_is_found_from_calibrated_confidences_too() -> None:
    """Or a calibration would be applied twice as soon as it was used."""
    true = Calibration(offset=1.5, slope=1.25)

    assert_close(taught(true, used=Calibration(offset=-1.0, slope=0.75)), true)


def test_only_nodes_whose_parent_was_emitted_count() -> None:
    model = CalibrationModel()
    for _ in range(100):
        model.learn("code", chain([7, 7, 7], [0.5, 0.5, 0.5]), (8,), UNCALIBRATED)

    nodes, agreed, _ = model.state()["code"]
    assert (nodes.sum(), agreed.sum()) == (pytest.approx(100, rel=0.05), 0)


def test_a_drafter_that_changes_is_followed() -> None:
    model = CalibrationModel()
    for emitted, nodes in ((7, 3000), (8, 12_000)):
        for _ in range(nodes // 10):
            for own in np.linspace(0.1, 0.9, 10):
                model.learn("code", chain([7], [float(own)]), (emitted,), UNCALIBRATED)

    assert model.of("code")(0.5) < 0.1


def test_a_state_that_is_taken_up_again_is_not_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It happens twice a second, between the rounds of requests."""
    shy, sure = np.zeros((3, BINS)), np.zeros((3, BINS))
    shy[:, 14], sure[:, 14] = (400.0, 380.0, 1000.0), (400.0, 20.0, 1000.0)
    before, after = CalibrationModel(), CalibrationModel()
    before.restore({"shy": shy, "sure": sure})
    fitted = before.of("shy"), before.of("sure")
    monkeypatch.setattr(np, "exp", lambda *_: pytest.fail("fitted again"))

    after.restore({"shy": shy.copy(), "sure": sure.copy()})

    assert (after.of("shy"), after.of("sure")) == fitted
    assert fitted[0] != fitted[1]


def test_log_odds_and_chances_undo_each_other() -> None:
    assert [chance_of(log_odds(chance)) for chance in (0.001, 0.3, 0.999)] == pytest.approx([0.001, 0.3, 0.999])
