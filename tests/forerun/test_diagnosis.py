"""What holds a fleet back is named, by its cause and its price; nothing is named that is not there."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forerun.diagnosis.choices import FIXED_POLICIES
from forerun.diagnosis.evidence import Evidence, pace
from forerun.diagnosis.findings import Cause, Finding, Verdict
from forerun.diagnosis.judge import CAUSES, ENOUGH_ROUNDS, WORTH_TELLING, diagnose
from forerun.diagnosis.rows import Kind, Row
from forerun.diagnosis.trees import Cut, nodes_within
from router_models.catalogue import all_policies
from router_models.ranks import accepted_of
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape
from tests.forerun.served import NODE_MS, TARGET_MS, plain, served
from tests.strategies import SMALL_VOCABULARY, trees

HEALTHY = (
    *served(rate=0.8, seed=1),
    *served(rate=0.7, drafter="docs", task="docs", requests="d", seed=2),
    *served(rate=0.5, drafter="docs", task="docs", requests="s", sampled=True, seed=3),
    *plain(30, task="docs"),
)
BAD_DRAFTER = {Cause.MISMATCHED_DRAFTER, Cause.LOW_ACCEPTANCE}
DEEP = TreeShape(depth=24, branching=4, budget=96)


def forgotten(rows: list[Row]) -> list[Row]:
    """Every tenth round is told everything again."""
    return [
        replace(row, retold=400, verify_ms=row.verify_ms + 300) if place % 10 == 0 else row
        for place, row in enumerate(rows)
    ]


def absent(rows: list[Row]) -> list[Row]:
    """The drafter misses every fourth round."""
    return [_missed(row) if place % 4 == 0 else row for place, row in enumerate(rows)]


def _missed(row: Row) -> Row:
    return replace(
        row, missing=row.drafters, answers=(), tree=EMPTY_TREE, accepted=(), tokens=1.0, draft_ms=200.0, moves=1
    )


def read_by(rows: list[Row], **surprisal: float) -> list[Row]:
    """Drafters have read the prompts."""
    return [replace(row, surprisal=surprisal) for row in rows]


PLANTED: dict[str, tuple[Cause, str, list[Row]]] = {
    "a drafter that misses rounds": (Cause.ABSENT_DRAFTER, "code", absent(served())),
    "nobody there to draft": (
        Cause.ABSENT_DRAFTER,
        "code, greedy",
        served() + plain(80, policy="static", offered=()),
    ),
    "workers that forget": (Cause.COLD_CACHE, "sessions", forgotten(served())),
    "a long way to the target": (Cause.FAR_TARGET, "target:1", served(target_link_ms=25.0)),
    "a long way to a drafter": (Cause.FAR_DRAFTER, "code", served(link_ms=25.0)),
    "a target that many wait for": (Cause.SATURATED_VERIFIER, "target", served(queue_ms=40.0, batch=6)),
    "a drafter that many wait for": (Cause.BUSY_DRAFTER, "code", served(draft_queue_ms=40.0)),
    "a drafter slower than its peers": (
        Cause.SLOW_DRAFTER,
        "slow",
        served(forward_ms=24.0, drafter="slow") + served(40, drafter="docs", task="docs", requests="d"),
    ),
    "a drafter as slow as the target": (Cause.SLOW_DRAFTER, "code", served(forward_ms=30.0)),
    "one slow worker of two": (
        Cause.SLOW_DRAFTER,
        "code",
        served(forward_ms=30.0, address="far:1") + served(address="near:1", requests="n"),
    ),
    "a drafter that knows nothing": (
        Cause.MISMATCHED_DRAFTER,
        "alien",
        served(rate=0.03, drafter="alien", policy="static")
        + served(rate=0.05, drafter="alien", task="docs", policy="static", requests="d"),
    ),
    "a drafter that knows nothing, given up by the planner": (
        Cause.MISMATCHED_DRAFTER,
        "alien",
        served(30, rate=0.03, drafter="alien", offered=("alien",)) + plain(200, offered=("alien",)),
    ),
    "a drafter pinned where another one drafts better": (
        Cause.PINNED,
        "code, greedy",
        served(rate=0.2, drafter="docs", policy="static") + served(40, rate=0.8, requests="c"),
    ),
    "plain decoding where speculation pays": (
        Cause.PINNED,
        "code, greedy",
        plain(200, forced=True) + served(40, rate=0.8, requests="c"),
    ),
    "a drafter pinned where another one reads better": (
        Cause.PINNED,
        "code, greedy",
        read_by(served(rate=0.2, drafter="docs", forced=True), code=1.1, docs=3.2)
        + served(rate=0.8, drafter="docs", task="docs", requests="d"),
    ),
    "a text that no drafter knows": (
        Cause.LOW_ACCEPTANCE,
        "code",
        served(rate=0.1, task="poetry") + served(40, rate=0.8, requests="c"),
    ),
    "trees much deeper and wider than what is kept": (Cause.OVERGROWN_TREE, "code", served(shape=DEEP)),
    "chains much longer than what is kept": (
        Cause.OVERGROWN_TREE,
        "code",
        served(shape=TreeShape(depth=20, branching=1, budget=20)),
    ),
}


def named(rows: list[Row]) -> list[Finding]:
    return list(diagnose(rows).findings)


def test_nothing_is_said_of_a_healthy_fleet() -> None:
    diagnosis = diagnose(HEALTHY)

    assert diagnosis.findings == ()
    assert diagnosis.verdict is Verdict.HEALTHY
    assert diagnosis.figures["draft_ms"] > 0
    assert diagnosis.first_candidates_taken["code on code, greedy"] == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(("cause", "subject", "rows"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_cause_is_named_and_no_other(cause: Cause, subject: str, rows: list[Row]) -> None:
    (finding,) = named(rows)

    assert (finding.cause, finding.subject) == (cause, subject)


@pytest.mark.parametrize(("cause", "subject", "rows"), PLANTED.values(), ids=PLANTED.keys())
def test_gains_are_shares_of_the_time_there_is_and_come_in_order(cause: Cause, subject: str, rows: list[Row]) -> None:
    diagnosis = diagnose(rows)

    gains = [finding.gain_ms for finding in diagnosis.findings]
    assert gains == sorted(gains, reverse=True)
    assert sum(gains) < diagnosis.ms_per_token == pytest.approx(pace(rows))
    assert all(finding.share >= WORTH_TELLING for finding in diagnosis.findings)
    assert all(finding.share == pytest.approx(finding.gain_ms / pace(rows)) for finding in diagnosis.findings)


@pytest.mark.parametrize(("cause", "subject", "rows"), PLANTED.values(), ids=PLANTED.keys())
def test_what_is_wrong_elsewhere_is_told_beside_it(cause: Cause, subject: str, rows: list[Row]) -> None:
    """Traffic that is served well makes a cause cheaper, and hides it only when it is no longer worth telling."""
    alone = diagnose(rows).findings[0].share
    beside = [replace(row, target="other:1") for row in plain(60, task="json", offered=("json",))]

    found = {(finding.cause, finding.subject): finding.share for finding in named([*rows, *beside])}

    share = found.get((cause, subject), 0.0)
    assert share <= alone + 0.02
    assert share or alone < 3 * WORTH_TELLING


def test_of_two_causes_the_dearer_comes_first() -> None:
    both = served(link_ms=12.0, target_link_ms=60.0)

    assert [finding.cause for finding in named(both)] == [Cause.FAR_TARGET, Cause.FAR_DRAFTER]


def test_the_gain_is_what_the_repair_brings() -> None:
    far, near = served(target_link_ms=32.0), served(target_link_ms=2.0)

    (finding,) = named(far)

    assert finding.gain_ms == pytest.approx(pace(far) - pace(near))


def test_another_worker_takes_over_its_share_of_the_waiting() -> None:
    """Beside one worker a half, beside two a third."""
    one = served(queue_ms=90.0)
    two = [replace(row, target=f"target:{place % 2}") for place, row in enumerate(one)]

    gains = [named(rows)[0].gain_ms for rows in (one, two)]

    assert gains[0] == pytest.approx(45 * len(one) / sum(row.tokens for row in one), rel=0.01)
    assert gains[1] / gains[0] == pytest.approx(2 / 3)


def test_a_drafter_is_measured_by_what_others_achieve_on_the_same_text() -> None:
    """Where nobody does better, the text is hard, and the drafter not bad; where somebody does, it is."""
    middling = served(rate=0.38, drafter="docs", task="prose", seed=1)
    brilliant = served(60, rate=0.95, task="prose", requests="c")

    assert not BAD_DRAFTER & {finding.cause for finding in named(middling)}
    assert [finding.cause for finding in named([*middling, *brilliant])] == [Cause.LOW_ACCEPTANCE]


def test_bad_luck_is_not_taken_for_a_bad_drafter() -> None:
    """A rate of 0.4 is seen as 0.29 in these rounds, and 0.3 would be low."""
    unlucky = served(rate=0.4, seed=0)

    assert Evidence(unlucky).rates["code", Kind("code", False)] < 0.3
    assert not BAD_DRAFTER & {finding.cause for finding in named(unlucky)}


def test_a_slow_drafter_is_not_told_again_as_a_tree_that_is_too_deep() -> None:
    """With forwards as dear as the target's any tree is too deep; once they are quick this one is right."""
    assert [finding.cause for finding in named(served(forward_ms=30.0))] == [Cause.SLOW_DRAFTER]


