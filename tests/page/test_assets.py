"""What the page ships: complete, and of the versions that were locked."""

import json
import re

from page.app import STATIC


def test_the_plots_are_of_the_locked_version() -> None:
    lock = json.loads((STATIC.parent / "package-lock.json").read_text())
    library = (STATIC / "vendor" / "uplot" / "uPlot.esm.js").read_text()
    (said,) = re.findall(r"\(v([\d.]+)\)", library[:500])

    assert said == lock["packages"]["node_modules/uplot"]["version"], "run `make page-assets`"
    assert "MIT" in (STATIC / "vendor" / "uplot" / "LICENSE").read_text()


def test_nothing_is_loaded_from_elsewhere() -> None:
    ours = [path for path in STATIC.iterdir() if path.is_file()]
    for path in ours:
        addresses = set(re.findall(r"https?://[^\"' )]+", path.read_text()))
        assert addresses <= {"http://www.w3.org/2000/svg"}, path.name


def test_every_script_and_style_that_is_asked_for_is_there() -> None:
    index = (STATIC / "index.html").read_text()
    asked = [STATIC / name for name in re.findall(r"(?:src|href)=\"([\w./]+\.\w+)\"", index)]
    for script in STATIC.glob("*.js"):
        asked += [script.parent / name for name in re.findall(r"from \"(\./[^\"]+)\"", script.read_text())]

    assert len(asked) > 20
    assert all(path.is_file() for path in asked)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", index), "nothing inline"
