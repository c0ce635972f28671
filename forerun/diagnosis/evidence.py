"""What many rounds say together: what a token costs, what forwards cost, whose candidates are taken."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from forerun.diagnosis.rows import Answer, Kind, Row

MIN_GROUP = 20
"""Rounds (or candidates) below which a group of them says nothing."""

PRIOR_NODE_SHARE = 0.02
"""Of a forward's fixed cost, what one more token in it costs, where the log cannot tell: as in
router_models/cost_model.py before anything was measured."""

PRIOR_ROUNDS = 3.0
"""Rounds that this guess is worth."""

DOUBT = 2.0
"""Standard errors by which something must be worse, or better, before it is called so."""

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Evidence:
    """Rounds, and what they say together."""

    rows: Sequence[Row]

    def mended(self, mend: Callable[[Row], Row]) -> "Evidence":
        """What they would have been after a repair."""
        return Evidence([mend(row) for row in self.rows])

    @cached_property
    def ms_per_token(self) -> float:
        """What a token of one request costs."""
        return pace(self.rows)

    @cached_property
    def forward_costs(self) -> tuple[float, float]:
        """Milliseconds of a target forward: fixed, and for each token in it.

        Least squares through the medians of forwards of equal size; sessions that share one are taken to be alike.
        """
        by_size = grouped(
            (row for row in self.rows if row.verify_compute_ms > 0), lambda row: row.batch * (len(row.tree) + 1)
        )
        if not by_size:
            return 0.0, 0.0
        sizes = np.array(list(by_size), dtype=np.float64)
        costs = np.array([median(row.verify_compute_ms for row in group) for group in by_size.values()])
        counts = np.sqrt([len(group) for group in by_size.values()])
        scale = PRIOR_ROUNDS**0.5 * sizes.mean()
        system = np.vstack((np.stack((counts, counts * sizes), axis=1), (-PRIOR_NODE_SHARE * scale, scale)))
        fixed, each = np.linalg.lstsq(system, np.append(counts * costs, 0.0), rcond=None)[0]
        if each < 0:
            return float(np.median(costs)), 0.0
        return max(float(fixed), 0.0), float(each)

    @cached_property
    def draft_forward_ms(self) -> Mapping[tuple[str, str], float]:
        """What one forward takes, by drafter and address; a request's first round reads its prompt and is left out."""
        answers = grouped(
            (answer for row in self.rows if row.number > 0 and not row.retold for answer in row.answers),
            lambda answer: (answer.drafter, answer.address),
        )
        measured = {key: [one for one in group if one.forwards] for key, group in answers.items()}
        return {
            key: median(one.compute_ms / one.forwards for one in group)
            for key, group in measured.items()
            if len(group) >= MIN_GROUP
        }

    def level_ms(self, drafters: Iterable[str]) -> float:
        """What one more level costs with these drafters: a forward of the slowest; 0 where nobody knows."""
        wanted = set(drafters)
        return max((ms for (name, _), ms in self.draft_forward_ms.items() if name in wanted), default=0.0)

    @cached_property
    def rates(self) -> Mapping[tuple[str, Kind], float]:
        """How often the target takes a drafter's first candidate, by drafter and kind of text."""
        return {key: found / looked for key, (found, looked) in self._candidates.items()}

    @cached_property
    def rates_at_most(self) -> Mapping[tuple[str, Kind], float]:
        """The same, had chance been against the drafter: DOUBT standard errors more, and one success."""
        return {
            key: (rate := (found + 1.0) / (looked + 1.0)) + DOUBT * (rate * (1.0 - rate) / looked) ** 0.5
            for key, (found, looked) in self._candidates.items()
        }

    @cached_property
    def _candidates(self) -> Mapping[tuple[str, Kind], tuple[float, float]]:
        """First candidates that were taken, and all of them, where there are enough."""
        counts: dict[tuple[str, Kind], tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
        for row in self.rows:
            for answer in row.answers:
                found, looked = counts[answer.drafter, row.kind]
                counts[answer.drafter, row.kind] = found + answer.found, looked + answer.looked
        return {key: count for key, count in counts.items() if count[1] >= MIN_GROUP}

    @cached_property
    def surprisals(self) -> Mapping[tuple[str, Kind], float]:
        """Median nats per token of the prompts that a drafter has read, by drafter and kind of text."""
        read: dict[tuple[str, Kind], list[float]] = defaultdict(list)
        for row in self.rows:
            for name, nats in row.surprisal.items():
                read[name, row.kind].append(nats)
        return {key: median(values) for key, values in read.items() if len(values) >= MIN_GROUP}


def pace(rows: Iterable[Row]) -> float:
    """Milliseconds a token; 0 for no rounds."""
    rows = tuple(rows)
    tokens = sum(row.tokens for row in rows)
    return sum(row.cost_ms for row in rows) / tokens if tokens else 0.0


def pace_at_most(rows: Sequence[Row]) -> float:
    """The same, DOUBT standard errors more: what a group has achieved by more than luck."""
    tokens, ms_per_token = sum(row.tokens for row in rows), pace(rows)
    scatter = sum((row.cost_ms - ms_per_token * row.tokens) ** 2 for row in rows)
    return ms_per_token + DOUBT * scatter**0.5 / tokens if tokens else 0.0


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by key, in the order in which the keys appear."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def median(values: Iterable[float]) -> float:
    """The middle one; 0 of none."""
    return quantile(values, 0.5)


def quantile(values: Iterable[float], share: float) -> float:
    """The value below which a share of them lies; 0 of none."""
    listed = list(values)
    return float(np.quantile(listed, share)) if listed else 0.0


def mean(values: Iterable[float]) -> float:
    """0 of none."""
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


def answers_of(rows: Iterable[Row], drafter: str, address: str) -> list[Answer]:
    """What one drafter's worker answered."""
    return [answer for row in rows for answer in row.answers if (answer.drafter, answer.address) == (drafter, address)]
