"""`forerun token`: make what callers prove themselves with."""

from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from forerun.console import PEOPLE, emit

app = typer.Typer(
    name="token",
    no_args_is_help=True,
    help="Make tokens for callers of a controller. docs/security.md says who may do what with them.",
)


class TokenRole(Enum):
    """As controller.tokens.Role, which must not be loaded for --help."""

    CALL = "call"
    OPERATE = "operate"


@app.callback()
def token() -> None:
    """Without this the only command would take the group's place."""


@app.command("new")
def new(
    role: Annotated[TokenRole, typer.Option(help="call: answers. operate: everything.", show_default=False)],
    file: Annotated[Path, typer.Option(help="The controller's file of tokens; made if missing.")] = Path("tokens.yaml"),
    tenant: Annotated[str, typer.Option(help="For whom it speaks.", show_default="the tenant without a name")] = "",
    days: Annotated[
        float | None, typer.Option(min=0, help="After how many days it expires.", show_default="never")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON on stdout.")] = False,
) -> None:
    """Make a token, show it this once, and add its hash to the controller's file, which the controller follows.

    [cyan]forerun token new --role call --tenant acme --days 90[/cyan]

    [cyan]export FORERUN_TOKEN=$(forerun token new --role operate)[/cyan]
    """
    from controller.tokens import Role, new_token

    expires = None if days is None else datetime.now(UTC).replace(microsecond=0) + timedelta(days=days)
    made = new_token(file, role=Role(role.value), tenant=tenant, expires=expires)
    if as_json:
        emit({"token": made, "role": role, "tenant": tenant, "expires": expires, "file": file})
        return
    print(made)
    PEOPLE.print(f"[dim]its hash is in {file}; the token itself is nowhere but here[/dim]")
