"""Causes that make a round bring less than it could: who drafts for what."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from forerun.diagnosis.evidence import MIN_GROUP, Evidence, grouped, mean, pace, pace_at_most
from forerun.diagnosis.findings import Cause, Suspicion
from forerun.diagnosis.rows import Kind, Row
from router_models.formulas import chain_accepted
from router_models.menu import LONG
from router_models.ranks import NOMINAL_HAZARDS
from speculation.tree import TreeShape

ORDINARY_RATE = NOMINAL_HAZARDS[0]
"""How often a middling drafter's first candidate is taken, where nobody is there to compare with."""

FAR_BELOW = 0.5
"""Less than this share of what could be expected is low."""

LESS_SURPRISED = 0.5
"""Nats a token by which the better reader of a prompt must be better."""

FIXED_POLICIES = frozenset({"none", "static", "confidence", "merged", "merged-trie"})
"""Policies that go on whatever comes of it."""

Arm = tuple[tuple[str, ...], TreeShape | None]


def nobody_to_draft(evidence: Evidence) -> Iterator[Suspicion]:
    """Rounds for which no drafter was there, although others of the same kind had one."""
    for kind, rows in grouped(evidence.rows, lambda row: row.kind).items():
        alone = [row for row in rows if not (row.offered or row.drafters)]
        served = pace(row for row in rows if row.drafters and row.undisturbed)
        if not alone or not 0 < served < pace(alone):
            continue
        yield Suspicion(
            cause=Cause.ABSENT_DRAFTER,
            subject=str(kind),
            says=f"no drafter was there for {len(alone)} of {len(rows)} rounds of {kind}: {pace(alone):.1f} ms a "
            f"token, with one {served:.1f} ms",
            advice="see which drafters do not serve, or are denied, and why (`forerun router show`); "
            "timeouts.draft_timeout_s says when one counts as late",
            figures={"rounds": len(alone), "ms_per_token": pace(alone), "ms_per_token_with_one": served},
            mend=_as_if_drafted(kind, served),
        )


def _as_if_drafted(kind: Kind, ms_per_token: float) -> Callable[[Row], Row]:
    def mend(row: Row) -> Row:
        if row.offered or row.drafters or row.kind != kind:
            return row
        return replace(row, tokens=max(row.tokens, row.cost_ms / ms_per_token), explained=True)

    return mend


def mismatched_drafters(evidence: Evidence) -> Iterator[Suspicion]:
    """Drafters that are hardly ever right about anything: made for another model, or for other text than is served."""
    for name in sorted({drafter for drafter, _ in evidence.rates}):
        kinds = [kind for drafter, kind in evidence.rates if drafter == name]
        alone = all(_best_other(evidence, name, kind) < FAR_BELOW * ORDINARY_RATE for kind in kinds)
        at_everything = len({kind.text for kind in kinds}) > 1 or alone
        if not (at_everything and all(_is_low(evidence, name, kind) for kind in kinds)):
            continue
        rate, expected = (
            mean(evidence.rates[name, kind] for kind in kinds),
            mean(_expected(evidence, name, kind) for kind in kinds),
        )
        read = {kind: nats for (drafter, kind), nats in evidence.surprisals.items() if drafter == name}
        surprise = f"; it reads prompts with a surprisal of {mean(read.values()):.1f} nats a token" if read else ""
        yield Suspicion(
            cause=Cause.MISMATCHED_DRAFTER,
            subject=name,
            says=f"the target takes {rate:.0%} of the first candidates of {name}, whatever the text "
            f"({_kinds_in_words(evidence, name, kinds)}), where {expected:.0%} could be expected{surprise}",
            advice=f"check that {name} is the model it should be (`forerun router show`): it seems to be made for "
            "another target, or for text that nobody asks for; until then let another drafter draft",
            figures={"rate": rate, "expected_rate": expected, "surprisal": mean(read.values())},
            mend=_as_if_it_knew(evidence, name, frozenset(kinds)),
        )


