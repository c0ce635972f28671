"""One page of several runs: it holds all that it shows, so that it can be kept, sent and read anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.figures import Figure
from bench.runs.panels import panels_of
from bench.runs.plots import drawn, drawn_curves
from bench.runs.run import Run, require_same_machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture.

    Attributes:
        title: What stands above it.
        in_words: For those who do not see it.
        svg: For those who do.
    """

    title: str
    in_words: str
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What the page says of a run.

    Attributes:
        key: Of its anchors.
        run: The run.
        plots: Of its figures and curves.
    """

    key: str
    run: Run
    plots: tuple[Plot, ...]

    @property
    def judged(self) -> tuple[Figure, ...]:
        """Figures that have a goal."""
        return tuple(entry for entry in self.run.figures if entry.goal is not None)


def page_of(runs: Sequence[Run]) -> str:
    """HTML of runs of one machine.

    Raises:
        ConfigurationError: They are of several machines.
    """
    require_same_machine(runs, instead="Make a page for each machine")
    environment = Environment(
        loader=PackageLoader("bench", "runs"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_section(f"run-{number}", run) for number, run in enumerate(runs, start=1)]
    judged = [entry for section in sections for entry in section.judged]
    return environment.get_template("page.html.jinja").render(
        machine=runs[0].machine,
        sections=sections,
        judged=len(judged),
        reached=sum(entry.reached is True for entry in judged),
    )


def _section(key: str, run: Run) -> Section:
    plots = [
        Plot(
            title=f"{panel.title}, {panel.unit}",
            in_words=panel.in_words,
            svg=Markup(drawn(panel, key=f"{key}-plot-{number}")),
        )
        for number, panel in enumerate(panels_of(run.figures), start=1)
    ]
    plots += [
        Plot(
            title=curves.name,
            in_words=curves.in_words,
            svg=Markup(drawn_curves(curves, key=f"{key}-curves-{number}")),
        )
        for number, curves in enumerate(run.curves, start=1)
    ]
    return Section(key=key, run=run, plots=tuple(plots))
