"""The house keeps its own rules."""

import ast
import importlib
import statistics
from pathlib import Path

import pytest

ROOT_FOLDER = Path(__file__).parent.parent
PACKAGES = ("speculation", "router_models", "controller", "worker", "zoo", "forerun", "gateway", "page", "bench")


def sources() -> list[Path]:
    """Every hand-written module outside the tests."""
    return [path for name in PACKAGES for path in (ROOT_FOLDER / name).rglob("*.py") if path.parent.name != "v1"]


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_of_ours_is_not_shadowed_by_an_installed_one(name: str) -> None:
    """Flat packages have plain names; a dependency that brought a `worker` of its own would be found here."""
    module = importlib.import_module(name)

    assert module.__file__ is not None
    assert Path(module.__file__).resolve().is_relative_to(ROOT_FOLDER)


def test_nine_of_ten_functions_have_at_most_thirty_lines() -> None:
    lengths = [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    assert statistics.quantiles(lengths, n=10)[8] <= 30


def test_no_pickle_is_read_or_written() -> None:
    """Models, snapshots and logs are safetensors, protobuf or JSON: opening a file can never run code."""
    for path in sources():
        imported = {
            name.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for name in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert not imported & {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}, path
        assert "torch.load" not in path.read_text(), path