def test_a_tree_is_judged_by_what_its_drafter_should_cost() -> None:
    """At the forwards of a slow drafter no tree would pay; its own trees are too deep for those of a quick one, too."""
    long = TreeShape(depth=20, branching=1, budget=20)
    usual_ms = 0.25 * (TARGET_MS + NODE_MS)

    (as_it_should_be,) = named(served(shape=long, forward_ms=usual_ms))
    trees = [finding for finding in named(served(shape=long, forward_ms=30.0)) if finding.cause is Cause.OVERGROWN_TREE]

    assert [finding.figures["depth"] for finding in trees] == [as_it_should_be.figures["depth"]]


def test_an_answer_that_ends_is_no_evidence_for_small_trees() -> None:
    """The last rounds of a request are planned for the few tokens that it still needs."""
    last = [replace(row, ending=True, verify_ms=1.0) for row in plain(60, policy="static")]

    assert named([*served(policy="static"), *last]) == []


def test_few_lucky_rounds_are_no_evidence() -> None:
    rounds = served(20, requests="l", forced=True)
    lucky = [replace(row, tokens=1.0 if place % 4 else 12.0) for place, row in enumerate(rounds)]
    others = [replace(row, drafters=("docs",), tokens=3.2) for row in served(policy="static")]

    assert pace(lucky) < 0.9 * pace(others)
    assert Cause.PINNED not in {finding.cause for finding in named([*lucky, *others])}


