"""The judgement: causes in turn, each on what the causes before it leave, in one currency: milliseconds a token."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from forerun.diagnosis.choices import low_acceptance, mismatched_drafters, nobody_to_draft, pinned_against_the_evidence
from forerun.diagnosis.delays import (
    absent_drafters,
    busy_drafters,
    cold_caches,
    far_drafters,
    far_targets,
    saturated_verifiers,
    slow_drafters,
)
from forerun.diagnosis.evidence import Evidence, mean
from forerun.diagnosis.findings import Diagnosis, Finding, Suspicion, Verdict
from forerun.diagnosis.rows import Answer, Row
from forerun.diagnosis.trees import overgrown_trees

WORTH_TELLING = 0.05
"""Share of a token's time below which a repair is not worth an operator's attention."""

ENOUGH_ROUNDS = 50

Causes = Sequence[Callable[[Evidence], Iterable[Suspicion]]]

CAUSES: Causes = (
    absent_drafters,
    cold_caches,
    far_targets,
    far_drafters,
    saturated_verifiers,
    busy_drafters,
    slow_drafters,
    nobody_to_draft,
    mismatched_drafters,
    pinned_against_the_evidence,
    low_acceptance,
    overgrown_trees,
)
"""From what disturbs all measurements to what is judged by them: a tree looks too deep while its drafter is slow."""


def diagnose(rows: Sequence[Row], *, causes: Causes = CAUSES) -> Diagnosis:
    """What holds these rounds back.

    A finding's gain is what its repair would save once the causes before it are repaired, so that no time is told
    twice; what is worth too little is left as it is.
    """
    now = Evidence(rows)
    findings: list[Finding] = []
    if len(rows) >= ENOUGH_ROUNDS:
        left = now
        for cause in causes:
            for suspicion in cause(left):
                repaired = left.mended(suspicion.mend)
                gain_ms = left.ms_per_token - repaired.ms_per_token
                if gain_ms >= WORTH_TELLING * now.ms_per_token > 0:
                    findings.append(_finding(suspicion, gain_ms, now.ms_per_token))
                    left = repaired
    enough = len(rows) >= ENOUGH_ROUNDS
    return Diagnosis(
        verdict=(Verdict.HELD_BACK if findings else Verdict.HEALTHY) if enough else Verdict.TOO_FEW_ROUNDS,
        rounds=len(rows),
        requests=len({row.request_id for row in rows}),
        ms_per_token=now.ms_per_token,
        findings=tuple(sorted(findings, key=lambda finding: -finding.gain_ms)),
        figures=figures_of(now),
        first_candidates_taken={f"{drafter} on {kind}": rate for (drafter, kind), rate in now.rates.items()},
    )


def _finding(suspicion: Suspicion, gain_ms: float, ms_per_token: float) -> Finding:
    return Finding(
        cause=suspicion.cause,
        subject=suspicion.subject,
        says=suspicion.says,
        advice=suspicion.advice,
        gain_ms=gain_ms,
        share=gain_ms / ms_per_token,
        figures=suspicion.figures,
    )


def figures_of(evidence: Evidence) -> Mapping[str, float]:
    """What was looked at: means over the rounds, in milliseconds where the name says so."""
    rows = evidence.rows
    slowest = [_slowest(row) for row in rows]
    drafted = sum(len(row.tree) for row in rows)
    return {
        "tokens_per_round": mean(row.tokens for row in rows),
        "drafted_per_round": mean(len(row.tree) for row in rows),
        "accepted_share": sum(len(row.accepted) for row in rows) / drafted if drafted else 0.0,
        "round_ms": mean(row.cost_ms for row in rows),
        "draft_ms": mean(row.draft_ms for row in rows),
        "draft_queue_ms": mean(one.queue_ms for one in slowest),
        "draft_link_ms": mean(max(one.elapsed_ms - one.worker_ms, 0.0) for one in slowest),
        "verify_ms": mean(row.verify_ms for row in rows),
        "verify_queue_ms": mean(row.verify_queue_ms for row in rows),
        "verify_link_ms": mean(max(row.verify_ms - row.verify_worker_ms, 0.0) for row in rows),
        "verify_batch": mean(row.batch for row in rows),
        "other_ms": mean(row.other_ms for row in rows),
    }


def _slowest(row: Row) -> Answer:
    return max(row.answers, key=lambda one: one.elapsed_ms, default=Answer(drafter=""))
