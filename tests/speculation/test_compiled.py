"""Compiled code that is kept: never of another source than the one that stands there."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.test_house import PACKAGES, ROOT_FOLDER, sources

HEAD = "from speculation.compiled import compiled\n\n\n"
SOURCE = HEAD + "@compiled('f8(f8)')\ndef times(number):\n    return {}.0 * number\n"
CALLER = f"from neighbour import times\n{HEAD}@compiled('f8(f8)')\ndef more(number):\n    return times(number) + 1.0\n"

KILLED_BETWEEN_NOTE_AND_CODE = """
import os
from numba.core import caching
caching.IndexDataCacheFile._save_data = lambda *_: os._exit(9)
import module
"""

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture(params=[False, True], ids=["in NUMBA_CACHE_DIR", "beside the module"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs code in a process that finds modules in tmp_path and keeps compiled code."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()]),
        "PYTHONDONTWRITEBYTECODE": "1",  # Python itself would not see a change within a second
    }
    environment.pop("NUMBA_CACHE_DIR", None)
    if not request.param:
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "kept")
    return lambda code: subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_a_kill_while_code_is_kept_leaves_no_earlier_code_in_its_place(tmp_path: Path, run: Run) -> None:
    module = tmp_path / "module.py"
    module.write_text(SOURCE.format(2))
    assert run("import module; print(module.times(4.0))").stdout == "8.0\n"
    module.write_text(SOURCE.format(3))
    assert run(KILLED_BETWEEN_NOTE_AND_CODE).returncode == 9

    assert run("import module; print(module.times(4.0))").stdout == "12.0\n"
    assert list(tmp_path.rglob("*.nbc"))


def test_a_change_in_a_neighbouring_module_that_is_called_is_seen(tmp_path: Path, run: Run) -> None:
    (tmp_path / "module.py").write_text(CALLER)
    (tmp_path / "neighbour.py").write_text(SOURCE.format(2))
    assert run("import module; print(module.more(4.0))").stdout == "9.0\n"
    kept = set(tmp_path.rglob("module*/*.nbc"))
    assert run("import module; print(module.more(4.0))").stdout == "9.0\n"
    assert set(tmp_path.rglob("module*/*.nbc")) == kept != set(), "nothing has changed"

    (tmp_path / "neighbour.py").write_text(SOURCE.format(3))

    assert run("import module; print(module.more(4.0))").stdout == "13.0\n"


def with_compiled_functions() -> list[str]:
    """Paths of modules, from the root."""
    compiled = (path for path in sources() if "speculation.compiled" in own_imports(path))
    return sorted(str(path.relative_to(ROOT_FOLDER)) for path in compiled)


def own_imports(path: Path) -> Iterator[str]:
    """Names of the modules of this house that a module imports from."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.split(".")[0] in PACKAGES)


@pytest.mark.parametrize("path", with_compiled_functions())
def test_what_is_compiled_takes_nothing_of_ours_from_another_folder(path: str) -> None:
    """Code is kept by the modules of one folder: what it calls elsewhere could change unnoticed."""
    folder = Path(path).parent
    for module in {Path(path), *neighbours(Path(path))}:
        elsewhere = {name for name in own_imports(ROOT_FOLDER / module) if path_of(name).parent != folder}
        assert elsewhere <= {"speculation.compiled"}, module


def neighbours(path: Path) -> set[Path]:
    """The modules of its folder that a module imports, by others, too."""
    found: set[Path] = set()
    new = {path}
    while new:
        imported = {path_of(name) for module in new for name in own_imports(ROOT_FOLDER / module)}
        new = {other for other in imported if other.parent == path.parent} - found
        found |= new
    return found


def path_of(module: str) -> Path:
    """From the root."""
    return Path(*module.split(".")).with_suffix(".py")