def pinned_against_the_evidence(evidence: Evidence) -> Iterator[Suspicion]:
    """Choices that nobody reconsiders, where another drafter or tree does better on the same kind of text."""
    judged = (row for row in evidence.rows if not (row.explained or row.ending))
    for kind, rows in grouped(judged, lambda row: row.kind).items():
        arms = {arm: group for arm, group in grouped(rows, _arm).items() if len(group) >= MIN_GROUP}
        best = min(arms, key=lambda arm: pace_at_most(arms[arm]), default=None)
        for arm, group in arms.items():
            pinned = [row for row in group if _cannot_change(row)]
            if best in (None, arm) or len(pinned) < MIN_GROUP or pace_at_most(arms[best]) >= pace(pinned):
                continue
            yield _pinned(kind, arm, pinned, best, pace(arms[best]))
    yield from _pinned_against_surprisal(evidence)


def _pinned(kind: Kind, arm: Arm, pinned: Sequence[Row], best: Arm, best_pace: float) -> Suspicion:
    def mend(row: Row) -> Row:
        if row.explained or row.kind != kind or _arm(row) != arm or not _cannot_change(row):
            return row
        return replace(row, tokens=max(row.tokens, row.cost_ms / best_pace), explained=True)

    return Suspicion(
        cause=Cause.PINNED,
        subject=str(kind),
        says=f"{_who(pinned)} holds {kind} to {_in_words(arm)}: {pace(pinned):.1f} ms a token in {len(pinned)} rounds; "
        f"{_in_words(best)} takes {best_pace:.1f} ms",
        advice="let the planner choose (router.policy: planner), or pin what does better: router.drafter, "
        "router.shape, or the pin of the rule or of the request",
        figures={"ms_per_token": pace(pinned), "best_ms_per_token": best_pace, "rounds": len(pinned)},
        mend=mend,
    )


def _pinned_against_surprisal(evidence: Evidence) -> Iterator[Suspicion]:
    """The same where nobody else drafted, but somebody else read the prompts with much less surprise."""
    for (name, kind), rate in evidence.rates.items():
        nats = {drafter: value for (drafter, of), value in evidence.surprisals.items() if of == kind}
        reader = min(nats, key=lambda drafter: nats[drafter], default=name)
        pinned = [row for row in evidence.rows if _drafts_alone(row, name, kind) and _cannot_change(row)]
        if len(pinned) < MIN_GROUP or name not in nats or nats[name] - nats[reader] < LESS_SURPRISED:
            continue
        if (reader, kind) in evidence.rates or rate >= ORDINARY_RATE:
            continue
        yield Suspicion(
            cause=Cause.PINNED,
            subject=str(kind),
            says=f"{_who(pinned)} holds {kind} to {name}, whose first candidates are taken in {rate:.0%} of cases; "
            f"{reader} reads these prompts with {nats[reader]:.1f} nats a token, {name} with {nats[name]:.1f}",
            advice=f"let the planner choose (router.policy: planner), or pin {reader} in place of {name}",
            figures={"rate": rate, "surprisal": nats[name], "best_surprisal": nats[reader], "rounds": len(pinned)},
            mend=_with_rate(name, kind, rate, ORDINARY_RATE, only=_cannot_change),
        )


def low_acceptance(evidence: Evidence) -> Iterator[Suspicion]:
    """Kinds of text that a drafter does not know, although it drafts for them."""
    for (name, kind), rate in evidence.rates.items():
        if not _is_low(evidence, name, kind):
            continue
        rows = [row for row in evidence.rows if _drafts_alone(row, name, kind)]
        expected = _expected(evidence, name, kind)
        others = {other: known for (other, of), known in evidence.rates.items() if of == kind and other != name}
        compared = (
            "other drafters " + ", ".join(f"{other} {known:.0%}" for other, known in sorted(others.items()))
            if others
            else f"a middling drafter would get {ORDINARY_RATE:.0%}"
        )
        yield Suspicion(
            cause=Cause.LOW_ACCEPTANCE,
            subject=name,
            says=f"the target takes {rate:.0%} of {name}'s first candidates on {kind} ({len(rows)} rounds, "
            f"{sum(len(row.accepted) for row in rows)} of {sum(len(row.tree) for row in rows)} drafted tokens kept); "
            f"{compared}",
            advice="let another drafter draft there (a rule's denied_drafters, or the planner)"
            if others and max(others.values()) > rate
            else "no drafter knows this text: add or train one for it, or turn speculation off for it (mode: off)"
            + ("; when sampling, see that drafters may use the seed (uncoupled: false)" if kind.sampled else ""),
            figures={"rate": rate, "expected_rate": expected, "rounds": len(rows)},
            mend=_with_rate(name, kind, rate, expected),
        )


