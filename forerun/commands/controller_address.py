"""How commands name the controller they call."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from speculation.errors import WorkerUnavailableError

DEFAULT_ADDRESS = "127.0.0.1:50050"

Target = Annotated[str, typer.Option(help="Address of the controller.", envvar="FORERUN_CONTROLLER")]

Token = Annotated[
    str | None,
    typer.Option(
        help="For a controller that asks for one; better in the variable, as other users see command lines.",
        envvar="FORERUN_TOKEN",
        show_default=False,
        show_envvar=True,
    ),
]
Ca = Annotated[
    str | None,
    typer.Option(
        help="For a controller with TLS: PEM file of those who sign its certificate, or system.",
        envvar="FORERUN_CA",
        show_default=False,
    ),
]

Cert = Annotated[
    str | None,
    typer.Option(
        help="Where callers must show a certificate: PEM file of it and of its unencrypted key.",
        envvar="FORERUN_CERT",
        show_default=False,
    ),
]
ServerName = Annotated[
    str | None,
    typer.Option(
        help="The name in the other side's certificate, where it is not the host of its address.",
        envvar="FORERUN_SERVER_NAME",
        show_default=False,
    ),
]


@contextmanager
def told_if_nobody_answers(address: str) -> Iterator[None]:
    """Say what to do when no controller answers there."""
    try:
        yield
    except WorkerUnavailableError as error:
        # The code is only there when no controller has raised the error itself.
        if error.metadata.get("code") != "UNAVAILABLE":
            raise
        raise WorkerUnavailableError(
            f"no controller answers at {address}; start a fleet with `forerun up`, name another with --target, or, if "
            "it has TLS, the authority of its certificate with --ca",
            error.metadata,
        ) from error
