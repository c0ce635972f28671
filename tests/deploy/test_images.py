"""The Dockerfile and the locks of its images. That its steps can be carried out, `make deploy-check` shows."""

import json
import runpy
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "deploy/docker"
IMAGES = ("controller", "worker-cpu", "worker-cuda")


def steps() -> list[tuple[str, str]]:
    """Instruction and what it is told, in the order of the file."""
    text = "\n".join(line for line in (DOCKER / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [(name, told) for name, _, told in (line.partition(" ") for line in lines if line)]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The steps of every stage, by its name."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for instruction, told in steps():
        if instruction == "FROM":
            name = told.split()[-1]
        found.setdefault(name, []).append((instruction, told))
    return found


def copied() -> Iterator[str]:
    """What is copied from the repository."""
    for instruction, told in steps():
        if instruction == "COPY" and "--from" not in told:
            yield from told.split()[:-1]


def test_the_images_are_the_ones_that_the_documents_name() -> None:
    assert set(IMAGES) <= stages().keys()


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_nobody_in_particular_and_tells_how_it_is(image: str) -> None:
    told = dict(stages()[image])  # of several alike, the last is in force

    assert told["USER"] == "10001", "a number: Kubernetes cannot tell whether a name is root's"
    _, _, probe = told["HEALTHCHECK"].partition("CMD ")
    assert json.loads(probe) == ["forerun", "health", f"127.0.0.1:{told['EXPOSE']}"]


@pytest.mark.parametrize("image", IMAGES)
def test_our_code_comes_after_what_changes_rarely(image: str) -> None:
    order = [told for _, told in stages()[image]]

    lock = next(place for place, told in enumerate(order) if ".lock" in told and "pip" in told)
    ours = next(place for place, told in enumerate(order) if told.startswith("--from=wheel"))
    assert lock < ours


def test_every_package_of_ours_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied())


def test_the_ignore_file_lets_in_what_is_copied_and_nothing_else() -> None:
    first, *rest = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]
    let_in = [line.removeprefix("!") for line in rest if line.startswith("!")]

    assert first == "*"
    for path in copied():
        assert (ROOT / path).exists(), path
        assert any(fnmatch(path, pattern) for pattern in let_in), path
    for pattern in let_in:
        assert any(fnmatch(path, pattern) for path in copied()), f"{pattern} is let in for nobody"


@pytest.mark.parametrize("image", ["controller", "worker"])
def test_the_lock_of_an_image_is_current(image: str) -> None:
    current = runpy.run_path(str(DOCKER / "locks.py"))["lock"](image)

    assert (DOCKER / f"{image}.lock").read_text() == current, "run python deploy/docker/locks.py"


def test_a_controllers_image_has_no_torch_and_a_workers_has() -> None:
    pins = {image: set((DOCKER / f"{image}.lock").read_text().splitlines()[1:]) for image in ("controller", "worker")}

    assert pins["controller"] < pins["worker"]
    assert any(pin.startswith("torch==") for pin in pins["worker"] - pins["controller"])