def _expected(evidence: Evidence, name: str, kind: Kind) -> float:
    """What could be expected of a drafter: what the best other one does on the same text, if one knows it at all."""
    best = _best_other(evidence, name, kind)
    return best if best >= FAR_BELOW * ORDINARY_RATE else ORDINARY_RATE


def _best_other(evidence: Evidence, name: str, kind: Kind) -> float:
    known = (rate for (other, of), rate in evidence.rates.items() if of == kind and other != name)
    return max(known, default=0.0)


def _is_low(evidence: Evidence, name: str, kind: Kind) -> bool:
    """Whether its candidates are taken far less often than could be expected, and not just by bad luck."""
    return evidence.rates_at_most[name, kind] < FAR_BELOW * _expected(evidence, name, kind)


def _as_if_it_knew(evidence: Evidence, name: str, kinds: frozenset[Kind]) -> Callable[[Row], Row]:
    """Its own rounds, and those in which it was passed over for plain decoding, had it been an ordinary drafter."""
    rates = {kind: (evidence.rates[name, kind], _expected(evidence, name, kind)) for kind in kinds}
    low = {(drafter, kind) for drafter, kind in evidence.rates if _is_low(evidence, drafter, kind)}

    def mend(row: Row) -> Row:
        if row.explained or row.kind not in rates:
            return row
        own, expected = rates[row.kind]
        if row.drafters == (name,):
            return _richer(row, own, expected)
        given_up = not row.drafters and not _cannot_change(row) and name in row.offered
        if given_up and all((other, row.kind) in low for other in row.offered):
            return _with_a_chain(evidence, row, name, expected)
        return row

    return mend


def _with_a_chain(evidence: Evidence, row: Row, name: str, rate: float) -> Row:
    """A round of plain decoding, had a drafter of that rate drafted the chain that suits it."""
    _, each_ms = evidence.forward_costs
    node_ms = evidence.level_ms([name]) + each_ms
    best = min((row.cost_ms + length * node_ms) / (1.0 + chain_accepted(rate, length)) for length in range(1, LONG + 1))
    return replace(row, tokens=max(row.tokens, row.cost_ms / best), explained=True)


def _with_rate(
    name: str, kind: Kind, rate: float, expected: float, *, only: Callable[[Row], bool] = lambda row: True
) -> Callable[[Row], Row]:
    def mend(row: Row) -> Row:
        return _richer(row, rate, expected) if _drafts_alone(row, name, kind) and only(row) else row

    return mend


def _richer(row: Row, rate: float, expected: float) -> Row:
    """A round with the same tree, had its candidates been taken at another rate; trees are taken for chains."""
    length = max(row.tree.depth, 1)
    ratio = (1.0 + chain_accepted(expected, length)) / (1.0 + chain_accepted(rate, length))
    return replace(row, tokens=row.tokens * max(ratio, 1.0), explained=True)


def _drafts_alone(row: Row, name: str, kind: Kind) -> bool:
    return row.drafters == (name,) and row.kind == kind and not row.explained


def _cannot_change(row: Row) -> bool:
    """Whether nobody would have chosen otherwise, although there was a choice."""
    return bool(row.offered) and (row.forced or row.policy in FIXED_POLICIES)


def _arm(row: Row) -> Arm:
    return row.drafters, row.shape if row.drafters else None


def _who(rows: Sequence[Row]) -> str:
    """Who insists."""
    forced = sum(row.forced for row in rows)
    return "a rule, or the request itself," if 2 * forced > len(rows) else f"the policy {rows[0].policy}"


def _in_words(arm: Arm) -> str:
    drafters, shape = arm
    if shape is None:
        return "plain decoding"
    return f"{' + '.join(drafters)} ({shape.depth} deep, {shape.branching} wide, {shape.budget} nodes)"


def _kinds_in_words(evidence: Evidence, name: str, kinds: Sequence[Kind]) -> str:
    return "; ".join(f"{kind} {evidence.rates[name, kind]:.0%}" for kind in kinds)
