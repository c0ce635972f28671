"""A diagnosis for people: what holds the fleet back, what to change, and by which figures."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forerun.diagnosis.findings import Diagnosis, Finding, Verdict
from forerun.diagnosis.judge import ENOUGH_ROUNDS, WORTH_TELLING

MOST_SHOWN = 8
"""Drafters and kinds of text told to people."""


def draw_diagnosis(diagnosis: Diagnosis, notes: Sequence[str], *, since: str) -> RenderableType:
    """The verdict, the findings (the dearest first), the figures looked at, and notes."""
    parts: list[RenderableType] = [_verdict(diagnosis, since)]
    if diagnosis.findings:
        parts += [Text(), _findings(diagnosis.findings)]
    if diagnosis.rounds:
        parts += [Text(), _figures(diagnosis)]
    if diagnosis.first_candidates_taken:
        parts.append(_acceptance(diagnosis))
    return Group(*parts, *_notes(notes))


def _verdict(diagnosis: Diagnosis, since: str) -> Text:
    looked_at = f"{diagnosis.rounds} rounds of {diagnosis.requests} requests in the last {since}"
    if diagnosis.verdict is Verdict.TOO_FEW_ROUNDS:
        return Text(f"Too few rounds to judge by: {looked_at}, and {ENOUGH_ROUNDS} are needed.", "yellow")
    if diagnosis.verdict is Verdict.HEALTHY:
        return Text(f"Nothing holds this fleet back by more than {WORTH_TELLING:.0%}: {looked_at}.", "green")
    saved = sum(finding.share for finding in diagnosis.findings)
    return Text(f"A token takes {diagnosis.ms_per_token:.1f} ms; {saved:.0%} of that could be saved: {looked_at}.")


def _findings(findings: Iterable[Finding]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("saves a token", justify="right")
    table.add_column("what holds it back, and what to change", overflow="fold")
    for finding in findings:
        headline = Text.assemble((finding.cause.value, "bold"), f": {finding.subject}")
        told = Text.assemble(headline, "\n", finding.says, "\n", (f"→ {finding.advice}", "cyan"))
        table.add_row(Text(f"{finding.gain_ms:.1f} ms\n{finding.share:.0%}", "bold yellow"), told)
    return table


def _figures(diagnosis: Diagnosis) -> Text:
    """Where a round's time goes, in two lines."""
    of = diagnosis.figures
    return Text(
        f"A round: {of['round_ms']:.1f} ms for {of['tokens_per_round']:.2f} tokens "
        f"({of['accepted_share']:.0%} of {of['drafted_per_round']:.1f} drafted kept). "
        f"Drafting {of['draft_ms']:.1f} ms (way {of['draft_link_ms']:.1f}, queue {of['draft_queue_ms']:.1f}), "
        f"verifying {of['verify_ms']:.1f} ms (way {of['verify_link_ms']:.1f}, queue {of['verify_queue_ms']:.1f}, "
        f"{of['verify_batch']:.1f} a batch), the rest {of['other_ms']:.1f} ms.",
        "dim",
    )


def _acceptance(diagnosis: Diagnosis) -> Text:
    """Whose candidates are taken, the best first."""
    taken = sorted(diagnosis.first_candidates_taken.items(), key=lambda entry: -entry[1])
    shown = "; ".join(f"{who} {share:.0%}" for who, share in taken[:MOST_SHOWN])
    more = f"; and {len(taken) - MOST_SHOWN} more (--json)" if len(taken) > MOST_SHOWN else ""
    return Text(f"First candidates taken: {shown}{more}.", "dim")


def _notes(notes: Iterable[str]) -> list[RenderableType]:
    return [Text.assemble(("note: ", "yellow"), note) for note in notes]
