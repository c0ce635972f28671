"""What a diagnosis says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from forerun.diagnosis.rows import Row


class Cause(Enum):
    """What can hold a fleet back (docs/diagnosis.md explains each)."""

    ABSENT_DRAFTER = "absent drafter"
    COLD_CACHE = "cold cache"
    FAR_TARGET = "far target"
    FAR_DRAFTER = "far drafter"
    SATURATED_VERIFIER = "saturated verifier"
    BUSY_DRAFTER = "busy drafter"
    SLOW_DRAFTER = "slow drafter"
    MISMATCHED_DRAFTER = "mismatched drafter"
    PINNED = "pinned against the evidence"
    LOW_ACCEPTANCE = "low acceptance"
    OVERGROWN_TREE = "overgrown tree"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """A cause, and what rounds would have been without it.

    Attributes:
        cause: Which.
        subject: Whom it is about: a drafter, a worker, a kind of text.
        says: What is so, with the figures, in a sentence.
        advice: What to change.
        figures: The same figures, for programs.
        mend: A round as it would have been, estimated.
    """

    cause: Cause
    subject: str
    says: str
    advice: str
    figures: Mapping[str, float]
    mend: Callable[[Row], Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A suspicion that is worth its repair.

    Attributes:
        cause: Which.
        subject: Whom it is about.
        says: What is so, with the figures, in a sentence.
        advice: What to change.
        gain_ms: Milliseconds a token that the repair would save, by estimate.
        share: The same as a share of what a token costs now.
        figures: For programs.
    """

    cause: Cause
    subject: str
    says: str
    advice: str
    gain_ms: float
    share: float
    figures: Mapping[str, float]


class Verdict(Enum):
    """What it comes to."""

    HEALTHY = "healthy"
    HELD_BACK = "held back"
    TOO_FEW_ROUNDS = "too few rounds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What was looked at, and what was found.

    Attributes:
        verdict: What it comes to.
        rounds: Judged.
        requests: Theirs.
        ms_per_token: What a token of one request costs now.
        findings: The dearest first.
        figures: Where a round's time goes, and what was accepted.
        first_candidates_taken: Share of a drafter's first candidates that the target took, by drafter and kind of text
            ("code on code, greedy").
    """

    verdict: Verdict
    rounds: int
    requests: int
    ms_per_token: float
    findings: tuple[Finding, ...]
    figures: Mapping[str, float]
    first_candidates_taken: Mapping[str, float]
