"""Causes that make a round take longer than it should: who was waited for, and why.

Each looks at rounds that are as they would be without the causes before it, and says how a round would be without its
own. Estimates are meant to be low rather than high.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from forerun.diagnosis.evidence import MIN_GROUP, Evidence, grouped, mean, median, quantile
from forerun.diagnosis.findings import Cause, Suspicion
from forerun.diagnosis.rows import Answer, Row

USUAL_LINK_MS = 2.0
"""A call and its reply between neighbours, the messages' making and reading included (docs/log.md: 1.3 to 1.5)."""

LINK_QUANTILE = 0.25
"""A long way delays every call; a busy machine only some. So links are judged by their quicker calls."""

TIMES_SLOWER = 2.0
"""A drafter that needs this many times what its peers need for a forward is slow."""

QUICK_ENOUGH = 0.25
"""Share of a target's forward: a drafter's forward of no more pays almost anywhere, whatever its peers need."""


def absent_drafters(evidence: Evidence) -> Iterator[Suspicion]:
    """Drafters that were asked and did not answer: the target stood ready meanwhile."""
    speculating = [row for row in evidence.rows if row.drafters]
    usual_ms = median(row.draft_ms for row in speculating if row.undisturbed)
    for name in sorted({name for row in speculating for name in row.missing}):
        asked = [row for row in speculating if name in row.drafters]
        missed = [row for row in asked if name in row.missing]
        waited_ms = mean(row.draft_ms for row in missed)
        yield Suspicion(
            cause=Cause.ABSENT_DRAFTER,
            subject=name,
            says=f"{name} did not answer in {len(missed)} of the {len(asked)} rounds that asked it; each such round "
            f"spent {waited_ms:.0f} ms on drafting, others {usual_ms:.0f} ms",
            advice=f"see why {name} fails (`forerun router show`, the worker's log), deny it with a rule "
            "(denied_drafters), or wait less for it: timeouts.draft_timeout_s",
            figures={"rounds_missed": len(missed), "rounds_asked": len(asked), "waited_ms": waited_ms},
            mend=_without_waiting(name, usual_ms),
        )


def _without_waiting(name: str, usual_ms: float) -> Callable[[Row], Row]:
    return lambda row: replace(row, draft_ms=min(row.draft_ms, usual_ms)) if name in row.missing else row


def cold_caches(evidence: Evidence) -> Iterator[Suspicion]:
    """Sessions that moved or were forgotten: their text was read all over again."""
    disturbed = [row for row in evidence.rows if _told_again(row)]
    if not disturbed:
        return
    calm = [row for row in evidence.rows if row.undisturbed]
    draft_ms, verify_ms = (median(row.draft_ms for row in calm), median(row.verify_ms for row in calm))
    tokens, moves = sum(row.retold for row in disturbed), sum(row.moves for row in disturbed)

    def mend(row: Row) -> Row:
        if not _told_again(row):
            return row
        return replace(row, draft_ms=min(row.draft_ms, draft_ms), verify_ms=min(row.verify_ms, verify_ms))

    yield Suspicion(
        cause=Cause.COLD_CACHE,
        subject="sessions",
        says=f"workers had to be told {tokens} tokens again in {len(disturbed)} of {len(evidence.rows)} rounds, and "
        f"{moves} sessions moved; such a round took {mean(row.cost_ms for row in disturbed):.0f} ms, others "
        f"{mean(row.cost_ms for row in calm):.0f} ms",
        advice="give workers room for all sessions at once (worker --slots, more workers)"
        + ("; find out why workers were lost: `forerun router show` and their logs" if moves else ""),
        figures={"retold_tokens": tokens, "moves": moves, "rounds": len(disturbed)},
        mend=mend,
    )


def _told_again(row: Row) -> bool:
    return bool(row.retold or row.moves) and not row.missing


