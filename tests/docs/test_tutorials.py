"""Each tutorial is done from its first line to its last, with processes, models and training that are real."""

from pathlib import Path

import pytest

from tests.end_to_end.processes import free_address
from tests.reader import Reader
from tests.test_house import ROOT_FOLDER

TUTORIALS = ROOT_FOLDER / "docs" / "tutorials"
PATIENCE_S = 600


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE_S)
@pytest.mark.parametrize("page", sorted(TUTORIALS.glob("*.md")), ids=lambda page: page.stem)
def test_a_newcomer_can_follow_it(page: Path, tmp_path: Path) -> None:
    with Reader(tmp_path, controller=free_address(), metrics=free_address()) as reader:
        reader.follow(page)
