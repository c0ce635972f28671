"""A round drawn for people: the tree that was verified, the path that was kept, and what it cost."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from forerun.client import Decision, Generation, RoundReport
from speculation.tree import ROOT, TreeShape

KEPT = "bold green"
REFUSED = "dim"
EXTRA = "bold cyan"
RUN = "cyan"
NS_PER_MS = 1e6


def draw_round(report: RoundReport) -> RenderableType:
    """One round: a headline, and under it the tree with the accepted path in green and the target's token in cyan."""
    headline = Text.assemble((f"round {report.round + 1}", "bold"), "  ", describe(report.decision))
    headline.append(f"  kept {len(report.accepted)} of {len(report.tree)}", KEPT if report.accepted else REFUSED)
    headline.append(f"  {_timings(report)}", "dim")
    if report.foreseen_drafters:
        headline.append(f"  foreseen by {', '.join(report.foreseen_drafters)}", "cyan")
    if report.silent_drafters:
        headline.append(f"  nothing to say: {', '.join(report.silent_drafters)}", "dim")
    if report.missing_drafters:
        headline.append(f"  no answer from {', '.join(report.missing_drafters)}", "yellow")
    return Group(headline, _tree(report))


def describe(decision: Decision) -> str:
    """What was chosen: "static: code, 4 deep"."""
    if not decision.drafters:
        run = f", {1 + decision.run} tokens a round" if decision.run else ""
        return f"{decision.policy}: plain decoding{run}"
    return f"{decision.policy}: {' + '.join(decision.drafters)}, {shape_in_words(decision.shape)}"


def shape_in_words(shape: TreeShape | None) -> str:
    """A chain is told by its length, a tree by depth, branching and budget."""
    if shape is None:
        return "no tree"
    until = f" until {shape.least_confidence:.0%}" if shape.least_confidence else ""
    if shape.branching == 1:
        return f"chain of {min(shape.depth, shape.budget)}{until}"
    return f"tree {shape.depth} deep, {shape.branching} wide, {shape.budget} nodes{until}"


def draw_summary(answer: Generation) -> Text:
    """The answer in numbers, in one line."""
    tokens, acceptance = answer.usage.completion_tokens, answer.acceptance
    rounds = len(acceptance.per_step_accepted) or acceptance.num_spec_steps
    seconds = answer.timings.total_ns / 1e9
    line = Text(f"{tokens} tokens in {seconds:.2f} s ({answer.tokens_per_second:.1f} a second)", style="dim")
    line.append(f", {rounds} rounds, {answer.tokens_per_round:.2f} tokens a round")
    if acceptance.num_draft_tokens:
        line.append(f", {acceptance.draft_acceptance_rate:.0%} of {acceptance.num_draft_tokens} drafted tokens kept")
    line.append(f"; {describe(answer.decision)}; seed {answer.seed}; request {answer.request_id}")
    return line


def _timings(report: RoundReport) -> str:
    timings = report.timings
    whole, draft, verify = (ns / NS_PER_MS for ns in (timings.round_ns, timings.draft_ns, timings.verify_ns))
    return f"{whole:.1f} ms (draft {draft:.1f}, verify {verify:.1f})"


def _tree(report: RoundReport) -> Tree:
    kept = frozenset(report.accepted)
    root = Tree(Text(report.decision.explanation or "plain decoding", style="italic dim"), guide_style="dim")
    end = report.accepted[-1] if report.accepted else ROOT
    _grow(root, report, ROOT, kept, end)
    return root


def _grow(branch: Tree, report: RoundReport, node: int, kept: frozenset[int], end: int) -> None:
    """Hang the children of a node below it; a stretch without a fork becomes one line."""
    if node == end:
        line = Text(_visible(report.extra_text), style=EXTRA)
        line.append(_visible(report.run_text), RUN)
        branch.add(line)
    for child in _children(report, node):
        line = Text()
        last = child
        for last in _stretch(report, child, end):
            style = KEPT if last in kept else REFUSED
            line.append(_visible(report.node_texts[last]), style)
            line.append(f" {report.tree.confidences[last]:.2f}  ", "dim")
        _grow(branch.add(line), report, last, kept, end)


def _stretch(report: RoundReport, node: int, end: int) -> Iterator[int]:
    """The node and its descendants as long as there is only one, up to the last accepted one."""
    yield node
    while node != end and len(children := _children(report, node)) == 1:
        node = children[0]
        yield node


def _children(report: RoundReport, node: int) -> list[int]:
    return [child for child, parent in enumerate(report.tree.parents) if parent == node]


def _visible(text: str) -> str:
    """White space that can be seen."""
    return text.replace(" ", "·").replace("\n", "⏎").replace("\t", "→") or "∅"
