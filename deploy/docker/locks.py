"""`python deploy/docker/locks.py`: writes the locks of the images, the part of requirements.lock that each needs.

Run it where requirements.lock is installed, after changing it or the dependencies in pyproject.toml; a test holds the
locks current. They are files of their own so that an image's heaviest layer changes only when one of its versions does.
"""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

EXTRAS = {"controller": ("tracing",), "worker": ("worker", "tracing")}
"""Of the package, by image."""


def lock(image: str) -> str:
    """What the lock of an image says."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS[image]:
        wanted += project["optional-dependencies"][extra]
    names = needed(Requirement(one) for one in wanted)
    pins = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if _normal(line) in names]
    return "\n".join((f"# What the {image} needs of requirements.lock; written by locks.py.", *pins, ""))


def needed(requirements: Iterable[Requirement]) -> set[str]:
    """Normal names of these and of all that they need, as installed here."""
    waiting, found = [*requirements], set[str]()
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        requirement = waiting.pop()
        key = (_normal(requirement.name), frozenset(requirement.extras))
        if key in seen or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(key)
        found.add(key[0])
        for text in importlib.metadata.requires(requirement.name) or ():
            below = Requirement(text)
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in ("", *key[1])):
                waiting.append(_without_marker(below))
    return found


def _without_marker(requirement: Requirement) -> Requirement:
    """The same, whoever asks: that its marker holds has been settled."""
    requirement.marker = None
    return requirement


def _normal(name: str) -> str:
    """As package indexes compare names (PEP 503); what a pin says of the version is left out."""
    return re.sub(r"[-_.]+", "-", name.partition("==")[0]).lower()


if __name__ == "__main__":
    for image in EXTRAS:
        (HERE / f"{image}.lock").write_text(lock(image))
