"""Plots as SVG that stands in a page: no file, no font and no address beside it, and the page's own colour of text."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.figures import Curves, Figure
from bench.runs.panels import Panel

_TEXT = "#010203"
"""Stands for the page's colour until the SVG is written."""

_COLOURS = ("#3d85c6", "#d9822b", "#43a06b", "#b062c4", "#cc5555", "#808890")
"""Of families; told apart on white and on black."""

_MARKERS = "osD^vP"
_DASHES = ("-", "--", ":")
"""Of curves that have a colour in common."""

_HEIGHT = 3.4
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _TEXT),
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_NOTHING_ABOUT_IT = dict.fromkeys(("Date", "Creator", "Format", "Type"))
_LOG_FROM = 8
"""Numbers that span more than this are drawn on a scale of powers."""


def drawn(panel: Panel, *, key: str) -> str:
    """The plot of a panel, as an svg element.

    Args:
        panel: What to draw.
        key: Before every id in it: unlike that of any other plot of the page.
    """
    numbered = panel.first.numbered
    height = _HEIGHT if numbered else 1.1 + 0.3 * len(panel.places) * len(panel.families)
    with _picture(height, key) as (picture, axes, svg):
        if numbered:
            _lines(panel, axes)
        else:
            _bars(panel, axes)
        if len(panel.families) > 1:
            picture.legend(loc="outside upper left", ncols=3, frameon=False, fontsize="small")
    return _inline(svg.getvalue(), key)


def drawn_curves(curves: Curves, *, key: str) -> str:
    """The same of curves."""
    with _picture(_HEIGHT + 0.1 * len(curves.lines), key) as (picture, axes, svg):
        for index, (name, line) in enumerate(curves.lines.items()):
            dashes = _DASHES[index // len(_COLOURS) % len(_DASHES)]
            axes.plot(curves.x, line, label=name, color=_COLOURS[index % len(_COLOURS)], linestyle=dashes)
        axes.set_xlabel(curves.x_label)
        axes.set_ylabel(curves.y_label)
        picture.legend(loc="outside upper left", ncols=5, frameon=False, fontsize="small")
    return _inline(svg.getvalue(), key)


@contextmanager
def _picture(height: float, key: str) -> Iterator[tuple[Any, Any, io.StringIO]]:
    """A figure and its axes to draw on, and where its SVG is afterwards; height in inches."""
    import matplotlib

    matplotlib.use("Agg")  # no window, wherever this runs
    from matplotlib import pyplot

    svg = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": key}):
        picture, axes = pyplot.subplots(figsize=(7.5, height), layout="constrained")
        try:
            yield picture, axes, svg
            picture.savefig(svg, format="svg", transparent=True, metadata=_NOTHING_ABOUT_IT)
        finally:
            pyplot.close(picture)


def _lines(panel: Panel, axes: Any) -> None:
    """Values over numbers, such as streams or tokens of context; a stroke where the goal is."""
    places = [int(place) for place in panel.places]
    for index, (name, family) in enumerate(panel.families.items()):
        entries = [family.figures[place] for place in panel.places]
        axes.errorbar(
            places,
            [entry.value for entry in entries],
            yerr=_errors(entries),
            label=name,
            color=_COLOURS[index % len(_COLOURS)],
            marker=_MARKERS[index % len(_MARKERS)],
            capsize=3,
        )
        goals = [(place, entry.goal) for place, entry in zip(places, entries, strict=True) if entry.goal is not None]
        for place, goal in goals:
            axes.plot(place, goal, color=_TEXT, marker="_", markersize=16, markeredgewidth=2.5)
    if places[0] > 0 and places[-1] / places[0] >= _LOG_FROM:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, panel.places)
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel(panel.first.parts[-1])
    axes.set_ylabel(panel.unit)


def _bars(panel: Panel, axes: Any) -> None:
    """A bar for each place, the first one on top; a stroke where the goal is."""
    height = 0.8 / len(panel.families)
    for index, (name, family) in enumerate(panel.families.items()):
        entries = [family.figures[place] for place in panel.places]
        heights = np.arange(len(entries)) + height * (index - (len(panel.families) - 1) / 2)
        values = [entry.value for entry in entries]
        colour = _COLOURS[index % len(_COLOURS)]
        axes.barh(heights, values, height=0.9 * height, color=colour, alpha=0.75, label=name)
        axes.errorbar(values, heights, xerr=_errors(entries), fmt="none", ecolor=_TEXT, capsize=3, linewidth=1)
        goals = [(entry.goal, place) for entry, place in zip(entries, heights, strict=True) if entry.goal is not None]
        for goal, place in goals:
            axes.plot((goal, goal), (place - height / 2, place + height / 2), color=_TEXT, linewidth=2.5)
    axes.set_yticks(range(len(panel.places)), panel.places)
    axes.invert_yaxis()
    axes.set_xlabel(panel.unit)


def _errors(entries: Sequence[Figure]) -> Any:
    """(2, entries), from each value down and up to the ends of its interval."""
    return np.array([[max(e.value - e.ends[0], 0.0), max(e.ends[1] - e.value, 0.0)] for e in entries]).T


def _inline(svg: str, key: str) -> str:
    """One element, without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href").replace(_TEXT, "currentColor")
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    return re.sub(r'<svg height="[^"]*"', "<svg", re.sub(r'\swidth="[\d.]+pt"', "", svg, count=1), count=1)
