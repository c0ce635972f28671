"""Compiled code that is kept: never of another source than the one that stands there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = (
    "from speculation.compiled import compiled\n\n\n@compiled('f8(f8)')\ndef times(number):\n    return {}.0 * number\n"
)

KILLED_BETWEEN_NOTE_AND_CODE = """
import os
from numba.core import caching
caching.IndexDataCacheFile._save_data = lambda *_: os._exit(9)
import module
"""


@pytest.mark.parametrize("is_beside", [False, True], ids=["in NUMBA_CACHE_DIR", "beside the module"])
def test_a_kill_while_code_is_kept_leaves_no_earlier_code_in_its_place(tmp_path: Path, is_beside: bool) -> None:
    module = tmp_path / "module.py"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    environment.pop("NUMBA_CACHE_DIR", None)
    if not is_beside:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "kept")

    def run(code: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)

    module.write_text(SOURCE.format(2))
    assert run("import module; print(module.times(4.0))").stdout == "8.0\n"
    module.write_text(SOURCE.format(3))
    assert run(KILLED_BETWEEN_NOTE_AND_CODE).returncode == 9

    assert run("import module; print(module.times(4.0))").stdout == "12.0\n"
    assert list(tmp_path.rglob("*.nbc"))
