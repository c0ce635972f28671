"""`forerun top`: what a controller is doing, now and again."""

from typing import Annotated

import typer

from forerun.console import RESULT, emit

DEFAULT_METRICS = "127.0.0.1:9464"


def top(
    metrics: Annotated[
        str, typer.Option(help="Address of the controller's metrics.", envvar="FORERUN_METRICS", metavar="ADDRESS")
    ] = DEFAULT_METRICS,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look for one interval, print it, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The same as one line of JSON on stdout.")] = False,
) -> None:
    """Watch a controller at work, until Ctrl-C: requests, tokens, who drafts how well, workers, what is learnt.

    It reads the controller's metrics, which are served where somebody asked for them: `metrics.listen` in its
    configuration, or `--metrics` of `forerun up`. All rates are those of the last interval.

    [cyan]forerun up --metrics 127.0.0.1:9464[/cyan], and in another terminal  [cyan]forerun top[/cyan]

    [cyan]forerun top --json | jq .tokens_per_second[/cyan]
    """
    from forerun.top import looks
    from forerun.top_screen import TopScreen, draw_top

    views = looks(metrics, interval_s=interval)
    if as_json:
        emit(next(views))
    elif once:
        RESULT.print(draw_top(next(views)))
    else:
        with TopScreen(metrics) as screen:
            for view in views:
                screen.show(view)
