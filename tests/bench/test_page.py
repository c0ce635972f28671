"""The page of runs: whole, readable without eyes, and without the network."""

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.figures import Figure
from bench.runs.page import page_of
from bench.runs.panels import panels_of
from speculation.errors import ConfigurationError
from tests.bench.runs import CURVES, GAIN, SERVER, run_of

VOID = {"meta", "link", "img", "br", "hr", "input", "source", "use", "path", "rect", "line", "circle"}


class Page(HTMLParser):
    """What is in a page; closing what was not opened, or not closing it, is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def figures(*names: str, unit: str = "x") -> list[Figure]:
    return [
        Figure(name=name, value=1.0 + number, unit=unit, low=0.5 + number, high=2.0 + number)
        for number, name in enumerate(names)
    ]


BY_SET = figures("speed.gain.code", "speed.gain.<docs>")
BY_STREAMS = figures("load.planner.1", "load.planner.16", "load.none.1", "load.none.16", unit="tokens/s")
MISSED = replace(GAIN, name="speed.missed", goal=9.0)


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(
        [run_of(GAIN, *BY_SET, remarks=("it was <busy>",), curves=(CURVES,)), run_of(MISSED, *BY_STREAMS, dirty=True)]
    )


def test_every_figure_is_on_the_page_and_nothing_in_it_is_markup(html: str) -> None:
    text = " ".join(Page(html).text)

    for entry in (GAIN, MISSED, *BY_SET, *BY_STREAMS):
        assert entry.name in text
    assert "it was <busy>" in text
    assert "1 of 2 goals reached" in text
    assert "a" * 40 in text


def test_the_page_needs_nothing_beside_it(html: str) -> None:
    page = Page(html)

    assert not re.search(r"https?:|@import|@font-face|src=|url\((?!#)", html)
    assert not {tag for tag, _ in page.elements} & {"script", "link", "img", "iframe", "object"}
    assert all(attributes["href"].startswith("#") for _, attributes in page.elements if attributes.get("href"))


def test_anchors_lead_somewhere_and_are_unique(html: str) -> None:
    ids = Counter(attributes["id"] for _, attributes in Page(html).elements if "id" in attributes)
    targets = re.findall(r'(?:href="#|url\(#)([^")]+)', html)

    assert max(ids.values()) == 1
    assert set(targets) <= ids.keys()


def test_tables_and_plots_can_be_read_without_eyes_and_without_a_mouse(html: str) -> None:
    page = Page(html)

    assert len(page.all("caption")) == len(page.all("table")) == 3
    assert all(attributes.get("scope") in ("col", "row") for attributes in page.all("th"))
    regions = [attributes for attributes in page.all("div") if attributes.get("role") == "region"]
    assert len(regions) == 3
    assert all(attributes["tabindex"] == "0" and attributes["aria-label"] for attributes in regions)
    plots = [attributes for attributes in page.all("div") if attributes.get("role") == "img"]
    assert len(plots) == len(page.all("svg")) == 3
    assert "gain code: 1 (0.5 to 2)" in (plots[0]["aria-label"] or "")
    assert "planner from 0.5 to 1; none from 0.4 to 0.4" in (plots[1]["aria-label"] or "")


def test_plots_have_the_page_s_colour_of_text(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert "fill: currentColor" in html
    assert not re.search(r"#0{3,6}\b|fill: black|#010203", html)


def shown(*names: str, unit: str = "x") -> list[tuple[str, list[str], tuple[str, ...]]]:
    """Title, families and places of every plot."""
    return [(panel.title, list(panel.families), panel.places) for panel in panels_of(figures(*names, unit=unit))]


@pytest.mark.parametrize(
    ("names", "plots"),
    [
        pytest.param(["a.gain", "b.gain"], [], id="figures that stand alone"),
        pytest.param(["speed.gain.code", "speed.gain.docs"], [("speed.gain", ["gain"], ("code", "docs"))], id="by set"),
        pytest.param(
            ["load.planner.16", "load.planner.4", "load.none.4", "load.none.16"],
            [("load", ["planner", "none"], ("4", "16"))],
            id="numbers in their order, two families",
        ),
        pytest.param(
            ["load.goodput_4", "load.goodput_16", "load.dropped"],
            [("load.goodput", ["goodput"], ("4", "16"))],
            id="a number behind a stroke",
        ),
        pytest.param(
            [f"gpu.ms.nodes_{nodes}.context_{context}" for nodes in (1, 16) for context in (1024, 8192)],
            [("gpu.ms.context", ["nodes_1", "nodes_16"], ("1024", "8192"))],
            id="families differ in the middle",
        ),
        pytest.param(
            ["scale.ms.nodes_1", "scale.ms.nodes_16", "scale.ms.prompt_64", "scale.ms.prompt_512"],
            [("scale.ms.nodes", ["nodes"], ("1", "16")), ("scale.ms.prompt", ["prompt"], ("64", "512"))],
            id="other places, other plots",
        ),
        pytest.param(
            ["speed.ahead.chain_4", "speed.ahead.tree_16"],
            [("speed.ahead", ["ahead"], ("chain_4", "tree_16"))],
            id="one number alone is a name",
        ),
    ],
)
def test_names_say_which_figures_share_a_plot(
    names: list[str], plots: list[tuple[str, list[str], tuple[str, ...]]]
) -> None:
    assert shown(*names) == plots


def test_units_are_not_mixed_in_a_plot() -> None:
    parts = figures("overhead.wire", "overhead.controller", unit="ms")
    parts += figures("overhead.foreseen", unit="of rounds")

    (panel,) = panels_of(parts)

    assert (panel.unit, panel.places) == ("ms", ("wire", "controller"))


def test_machines_do_not_share_a_page() -> None:
    with pytest.raises(ConfigurationError, match=r"different machines.*Make a page for each"):
        page_of([run_of(GAIN), run_of(GAIN, machine=SERVER)])


def report(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench", "report", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_writes_the_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run_of(GAIN).save(tmp_path / "run.json")

    assert report(monkeypatch, str(tmp_path / "run.json"), "--output", str(tmp_path / "page.html")) == 0
    assert GAIN.name in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("content", [None, "no JSON"])
def test_what_is_no_run_gives_no_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)

    assert report(monkeypatch, str(tmp_path / "run.json"), "--output", str(tmp_path / "page.html")) == 2
    assert not (tmp_path / "page.html").exists()
