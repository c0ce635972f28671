"""`forerun config`: look at a configuration before a controller does."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from forerun.console import RESULT, emit, plain

if TYPE_CHECKING:
    from controller.settings import Settings

app = typer.Typer(
    name="config",
    no_args_is_help=True,
    help="Look at a configuration before a controller does. docs/configuration.md explains it by example.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")]
OfUp = Annotated[bool, typer.Option("--up", help="It is a file of `forerun up --config`, not a controller's.")]


@app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="A YAML file.")], of_up: OfUp = False, as_json: AsJson = False
) -> None:
    """Check a file: everything that is wrong, one a line, with file, line and field; exit status 1 if anything is.

    [cyan]forerun config check controller.yaml[/cyan]
    """
    from controller.settings_file import content_of, examined

    settings, problems = examined(content_of(file), _model(of_up))
    if as_json:
        shown = settings.content_hash if settings is not None else None
        emit({"file": file, "ok": settings is not None, "hash": shown, "problems": problems})
    elif settings is not None:
        RESULT.print(f"{file} is in order")
    for problem in () if as_json else problems:
        # Not through rich: a path in brackets is no markup, and a line is one line.
        print(problem.at(file))
    raise typer.Exit(0 if settings is not None else 1)


@app.command("diff")
def diff(
    old: Annotated[Path, typer.Argument(help="As it is.")],
    new: Annotated[Path, typer.Argument(help="As it will be.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two files, and whether a running controller takes it on or must be restarted.

    [cyan]forerun config diff controller.yaml controller.new.yaml[/cyan]
    """
    from controller.settings import Settings, changes

    differing = [
        {
            "field": change.field,
            "old": _plain(change.old),
            "new": _plain(change.new),
            "needs_restart": change.needs_restart,
        }
        for change in changes(Settings.load(old), Settings.load(new))
    ]
    if as_json:
        emit({"changes": differing})
    elif not differing:
        RESULT.print("they say the same")
    else:
        RESULT.print(_table(differing))


@app.command("schema")
def schema(
    of_up: OfUp = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the reference in docs/configuration.md.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the JSON Schema of the file, for editors and other checkers; fields tell if they need a restart.

    [cyan]forerun config schema > forerun.schema.json[/cyan]

    Then begin the file with  [cyan]# yaml-language-server: $schema=forerun.schema.json[/cyan]
    """
    from forerun.config_reference import reference

    content = _model(of_up).model_json_schema()
    if markdown:
        print(reference(content), end="")
    else:
        print(json.dumps(content) if as_json else json.dumps(content, indent=2))


def _model(of_up: bool) -> "type[Settings]":
    from controller.settings import Settings
    from forerun.local_fleet import FleetSettings

    return FleetSettings if of_up else Settings


def _plain(value: Any) -> Any:
    from controller.settings import Section

    return value.model_dump(mode="json", exclude_defaults=True) if isinstance(value, Section) else plain(value)


def _table(differing: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("field", no_wrap=True)
    for heading in ("old", "new", "takes effect"):
        table.add_column(heading, overflow="fold")
    for change in differing:
        values = ("" if change[name] is None else json.dumps(change[name]) for name in ("old", "new"))
        table.add_row(change["field"], *values, "after a restart" if change["needs_restart"] else "at once")
    return table
