"""Rows that a user brings: read strictly, and served to policies by chance."""

from pathlib import Path

import pytest

from bench.router.rows import measure_rows, read_rows
from speculation.errors import ConfigurationError

HEADER = "context,arm,tokens,milliseconds\n"
GOOD = (
    HEADER
    + "a,none,1,30\n" * 3
    + "a,small:4x1x4,4,40\na,small:4x1x4,3,40\na,big:4x1x4,1,60\n"
    + "b,none,1,30\n" * 3
    + "b,small:4x1x4,1,60\nb,big:4x1x4,5,50\n"
)


def file_with(text: str, folder: Path) -> Path:
    file = folder / "rows.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_policies_are_held_against_the_best_arm_of_each_context(tmp_path: Path) -> None:
    table = read_rows(file_with(GOOD, tmp_path))

    figures, remarks = measure_rows(table, warm_up=30, measured=30, seeds=(1, 2), seed=1)

    of_oracle = {figure.name: figure.value for figure in figures}
    assert of_oracle["rows.planner_of_oracle"] > 0.8
    assert of_oracle["rows.none_of_oracle"] < 0.5
    assert any(remark.startswith("confidence is left out") for remark in remarks)


def test_a_policy_that_chooses_what_nobody_measured_is_left_out_and_named(tmp_path: Path) -> None:
    table = read_rows(file_with(HEADER + "a,none,1,30\n", tmp_path))

    figures, _ = measure_rows(table, warm_up=1, measured=1, seeds=(1,), seed=1)

    assert {figure.name for figure in figures} >= {"rows.none_of_oracle"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("context,arm\n", "line 1: must be context,arm,tokens,milliseconds", id="header"),
        pytest.param(HEADER, "has no rows", id="empty"),
        pytest.param(HEADER + "a,none,1,30\na,none,1\n", "line 3: has not 4 columns", id="too few columns"),
        pytest.param(HEADER + "a,none,1,30,9\n", "line 2: has not 4 columns", id="too many columns"),
        pytest.param(HEADER + "a,none,one,30\n", "line 2: tokens must be whole", id="no number"),
        pytest.param(HEADER + "a,none,2,30\n", "line 2: 2 tokens; a round of arm 'none' emits 1 to 1", id="too many"),
        pytest.param(HEADER + "a,none,1,nan\n", "line 2: nan milliseconds", id="no time"),
        pytest.param(HEADER + "a,small:4x1,1,30\n", "line 2: arm 'small:4x1' is neither none nor", id="no shape"),
        pytest.param(HEADER + "a,small:4x0x4,1,30\n", "line 2: arm 'small:4x0x4'", id="impossible shape"),
        pytest.param(HEADER + "a,:4x1x4,1,30\n", "line 2: arm ':4x1x4' names no drafter", id="no drafter"),
        pytest.param(HEADER + "a,small:4x1x4,1,30\n", "context 'a' has no rows of arm 'none'", id="no plain rows"),
    ],
)
def test_wrong_rows_are_refused_with_their_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_rows(file_with(text, tmp_path))

    assert problem in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_rows(tmp_path / "nowhere.csv")
