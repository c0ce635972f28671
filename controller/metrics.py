"""Every number that a controller tells Prometheus (docs/metrics.md is made from this list), and where it is."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate

from controller.access import Access
from controller.call_counts import CallCounts
from controller.configuration import Configuration
from controller.event_log import EventLog
from controller.meter import Meter
from controller.reception import Reception
from controller.roster import Health, Roster, Worker
from controller.rounds_sum import RoundsSum
from controller.scorer import Scorer
from controller.shared_learning import SharedLearning
from controller.snapshot import Snapshot
from controller.steering import Steering
from controller.terms import Mode
from controller.worker_client import Role
from speculation.metrics import Kind, Metric, Values
from speculation.span_metrics import span_metrics
from speculation.tracing import SpanCounts

MS = 1e-3

COUNTER, GAUGE, HISTOGRAM = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

ARM = ("drafters", "shape", "task", "policy")
WORKER = ("worker", "role", "address")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerFacts:
    """Where everything is that can be told of a controller.

    Attributes:
        meter: What requests came to.
        reception: Who is inside.
        calls: How calls ended.
        access: Who was turned away.
        fleet: The workers.
        steering: The policies.
        configuration: What is obeyed.
        scorer: Who tells what would have been drafted.
        log: The decision log, if there is one.
        learning: The part in learning with others, if there is one.
        spans: What became of those of traced requests.
        code_version: Of this program.
        unlearnt: Records of the log that were not learnt from yet, as of this moment; None: nobody knows.
    """

    meter: Meter
    reception: Reception
    calls: CallCounts
    access: Access
    fleet: Roster
    steering: Steering
    configuration: Configuration
    scorer: Scorer
    log: EventLog | None
    learning: SharedLearning | None
    spans: SpanCounts
    code_version: str
    unlearnt: int | None = None

    async def now(self) -> "ControllerFacts":
        """The same, with what has to be asked for."""
        return self if self.learning is None else replace(self, unlearnt=await self.learning.unlearnt())


def _of_arms(number: Callable[[RoundsSum], float]) -> Callable[[ControllerFacts], Values]:
    return lambda facts: {key: number(rounds) for key, rounds in facts.meter.arms.items()}


def _of_log(number: Callable[[EventLog], float]) -> Callable[[ControllerFacts], Values]:
    return lambda facts: None if facts.log is None else number(facts.log)


def _of_snapshot(number: Callable[[Snapshot], float]) -> Callable[[ControllerFacts], Values]:
    def read(facts: ControllerFacts) -> Values:
        learning = facts.learning
        return None if learning is None or learning.snapshot is None else number(learning.snapshot)

    return read


def _of_workers(number: Callable[[Worker], float]) -> Callable[[ControllerFacts], Values]:
    return lambda facts: {
        (worker.name, worker.role.value, worker.address): number(worker) for worker in facts.fleet.workers
    }


def _workers(facts: ControllerFacts) -> Values:
    """All kinds, so that a role of which nobody serves is a zero and no gap."""
    there = Counter((worker.role.value, worker.health.value) for worker in facts.fleet.workers)
    return {(role.value, health.value): there[role.value, health.value] for role in Role for health in Health}


def _accepted_by_position(facts: ControllerFacts) -> Values:
    """A round that kept n tokens kept one at each position before the nth."""
    rounds = facts.meter.accepted
    at_least = list(accumulate(reversed(rounds)))[::-1][1:]
    return {(str(position),): number for position, number in enumerate(at_least) if number}


def _queued(facts: ControllerFacts) -> Values:
    """All classes, so that an empty line is a zero and no gap."""
    reception = facts.reception
    return {(one.name,): float(reception.waiting_of(one.name)) for one in reception.precedence.classes}


def _policies(facts: ControllerFacts) -> Values:
    return {(name,): float(name == facts.steering.policy) for name in sorted(facts.steering.policies)}


def _modes(facts: ControllerFacts) -> Values:
    return {(mode.value,): float(mode is facts.steering.orders.default.mode) for mode in Mode}


def _leads(facts: ControllerFacts) -> Values:
    return None if facts.learning is None else float(facts.learning.leads)


def _follows(facts: ControllerFacts) -> Values:
    return None if facts.learning is None else float(not facts.learning.problem)


REQUESTS: tuple[Metric[ControllerFacts], ...] = (
    Metric(
        HISTOGRAM,
        "gen_ai_server_request_duration_seconds",
        "From a request's call to its end; error_type is empty where it ended well.",
        lambda facts: facts.meter.durations,
        ("error_type",),
    ),
    Metric(
        HISTOGRAM,
        "gen_ai_server_time_to_first_token_seconds",
        "From a request's call to the end of its first round.",
        lambda facts: facts.meter.first_token,
    ),
    Metric(
        HISTOGRAM,
        "gen_ai_server_time_per_output_token_seconds",
        "Time after the first round, a token that came after it; of requests that ended well.",
        lambda facts: facts.meter.per_token,
    ),
    Metric(
        HISTOGRAM,
        "gen_ai_client_token_usage",
        "Tokens a request, by gen_ai_token_type: input or output. Counted here, under the only name there is for it.",
        lambda facts: facts.meter.usage,
        ("gen_ai_token_type",),
    ),
    Metric(
        COUNTER,
        "forerun_requests_total",
        "Requests that began and have ended, by outcome: ok, cancelled, deadline, worker_error.",
        lambda facts: facts.meter.requests,
        ("outcome", "task", "policy", "tenant"),
    ),
    Metric(
        COUNTER,
        "forerun_requests_refused_total",
        "Requests turned away before they began, by the reason the caller was told.",
        lambda facts: facts.meter.refused,
        ("reason",),
    ),
    Metric(
        COUNTER,
        "forerun_calls_refused_total",
        "Calls of any service turned away at the door or over quota: UNAUTHENTICATED, ACCESS_DENIED, QUOTA.",
        lambda facts: {(reason,): count for reason, count in facts.access.refusals.counts.items()},
        ("reason",),
    ),
    Metric(GAUGE, "forerun_requests_in_flight", "Requests that run.", lambda facts: facts.reception.inside),
    Metric(GAUGE, "forerun_requests_waiting", "Of these, without a first round.", lambda facts: facts.meter.waiting),
    Metric(
        GAUGE,
        "forerun_requests_capacity",
        "Most requests at once: slots of the targets, or what is configured, and fewer while targets are strained.",
        lambda facts: facts.reception.capacity,
    ),
    Metric(GAUGE, "forerun_admission_waiting", "Requests that wait for a place.", _queued, ("latency_class",)),
    Metric(
        HISTOGRAM,
        "forerun_admission_wait_seconds",
        "From a request's arrival in line to its place.",
        lambda facts: facts.reception.waits,
        ("latency_class",),
    ),
    Metric(
        COUNTER,
        "forerun_admission_shed_total",
        "Requests turned away for want of a place, by cause: full (lines), hopeless (too long a wait, told at once), "
        "waited (as long as the class allows), displaced (by a request that goes first).",
        lambda facts: facts.reception.shed,
        ("latency_class", "cause"),
    ),
    Metric(
        GAUGE, "forerun_draining", "1 while the controller shuts down.", lambda facts: float(facts.reception.draining)
    ),
    Metric(
        COUNTER,
        "forerun_grpc_calls_total",
        "Calls of our services that have ended, by gRPC status code.",
        lambda facts: facts.calls.counts,
        ("service", "method", "code"),
    ),
)

SPECULATION: tuple[Metric[ControllerFacts], ...] = (
    Metric(
        COUNTER,
        "forerun_spec_decode_num_drafts_total",
        "Rounds with something to verify.",
        lambda facts: facts.meter.drafts,
    ),
    Metric(
        COUNTER,
        "forerun_spec_decode_num_draft_tokens_total",
        "Drafted tokens that were verified.",
        lambda facts: facts.meter.drafted,
    ),
    Metric(
        COUNTER,
        "forerun_spec_decode_num_accepted_tokens_total",
        "Drafted tokens that were kept.",
        lambda facts: sum(length * rounds for length, rounds in enumerate(facts.meter.accepted)),
    ),
    Metric(
        COUNTER,
        "forerun_spec_decode_num_accepted_tokens_per_pos_total",
        "The same by position in the draft, the first being 0.",
        _accepted_by_position,
        ("position",),
    ),
    Metric(
        COUNTER,
        "forerun_rounds_total",
        "Rounds, by drafters (joined by +), form and size of the tree asked for, task and policy.",
        _of_arms(lambda rounds: rounds.rounds),
        ARM,
    ),
    Metric(
        COUNTER,
        "forerun_drafted_tokens_total",
        "Drafted tokens that were verified, likewise.",
        _of_arms(lambda rounds: rounds.drafted_tokens),
        ARM,
    ),
    Metric(
        COUNTER,
        "forerun_accepted_tokens_total",
        "Of these, kept.",
        _of_arms(lambda rounds: rounds.accepted_tokens),
        ARM,
    ),
    Metric(
        COUNTER,
        "forerun_emitted_tokens_total",
        "Tokens that answers gained, the target's own included.",
        _of_arms(lambda rounds: rounds.emitted_tokens),
        ARM,
    ),
    Metric(
        COUNTER,
        "forerun_run_tokens_total",
        "Of these, decoded by the target without a round of their own (router.max_run).",
        lambda facts: facts.meter.run_tokens,
    ),
    Metric(
        COUNTER,
        "forerun_round_seconds_total",
        "Time of these rounds, from planning to the verdict, seconds.",
        _of_arms(lambda rounds: rounds.seconds),
        ARM,
    ),
    Metric(
        HISTOGRAM,
        "forerun_round_part_seconds",
        "Where a round's time went: waiting for drafters (draft; speculating rounds only), for the target and its run "
        "(verify), all else (controller).",
        lambda facts: {
            ("draft",): facts.meter.draft_time,
            ("verify",): facts.meter.verify_time,
            ("controller",): facts.meter.own_time,
        },
        ("part",),
    ),
    Metric(
        COUNTER,
        "forerun_foreseen_rounds_total",
        "Rounds whose drafts were all there before they were asked for.",
        lambda facts: facts.meter.foreseen_rounds,
    ),
    Metric(
        COUNTER,
        "forerun_silent_drafts_total",
        "Times a drafter had nothing to say, and knew it without a forward.",
        lambda facts: facts.meter.silences,
        ("drafter",),
    ),
    Metric(
        COUNTER,
        "forerun_missing_drafts_total",
        "Times a drafter was asked and did not answer in time.",
        lambda facts: facts.meter.missing,
        ("drafter",),
    ),
    Metric(
        COUNTER,
        "forerun_failovers_total",
        "Times a worker was lost under a request, or a drafter given up for a round.",
        lambda facts: facts.meter.failovers,
    ),
    Metric(
        COUNTER,
        "forerun_retold_tokens_total",
        "Tokens that workers had to be told again: they had forgotten them, or the session had moved.",
        lambda facts: facts.meter.retold_tokens,
    ),
    Metric(
        COUNTER,
        "forerun_near_ties_total",
        "Emitted tokens that rounding could have swapped.",
        lambda facts: facts.meter.near_ties,
    ),
)

ROUTER: tuple[Metric[ControllerFacts], ...] = (
    Metric(
        COUNTER,
        "forerun_decisions_total",
        "Rounds by policy and mode: online (the policy chose), forced, fallback, killed, observed.",
        lambda facts: facts.meter.decisions,
        ("policy", "mode"),
    ),
    Metric(HISTOGRAM, "forerun_plan_seconds", "What policies took for a plan.", lambda facts: facts.steering.plan_time),
    Metric(GAUGE, "forerun_policy", "1 for the policy in charge, 0 for the others.", _policies, ("policy",)),
    Metric(GAUGE, "forerun_mode", "1 for router.mode as it is, 0 for the others.", _modes, ("mode",)),
    Metric(
        GAUGE,
        "forerun_kill_switch",
        "1 while nothing is speculated.",
        lambda facts: float(facts.steering.kill_switch),
    ),
    Metric(COUNTER, "forerun_scored_passes_total", "Passes of idle drafters.", lambda facts: facts.scorer.scored),
    Metric(GAUGE, "forerun_scored_passes_waiting", "Passes to come.", lambda facts: facts.scorer.waiting),
    Metric(COUNTER, "forerun_scored_passes_dropped_total", "Passes given up.", lambda facts: facts.scorer.dropped),
)

LEARNING: tuple[Metric[ControllerFacts], ...] = (
    Metric(COUNTER, "forerun_log_written_total", "Records that Redis took.", _of_log(lambda log: log.written)),
    Metric(COUNTER, "forerun_log_dropped_total", "Records lost.", _of_log(lambda log: log.dropped)),
    Metric(GAUGE, "forerun_log_waiting", "Records that Redis has not taken yet.", _of_log(lambda log: log.waiting)),
    Metric(GAUGE, "forerun_log_connected", "1 if the last trip to Redis arrived.", _of_log(lambda log: log.connected)),
    Metric(GAUGE, "forerun_learning_leads", "1 if the learner of this controller learns for all.", _leads),
    Metric(GAUGE, "forerun_learning_follows", "1 if it serves by what all learnt, 0 if it learns alone.", _follows),
    Metric(
        GAUGE,
        "forerun_learning_lag_records",
        "Records in the log that what we serve by knows nothing of yet.",
        lambda facts: facts.unlearnt,
    ),
    Metric(
        GAUGE,
        "forerun_learning_snapshot_timestamp_seconds",
        "When what we serve by was written, Unix time.",
        _of_snapshot(lambda snapshot: snapshot.written_ms * MS),
    ),
    Metric(
        GAUGE,
        "forerun_learning_model_version",
        "Promoted version that the learning went on from; 0: from nothing.",
        _of_snapshot(lambda snapshot: snapshot.base),
    ),
    # Gauges: a promotion begins anew.
    Metric(
        GAUGE,
        "forerun_learning_folded_records",
        "Records learnt since that version.",
        _of_snapshot(lambda snapshot: snapshot.folded),
    ),
    Metric(
        GAUGE,
        "forerun_learning_missed_records",
        "Records since then that were trimmed from the log before they were read.",
        _of_snapshot(lambda snapshot: snapshot.missed),
    ),
    Metric(
        GAUGE,
        "forerun_learning_unreadable_records",
        "Records since then that could not be read.",
        _of_snapshot(lambda snapshot: snapshot.unreadable),
    ),
)

FLEET: tuple[Metric[ControllerFacts], ...] = (
    Metric(GAUGE, "forerun_workers", "Workers, by role and health.", _workers, ("role", "health")),
    Metric(
        GAUGE,
        "forerun_worker_serving",
        "1 for a worker that can be asked.",
        _of_workers(lambda worker: float(worker.serving)),
        WORKER,
    ),
    Metric(
        GAUGE,
        "forerun_worker_sessions",
        "Sessions that this controller has open on a worker.",
        _of_workers(lambda worker: worker.open_sessions),
        WORKER,
    ),
    Metric(
        GAUGE,
        "forerun_worker_slots",
        "Sessions whose caches fit there at once; 0 until it has said so.",
        _of_workers(lambda worker: worker.description.slots if worker.description is not None else 0),
        WORKER,
    ),
    Metric(
        COUNTER,
        "forerun_worker_ejections_total",
        "Times a worker was asked nothing more for a while: it failed, was late, or much slower than its peers.",
        _of_workers(lambda worker: worker.ejections),
        WORKER,
    ),
    Metric(
        GAUGE,
        "forerun_worker_on_probation",
        "1 for a worker that was ejected and is given one session at a time until it has done well for a while.",
        _of_workers(lambda worker: float(bool(worker.on_probation))),
        WORKER,
    ),
    Metric(
        COUNTER,
        "forerun_moves_denied_total",
        "Requests given up rather than moved to one more worker: too many had been moved in vain.",
        lambda facts: facts.fleet.retries.denied,
    ),
)

CONFIGURATION: tuple[Metric[ControllerFacts], ...] = (
    Metric(
        GAUGE,
        "forerun_config_info",
        "1; the hash of the configuration in force, as in the decision log.",
        lambda facts: {(facts.configuration.settings.content_hash,): 1.0},
        ("hash",),
    ),
    Metric(
        COUNTER, "forerun_config_reloads_total", "Times it was replaced.", lambda facts: facts.configuration.reloads
    ),
    Metric(
        COUNTER,
        "forerun_config_refused_total",
        "Times its file was read and refused.",
        lambda facts: facts.configuration.refusals,
    ),
    Metric(
        GAUGE,
        "forerun_config_wrong",
        "1 while the file as it is now is wrong, and so not in force.",
        lambda facts: float(bool(facts.configuration.problem)),
    ),
    Metric(
        GAUGE,
        "forerun_config_waiting_for_restart",
        "Fields that the file changes and that only a restart can.",
        lambda facts: len(facts.configuration.waiting_for_restart),
    ),
    Metric(
        GAUGE,
        "forerun_build_info",
        "1; the version of the program.",
        lambda facts: {(facts.code_version,): 1.0},
        ("version",),
    ),
)

TRACES: tuple[Metric[ControllerFacts], ...] = span_metrics(lambda facts: facts.spans)

METRICS = (*REQUESTS, *SPECULATION, *ROUTER, *LEARNING, *FLEET, *CONFIGURATION, *TRACES)