def far_targets(evidence: Evidence) -> Iterator[Suspicion]:
    """The way to a verify worker: what its calls take beyond what it counts as its own."""
    told = (row for row in evidence.rows if row.verify_worker_ms > 0)
    for address, rows in grouped(told, lambda row: row.target).items():
        link_ms = quantile((row.verify_ms - row.verify_worker_ms for row in rows), LINK_QUANTILE)
        if len(rows) < MIN_GROUP or link_ms <= USUAL_LINK_MS:
            continue
        yield Suspicion(
            cause=Cause.FAR_TARGET,
            subject=address or "target",
            says=f"the way to the target{_at(address)} and back takes {link_ms:.1f} ms a round (three calls of four "
            f"take longer); its own work {median(row.verify_worker_ms for row in rows):.1f} ms",
            advice="run controller and target in one rack or on one machine, and see what stands between them (proxy, "
            "mesh, VPN)",
            figures={"link_ms": link_ms, "rounds": len(rows)},
            mend=_with_nearer_target(address, link_ms - USUAL_LINK_MS),
        )


def _with_nearer_target(address: str, saved_ms: float) -> Callable[[Row], Row]:
    def mend(row: Row) -> Row:
        if row.target != address or row.verify_worker_ms <= 0:
            return row
        return replace(row, verify_ms=max(row.verify_ms - saved_ms, min(row.verify_ms, row.verify_worker_ms)))

    return mend


def far_drafters(evidence: Evidence) -> Iterator[Suspicion]:
    """The way to a draft worker, likewise."""
    for (name, address), answers in _by_worker(evidence).items():
        link_ms = quantile((one.elapsed_ms - one.worker_ms for one in answers), LINK_QUANTILE)
        if len(answers) < MIN_GROUP or link_ms <= USUAL_LINK_MS:
            continue
        saved_ms = link_ms - USUAL_LINK_MS
        yield Suspicion(
            cause=Cause.FAR_DRAFTER,
            subject=name,
            says=f"the way to the drafter {name}{_at(address)} and back takes {link_ms:.1f} ms a round (three calls of "
            f"four take longer); its own work {median(one.worker_ms for one in answers):.1f} ms",
            advice=f"run {name} near the controller, and see what stands between them (proxy, mesh, VPN)",
            figures={"link_ms": link_ms, "rounds": len(answers)},
            mend=_with_answers_of(
                name,
                address,
                lambda one, saved_ms=saved_ms: replace(  # type: ignore[misc]
                    one, elapsed_ms=max(one.elapsed_ms - saved_ms, min(one.elapsed_ms, one.worker_ms))
                ),
            ),
        )


def saturated_verifiers(evidence: Evidence) -> Iterator[Suspicion]:
    """Requests that wait for the target's engine, or share its forwards with many."""
    _, each_ms = evidence.forward_costs
    rows = [row for row in evidence.rows if row.verify_worker_ms > 0]
    if len(rows) < MIN_GROUP:
        return
    targets = len({row.target for row in rows})

    def sharing_ms(row: Row) -> float:
        return row.verify_queue_ms + each_ms * (row.batch - 1) * (len(row.tree) + 1)

    def mend(row: Row) -> Row:
        return replace(row, verify_ms=max(row.verify_ms - sharing_ms(row) / (targets + 1), 0.0))

    queue_ms = mean(row.verify_queue_ms for row in rows)
    batch, compute_ms = mean(row.batch for row in rows), mean(row.verify_compute_ms for row in rows)
    shared_ms = mean(sharing_ms(row) for row in rows)
    yield Suspicion(
        cause=Cause.SATURATED_VERIFIER,
        subject="target",
        says=f"requests wait {queue_ms:.1f} ms a round for the target and then share its forwards with "
        f"{batch - 1:.1f} others ({compute_ms:.1f} ms a forward); alone a round would take {shared_ms:.1f} ms less",
        advice=f"add a verify worker (there {'is' if targets == 1 else 'are'} {targets}; another one would take about "
        f"1/{targets + 1} of that), or verify smaller trees under load: the planner does, a rule's max_nodes forces it",
        figures={"queue_ms": queue_ms, "batch": batch, "compute_ms": compute_ms, "shared_ms": shared_ms},
        mend=mend,
    )


