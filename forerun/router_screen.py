"""What is shown of a router: who decides, on what terms, by which workers, and what has come of it."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from forerun.client import (
    ArmView,
    ConfigView,
    LearningView,
    LogView,
    RouterView,
    ScoringView,
    WorkerHealth,
    WorkerView,
)
from forerun.explanation import shape_in_words

TOP_ARMS = 5
GOOD, WARNING, BAD = "green", "yellow", "bold red"


def draw_router(view: RouterView) -> RenderableType:
    """Everything on one screen; `arms_table` has all the arms."""
    arms = by_rounds(view.arms)
    parts: list[RenderableType] = [_summary(view), Text(), _workers_table(view.workers)]
    if arms:
        parts += [Text(), arms_table(arms[:TOP_ARMS])]
    if len(arms) > TOP_ARMS:
        parts.append(Text(f"and {len(arms) - TOP_ARMS} more: forerun router arms", style="dim"))
    return Group(*parts)


def by_rounds(arms: Iterable[ArmView]) -> Sequence[ArmView]:
    """The arms, the one most often chosen first."""
    return sorted(arms, key=lambda arm: (-arm.rounds, arm.drafters))


def arms_table(arms: Iterable[ArmView]) -> Table:
    """One row an arm."""
    table = Table(box=None, header_style="dim")
    for heading in ("drafters", "tree"):
        table.add_column(heading, overflow="fold")
    for heading in ("rounds", "drafted", "accepted", "tokens/round"):
        table.add_column(heading, justify="right")
    for arm in arms:
        accepted = f"{arm.acceptance_rate:.0%}" if arm.drafted_tokens else ""
        table.add_row(
            " + ".join(arm.drafters) or "none",
            shape_in_words(arm.shape) if arm.shape is not None else "plain decoding",
            str(arm.rounds),
            str(arm.drafted_tokens),
            accepted,
            f"{arm.tokens_per_round:.2f}",
        )
    return table


def _summary(view: RouterView) -> Table:
    rows = Table(box=None, show_header=False)
    rows.add_column(style="dim")
    rows.add_column(overflow="fold")
    others = ", ".join(name for name in view.known_policies if name != view.policy)
    rows.add_row("policy", Text.assemble((view.policy, "bold"), (f"  (also known: {others})", "dim")))
    rows.add_row("mode", view.mode.value)
    rows.add_row("kill switch", _kill_switch(view))
    rows.add_row("configuration", _configuration(view.config))
    if view.config.problem:
        rows.add_row("", Text(f"the file as it is now is not in force: {view.config.problem}", BAD))
    if view.config.waiting_for_restart:
        rows.add_row("", Text(f"waiting for a restart: {', '.join(view.config.waiting_for_restart)}", WARNING))
    rows.add_row("log", _log(view.log))
    rows.add_row("learning", _learning(view.learning))
    rows.add_row("scoring", _scoring(view.scoring))
    return rows


def _kill_switch(view: RouterView) -> Text:
    if not view.kill_switch:
        return Text("off")
    return Text("ON, by the configuration" if view.kill_switch_in_config else "ON, by hand", BAD)


def _configuration(config: ConfigView) -> str:
    changes = f", changes since the start: {config.reloads}" if config.reloads else ""
    return f"{config.file or 'without a file'}, hash {config.hash}{changes}"


def _log(log: LogView) -> Text:
    if not log.url:
        return Text("none: nothing can be retrained from what happens")
    lost = f", {log.dropped} dropped" if log.dropped else ""
    state = "connected" if log.connected else "OUT OF REACH"
    return Text(f"{state}, {log.written} records written{lost}", WARNING if lost or not log.connected else "")


def _learning(learning: LearningView) -> Text:
    if not learning.policy:
        return Text("nothing is shared: each policy that learns does so for itself")
    if not learning.follows:
        return Text(f"{learning.policy} learns alone: {learning.problem}", WARNING)
    since = f" since version {learning.base_version}" if learning.base_version else ""
    who = "; this controller learns for all" if learning.leads else ""
    return Text(f"{learning.policy}, from {learning.folded} records{since}{who}")


def _scoring(scoring: ScoringView) -> str:
    share = f"{scoring.share:.0%} of the answers" if scoring.share else "off"
    counts = f"{scoring.scored} passes scored, {scoring.waiting} waiting, {scoring.dropped} dropped"
    return f"{share}; {counts}" if scoring.share or scoring.scored or scoring.waiting else share


def _workers_table(workers: Iterable[WorkerView]) -> Table:
    table = Table(box=None, header_style="dim")
    for heading in ("worker", "role", "address", "model", "health"):
        table.add_column(heading, overflow="fold")
    table.add_column("sessions", justify="right")
    for worker in workers:
        health = Text(worker.health.value, GOOD if worker.health is WorkerHealth.SERVING else BAD)
        if worker.problem:
            health.append(f": {worker.problem}", "dim")
        row = (worker.name or "?", worker.role, worker.address, worker.model)
        table.add_row(*row, health, str(worker.open_sessions))
    return table