def test_a_choice_that_the_planner_makes_is_not_called_a_pin() -> None:
    rows = served(rate=0.4, drafter="docs") + served(60, rate=0.8, requests="c")

    assert Cause.PINNED not in {finding.cause for finding in named(rows)}


def test_texts_without_a_label_are_told_apart_by_who_reads_them_best() -> None:
    (code,) = read_by(served(1, task=""), code=1.0, docs=3.0)
    (docs,) = read_by(served(1, task=""), code=3.0, docs=1.0)
    (unread,) = served(1, task="", sampled=True)

    assert code.kind != docs.kind
    assert unread.kind == Kind("", True)


@pytest.mark.parametrize("count", [0, 1, ENOUGH_ROUNDS - 1])
def test_of_few_rounds_nothing_is_said(count: int) -> None:
    diagnosis = diagnose(served(target_link_ms=500.0)[:count])

    assert diagnosis.verdict is Verdict.TOO_FEW_ROUNDS
    assert diagnosis.findings == ()


@pytest.mark.parametrize("rows", [rows for _, _, rows in PLANTED.values()], ids=PLANTED.keys())
def test_no_repair_makes_a_round_take_longer(rows: list[Row]) -> None:
    for suspicion in (suspicion for look in CAUSES for suspicion in look(Evidence(rows))):
        for row in rows[::7]:
            mended = suspicion.mend(row)
            assert mended.cost_ms <= row.cost_ms + 1e-9
            assert min(mended.draft_ms, mended.verify_ms) >= 0
            assert mended.tokens >= (1.0 if suspicion.cause is Cause.OVERGROWN_TREE else row.tokens)


@given(trees(), st.lists(st.integers(0, SMALL_VOCABULARY - 1), max_size=6), st.integers(0, 4), st.integers(1, 4))
def test_what_is_kept_of_a_tree_is_the_smaller_tree(
    tree: TokenTree, token_ids: list[int], depth: int, width: int
) -> None:
    kept = nodes_within(tree, Cut(depth, width))

    smaller = tree.subtree(kept)
    assert smaller.depth <= depth
    assert all(len(children) <= width for children in smaller.children.values())
    assert accepted_of(smaller, token_ids) <= min(accepted_of(tree, token_ids), depth)


@given(trees())
def test_the_whole_tree_is_kept_where_nothing_is_cut(tree: TokenTree) -> None:
    assert nodes_within(tree, Cut(len(tree), max(len(tree), 1))) == set(range(len(tree)))


def test_a_tree_is_told_in_which_direction_it_is_too_large() -> None:
    """Siblings are never taken in these trees, and three levels mostly are."""
    wide = served(rate=0.9, shape=TreeShape(depth=4, branching=8, budget=32))

    (finding,) = named(wide)

    assert (finding.figures["depth"], finding.figures["width"]) == (4, 1)


def test_what_a_forward_costs_is_found_from_forwards_of_all_sizes() -> None:
    rows = served(batch=1) + served(batch=4) + plain(40) + plain(40, batch=3)

    fixed_ms, each_ms = Evidence(rows).forward_costs

    assert fixed_ms == pytest.approx(TARGET_MS, rel=0.02)
    assert each_ms == pytest.approx(NODE_MS, rel=0.05)


def test_without_forwards_of_other_sizes_a_node_costs_what_is_usual() -> None:
    _, each_ms = Evidence(plain(40)).forward_costs

    assert 0 < each_ms < 0.05 * TARGET_MS


def test_policies_that_are_said_never_to_learn_exist() -> None:
    assert set(all_policies()) >= FIXED_POLICIES
