"""What `forerun top` shows: two readings of a controller's metrics, and what happened between them."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from urllib.error import URLError
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from speculation.errors import WorkerUnavailableError

TIMEOUT_S = 10.0

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reading:
    """Every number of a process at one moment.

    Attributes:
        at_s: When, by a clock that only runs forwards.
        samples: By name and labels.
    """

    at_s: float
    samples: Mapping[str, Mapping[Labels, float]]

    @classmethod
    def of(cls, text: str, at_s: float) -> "Reading":
        """What a scrape says."""
        samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return cls(at_s, samples)

    def sum(self, name: str, **labels: str) -> float:
        """Of all samples of that name with at least these labels; 0 if there is none."""
        wanted = labels.items()
        return sum(value for told, value in self.samples.get(name, {}).items() if wanted <= dict(told).items())

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The same for each combination of the values of these labels."""
        sums: dict[tuple[str, ...], float] = {}
        for told, value in self.samples.get(name, {}).items():
            key = tuple(dict(told).get(label, "") for label in labels)
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def named(self, name: str, label: str) -> str:
        """The value of a label of the sample that is 1; empty if none is."""
        return next((value for (value,), number in self.by(name, label).items() if number == 1), "")

    def one(self, name: str) -> float | None:
        """The one sample of that name; None if it is not told."""
        return next(iter(self.samples.get(name, {}).values()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafting:
    """What rounds of some drafters, or under a policy, came to in the interval.

    Attributes:
        name: Of the drafters, joined by +, or of the policy.
        rounds_per_second: How many.
        accepted_per_round: Drafted tokens kept.
        accepted_share: Of the drafted tokens.
        tokens_per_second: Emitted, per second of these rounds: how fast a request goes with them.
    """

    name: str
    rounds_per_second: float
    accepted_per_round: float
    accepted_share: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoad:
    """A worker as the controller sees it."""

    name: str
    role: str
    address: str
    serving: bool
    sessions: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopView:
    """A controller between two readings.

    Attributes:
        interval_s: Between them.
        requests_per_second: That ended.
        tokens_per_second: Emitted, by all requests together.
        accepted_per_round: Drafted tokens kept, of rounds with something to verify.
        refused_per_second: Requests turned away.
        failed_per_second: Requests that ended otherwise than well.
        in_flight: Requests inside, now.
        waiting: Of these, without a first round.
        capacity: Most requests at once.
        in_line: Requests that wait for a place, by class, where any does.
        first_token_s: Mean time to the first round's end; None: there was none.
        policy: In charge.
        mode: How much say it has.
        kill_switch: Whether nothing is speculated.
        config_wrong: Whether the configuration file is not in force because it is wrong.
        learning_lag: Records not learnt yet; None: nothing is shared.
        log_dropped: Records lost since the controller began; None: there is no log.
        by_drafters: The busiest first.
        by_policy: Likewise.
        workers: Those of the controller.
    """

    interval_s: float
    requests_per_second: float
    tokens_per_second: float
    accepted_per_round: float
    refused_per_second: float
    failed_per_second: float
    in_flight: int
    waiting: int
    capacity: int
    in_line: Mapping[str, int]
    first_token_s: float | None
    policy: str
    mode: str
    kill_switch: bool
    config_wrong: bool
    learning_lag: int | None
    log_dropped: int | None
    by_drafters: tuple[Drafting, ...]
    by_policy: tuple[Drafting, ...]
    workers: tuple[WorkerLoad, ...]


def looks(address: str, *, interval_s: float, sleep: Callable[[float], None] = time.sleep) -> Iterator[TopView]:
    """A view after each interval, for ever.

    Raises:
        WorkerUnavailableError: No controller tells its metrics there.
    """
    before = look(address)
    while True:
        sleep(interval_s)
        now = look(address)
        yield compared(before, now)
        before = now


def look(address: str) -> Reading:
    """The metrics of a controller now; raises as `looks`."""
    try:
        with urlopen(f"http://{address}/metrics", timeout=TIMEOUT_S) as answer:
            text: str = answer.read().decode()
    except (URLError, HTTPException, OSError, ValueError) as error:
        raise WorkerUnavailableError(
            f"no metrics at {address}: {getattr(error, 'reason', error)}; start a fleet with `forerun up --metrics "
            f"{address}`, or name another address with --metrics"
        ) from error
    reading = Reading.of(text, time.monotonic())
    if reading.one("forerun_requests_capacity") is None:
        raise WorkerUnavailableError(f"the metrics at {address} are not those of a controller")
    return reading


def compared(before: Reading, now: Reading) -> TopView:
    """What happened between two readings. A controller that was started anew between them has begun at nothing."""
    interval_s = max(now.at_s - before.at_s, 1e-9)

    def gain(name: str, **labels: str) -> float:
        then = before.sum(name, **labels)
        return max(now.sum(name, **labels) - then, 0.0)

    requests = "forerun_requests_total"
    first, firsts = (gain(f"gen_ai_server_time_to_first_token_seconds_{part}") for part in ("sum", "count"))
    drafts = gain("forerun_spec_decode_num_drafts_total")
    accepted = gain("forerun_spec_decode_num_accepted_tokens_total")
    lag, dropped = now.one("forerun_learning_lag_records"), now.one("forerun_log_dropped_total")
    return TopView(
        interval_s=interval_s,
        requests_per_second=gain(requests) / interval_s,
        tokens_per_second=gain("forerun_emitted_tokens_total") / interval_s,
        accepted_per_round=_ratio(accepted, drafts),
        refused_per_second=gain("forerun_requests_refused_total") / interval_s,
        failed_per_second=(gain(requests) - gain(requests, outcome="ok")) / interval_s,
        in_flight=int(now.sum("forerun_requests_in_flight")),
        waiting=int(now.sum("forerun_requests_waiting")),
        capacity=int(now.sum("forerun_requests_capacity")),
        in_line=_in_line(now),
        first_token_s=first / firsts if firsts else None,
        policy=now.named("forerun_policy", "policy"),
        mode=now.named("forerun_mode", "mode"),
        kill_switch=bool(now.sum("forerun_kill_switch")),
        config_wrong=bool(now.sum("forerun_config_wrong")),
        learning_lag=None if lag is None else int(lag),
        log_dropped=None if dropped is None else int(dropped),
        by_drafters=_drafting(before, now, interval_s, "drafters"),
        by_policy=_drafting(before, now, interval_s, "policy"),
        workers=_workers(now),
    )


def _in_line(now: Reading) -> Mapping[str, int]:
    waiting = now.by("forerun_admission_waiting", "latency_class")
    return {name: int(number) for (name,), number in waiting.items() if number}


def _drafting(before: Reading, now: Reading, interval_s: float, label: str) -> tuple[Drafting, ...]:
    def gains(name: str) -> dict[str, float]:
        then = before.by(name, label)
        return {key: max(value - then.get((key,), 0.0), 0.0) for (key,), value in now.by(name, label).items()}

    rounds, drafted = gains("forerun_rounds_total"), gains("forerun_drafted_tokens_total")
    accepted, emitted = gains("forerun_accepted_tokens_total"), gains("forerun_emitted_tokens_total")
    seconds = gains("forerun_round_seconds_total")
    found = [
        Drafting(
            name=name,
            rounds_per_second=count / interval_s,
            accepted_per_round=_ratio(accepted[name], count),
            accepted_share=_ratio(accepted[name], drafted[name]),
            tokens_per_second=_ratio(emitted[name], seconds[name]),
        )
        for name, count in rounds.items()
        if count
    ]
    return tuple(sorted(found, key=lambda one: (-one.rounds_per_second, one.name)))


def _workers(now: Reading) -> tuple[WorkerLoad, ...]:
    labels = ("worker", "role", "address")
    sessions, slots = now.by("forerun_worker_sessions", *labels), now.by("forerun_worker_slots", *labels)
    return tuple(
        WorkerLoad(
            name=name,
            role=role,
            address=address,
            serving=bool(serving),
            sessions=int(sessions.get((name, role, address), 0)),
            slots=int(slots.get((name, role, address), 0)),
        )
        for (name, role, address), serving in now.by("forerun_worker_serving", *labels).items()
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
