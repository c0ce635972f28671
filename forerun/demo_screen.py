"""What the demonstration shows: a live table while it runs, and at the end the numbers and the verdict."""

from collections.abc import Sequence
from typing import Self

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from forerun.console import PEOPLE
from forerun.demo import PLAIN, Board, Cell
from forerun.workload import PROMPT_SETS


class DemoScreen:
    """The live table and how far the workload is."""

    def __init__(self, board: Board, policies: Sequence[str], *, total: int) -> None:
        self._board = board
        self._policies = policies
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=PEOPLE
        )
        self._task = self._progress.add_task("answers", total=total)
        self._live = Live(console=PEOPLE, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.__enter__()
        self._live.update(self._picture(""))
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, text: str) -> None:
        """One more answer."""
        self._progress.advance(self._task)
        self._live.update(self._picture(text))

    def _picture(self, text: str) -> Group:
        preview = Text(" ".join(text.split()), style="italic dim", no_wrap=True, overflow="ellipsis")
        return Group(_live_table(self._board, self._policies), preview, self._progress)


def _live_table(board: Board, policies: Sequence[str]) -> Table:
    table = Table(title="tokens a second, and how many times plain decoding", box=None, header_style="dim")
    table.add_column("set")
    for policy in policies:
        table.add_column(policy, justify="right")
    for prompt_set in PROMPT_SETS:
        plain = board.cell(prompt_set, PLAIN)
        cells = [board.cell(prompt_set, policy) for policy in policies]
        table.add_row(prompt_set, *(_goodput(cell, plain) if cell.answers else "" for cell in cells))
    return table


def _goodput(cell: Cell, plain: Cell) -> str:
    if cell.policy == PLAIN or not plain.tokens_per_second:
        return f"{cell.tokens_per_second:.1f}"
    return f"{cell.tokens_per_second:.1f} ({cell.tokens_per_second / plain.tokens_per_second:.1f}x)"


def final_table(board: Board, policies: Sequence[str]) -> Table:
    """Every set under every policy."""
    table = Table(box=None, header_style="dim")
    table.add_column("set")
    table.add_column("policy")
    for heading in ("tokens/s", "tokens/round", "target passes saved", "identical to plain decoding"):
        table.add_column(heading, justify="right")
    for prompt_set in PROMPT_SETS:
        for place, policy in enumerate(policies):
            table.add_row(prompt_set if place == 0 else "", policy, *_row(board.cell(prompt_set, policy)))
        table.add_section()
    return table


def _row(cell: Cell) -> tuple[str, str, str, Text]:
    identical = Text("yes", style="green") if cell.identical else Text("NO", style="bold red")
    return (
        f"{cell.tokens_per_second:.1f}",
        f"{cell.tokens_per_round:.2f}",
        f"{cell.passes_saved:.0%}",
        identical,
    )


def verdict(board: Board, asked: int, prompts: int) -> Text:
    """Whether all answers are what they must be, and if not, which differ where."""
    if not board.differences:
        return Text(
            f"All {len(board.runs)} answers to {prompts} prompts are, token for token, those of plain decoding; "
            f"and {asked} greedy ones those of transformers.",
            style="green",
        )
    lines = [
        f"{entry.prompt_set} {entry.number} under {entry.policy} differs from {entry.judge} "
        f"at token {entry.first_differing_token}"
        for entry in board.differences
    ]
    return Text("\n".join(lines), style="bold red")
