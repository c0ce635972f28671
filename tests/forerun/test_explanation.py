"""What a round looks like to a reader."""

from rich.console import Console

from forerun.client import Decision, RoundReport
from forerun.explanation import draw_round
from router_models.policy import RoundTimings
from speculation.tree import EMPTY_TREE


def test_a_run_stands_behind_the_targets_own_token() -> None:
    report = RoundReport(
        round=3,
        decision=Decision(policy="planner", explanation="plain decoding: 2.5 ms a token", run=8),
        tree=EMPTY_TREE,
        accepted=(),
        node_texts=(),
        extra_text=" area",
        timings=RoundTimings(),
        run_text=" of a circle",
        tokens_emitted=4,
    )
    console = Console(width=100, no_color=True)

    with console.capture() as drawn:
        console.print(draw_round(report))

    assert "planner: plain decoding, 9 tokens a round" in drawn.get()
    assert "·area·of·a·circle" in drawn.get()
