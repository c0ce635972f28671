"""What the commands of the bench have in common: their options, and which prompts and drafters they take."""

import os
from pathlib import Path
from typing import Annotated

import typer

from forerun.commands.profile import Profile
from forerun.workload import PLAIN_DOMAINS

DEFAULT_SEED = 20261122
HELD_FOR_TUNING = 20
"""Prompts of each set at its beginning that benches leave to those who tune shapes and thresholds."""

SPECIALISTS = {name: f"zoo:{name}" for name in PLAIN_DOMAINS}


def writable(file: Path | None) -> Path | None:
    """The same path; a typing error in it is found now, and not after half an hour of measuring."""
    if file is not None and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
        raise typer.BadParameter(f"{file} cannot be written: name a file in a folder that exists")
    return file


AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")]
Output = Annotated[Path | None, typer.Option(callback=writable, help="Keep the run in this file, as JSON.")]
Quick = Annotated[bool, typer.Option("--quick", help="Few and short answers: to see that it works.")]
Prompts = Annotated[int | None, typer.Option(min=1, max=180, help="Prompts of each set.", show_default=False)]
Tokens = Annotated[int | None, typer.Option(min=2, help="Most tokens of an answer.", show_default=False)]
Seed = Annotated[int, typer.Option(min=0, help="Of sampled answers and of the resampling.")]
Cost = Annotated[Profile, typer.Option("--profile", help="What the target costs: plain, deep or wide.")]