def busy_drafters(evidence: Evidence) -> Iterator[Suspicion]:
    """Drafters whose engine is taken when a request asks."""
    workers = _by_worker(evidence)
    for name, addresses in grouped(workers, lambda key: key[0]).items():
        answers = [one for key in addresses for one in workers[key]]
        if len(answers) < MIN_GROUP:
            continue
        queue_ms, beside = mean(one.queue_ms for one in answers), len(addresses) + 1
        yield Suspicion(
            cause=Cause.BUSY_DRAFTER,
            subject=name,
            says=f"requests wait {queue_ms:.1f} ms a round until the drafter {name} has time for them; it then works "
            f"{median(one.compute_ms for one in answers):.1f} ms",
            advice=f"add a worker for {name} (it would take about 1/{beside} of that), or let other drafters share its "
            "requests: the planner does",
            figures={"queue_ms": queue_ms, "rounds": len(answers)},
            mend=_with_answers_of(
                name,
                None,
                lambda one, beside=beside: replace(  # type: ignore[misc]
                    one, elapsed_ms=one.elapsed_ms - min(one.queue_ms / beside, one.elapsed_ms)
                ),
            ),
        )


def slow_drafters(evidence: Evidence) -> Iterator[Suspicion]:
    """Drafters whose forwards take much longer than those of their peers, or than a drafter's may."""
    forward_ms = evidence.draft_forward_ms
    fixed_ms, each_ms = evidence.forward_costs
    target_ms = fixed_ms + each_ms
    for (name, address), own_ms in forward_ms.items():
        peers = [ms for key, ms in forward_ms.items() if key != (name, address)]
        usual_ms = median(peers) if peers else QUICK_ENOUGH * target_ms
        if own_ms <= max(TIMES_SLOWER * usual_ms, QUICK_ENOUGH * target_ms):
            continue
        against = f"its peers {usual_ms:.1f} ms" if peers else f"a quarter of the target's would be {usual_ms:.1f} ms"
        yield Suspicion(
            cause=Cause.SLOW_DRAFTER,
            subject=name,
            says=f"the drafter {name}{_at(address)} takes {own_ms:.1f} ms for a forward; {against}, the target "
            f"{target_ms:.1f} ms",
            advice=f"see what slows {name} down (its machine, --threads, --device, a model too large to draft), or "
            "deny it with a rule (denied_drafters)",
            figures={"forward_ms": own_ms, "usual_ms": usual_ms, "target_forward_ms": target_ms},
            mend=_with_answers_of(name, address, _quicker(usual_ms / own_ms)),
        )


def _quicker(ratio: float) -> Callable[[Answer], Answer]:
    def mend(one: Answer) -> Answer:
        compute_ms = one.compute_ms * ratio
        return replace(one, compute_ms=compute_ms, elapsed_ms=one.elapsed_ms - (one.compute_ms - compute_ms))

    return mend


def _at(address: str) -> str:
    return f" at {address}" if address else ""


def _by_worker(evidence: Evidence) -> dict[tuple[str, str], list[Answer]]:
    """The answers that say how long the worker itself took, by drafter and address."""
    told = (one for row in evidence.rows for one in row.answers if one.worker_ms > 0)
    return grouped(told, lambda one: (one.drafter, one.address))


def _with_answers_of(name: str, address: str | None, mend: Callable[[Answer], Answer]) -> Callable[[Row], Row]:
    """Rounds in which one drafter (at one address, or at any) answered otherwise."""

    def concerns(one: Answer) -> bool:
        return one.drafter == name and address in (None, one.address)

    def mended(row: Row) -> Row:
        if not any(map(concerns, row.answers)):
            return row
        return row.with_answers(mend(one) if concerns(one) else one for one in row.answers)

    return mended
