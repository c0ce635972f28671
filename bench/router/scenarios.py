"""What a router must stand: cold start, shifting traffic, drafters that come, change and fail."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from bench.router.costs import CostProfile
from bench.router.recording import RecordedRequest, Recording
from bench.router.replay import ReplayedFleet, Served
from bench.router.traffic import PLAIN, FixedChoices, own_voices, serve, traffic
from forerun.workload import PLAIN_DOMAINS, right_drafter
from router_models.offline.logged import LoggedRound, split_by_time
from router_models.offline.training import taught
from router_models.plan import Plan
from router_models.policy import LearningPolicy, Policy, RoundContext, RoundOutcome

WINDOW = 20
"""Requests of a moving mean."""

BACK = 0.95
"""Of the oracle: when a policy counts as recovered."""

FLOOR_WINDOW = 50
"""Requests over which a policy is held against plain decoding."""

FLIP = (("code", "docs"), ("math", "json"))
"""Domains before and after the traffic changes."""

REPLACED, IMPOSTOR = "code", "math"
"""Whose name another drafter takes, and whose drafts come under it from then on."""

NEWCOMER = "json"
"""Who joins late."""

SCORING_SHARE = 0.1
"""Of answers scored by idle drafters while a prior is learnt: as a controller has it where nobody says otherwise."""

DECISION_DRAFTERS, DECISION_ARMS = 8, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What all scenarios stand on.

    Attributes:
        recording: What the models say.
        costs: What it takes.
        choices: What fixed choices need.
        warm_up: Requests before anything is measured.
        measured: Requests measured then.
    """

    recording: Recording
    costs: CostProfile
    choices: FixedChoices
    warm_up: int
    measured: int

    def fleet(self, seed: int, voices: Mapping[str, str] | None = None) -> ReplayedFleet:
        """All drafters, or those named, with the seed's noise on times."""
        voices = own_voices(self.recording) if voices is None else voices
        return ReplayedFleet(recording=self.recording, costs=self.costs, voices=voices, seed=seed)

    def requests_of(self, prompt_sets: Iterable[str]) -> list[RecordedRequest]:
        """The recorded requests of these sets."""
        wanted = set(prompt_sets)
        return [request for request in self.recording.requests if request.prompt_set in wanted]


def cold_start(stage: Stage, policy: Policy, *, seed: int) -> list[Served]:
    """Unlabelled traffic of all sets and temperatures, served by a policy that knows nothing."""
    return serve(
        stage.fleet(seed), policy, traffic(stage.recording.requests, stage.warm_up + stage.measured, seed=seed)
    )


def hybrid_gain(
    stage: Stage, adaptive: Policy, frozen: Policy, *, seed: int, voices: Mapping[str, str] | None = None
) -> float:
    """Tokens a second on hybrid prompts of a policy over those of its frozen twin; both have served mixed traffic.

    Args:
        stage: On which.
        adaptive: Plans every round anew.
        frozen: Keeps to a request's first plan.
        seed: Of orders and noise.
        voices: Drafters on offer, if not all.
    """
    before = traffic(stage.recording.requests, stage.warm_up, seed=seed)
    hybrid = traffic(stage.requests_of(("hybrid",)), max(stage.measured // 2, 1), seed=seed)
    took = []
    for policy in (adaptive, frozen):
        fleet = stage.fleet(seed, voices)
        serve(fleet, policy, before)
        took.append(sum(entry.ms for entry in serve(fleet, policy, hybrid, first_number=len(before))))
    return took[1] / took[0]


def drift(stage: Stage, new_policy: Callable[[], Policy], *, seed: int) -> Mapping[str, int]:
    """Requests until a policy is back at BACK of the new oracle, by what changed."""
    everything = stage.recording.requests
    mine = own_voices(stage.recording)
    early = {name: voice for name, voice in mine.items() if name != NEWCOMER}
    changes = {
        "flip": _Change(stage.requests_of(FLIP[0]), stage.requests_of(FLIP[1]), mine, mine),
        "replaced": _Change(everything, everything, mine, mine | {REPLACED: IMPOSTOR}),
        "joined": _Change(everything, everything, early, mine),
    }
    return {name: _requests_until_back(stage, new_policy(), change, seed=seed) for name, change in changes.items()}


@dataclass(frozen=True, slots=True)
class _Change:
    """Traffic and voices before and after."""

    before: Sequence[RecordedRequest]
    after: Sequence[RecordedRequest]
    voices_before: Mapping[str, str]
    voices_after: Mapping[str, str]


def _requests_until_back(stage: Stage, policy: Policy, change: _Change, *, seed: int) -> int:
    fleet = stage.fleet(seed, change.voices_before)
    serve(fleet, policy, traffic(change.before, stage.warm_up, seed=seed))
    fleet.voices = change.voices_after
    served = serve(fleet, policy, traffic(change.after, stage.measured, seed=seed + 1), first_number=stage.warm_up)
    oracle = stage.choices.oracle(change.voices_after.values())
    return requests_until_back([(oracle.ms(entry.request), entry.ms) for entry in served])


def requests_until_back(oracle_and_own_ms: Sequence[tuple[float, float]]) -> int:
    """After how many requests the mean over the last WINDOW is at BACK of the oracle; all of them if it never is.

    The window holds only requests after the change, so the answer is never less than WINDOW.
    """
    for end in range(WINDOW, len(oracle_and_own_ms) + 1):
        oracle_ms, own_ms = np.sum(oracle_and_own_ms[end - WINDOW : end], axis=0)
        if oracle_ms >= BACK * own_ms:
            return end
    return len(oracle_and_own_ms)


def floor_of_none(stage: Stage, policy: Policy, *, seed: int) -> float:
    """The worst tokens a second over any FLOOR_WINDOW requests against plain decoding's, when the only drafter on offer
    turns bad: a specialist serves its domain, until under its name another one's drafts come."""
    own = stage.requests_of((REPLACED,))
    count = max(stage.measured, FLOOR_WINDOW)
    fleet = stage.fleet(seed, {REPLACED: REPLACED})
    served = serve(fleet, policy, traffic(own, count, seed=seed))
    fleet.voices = {REPLACED: IMPOSTOR}
    served += serve(fleet, policy, traffic(own, count, seed=seed + 1), first_number=count)
    plain = np.array([stage.choices.of(PLAIN, entry.request) for entry in served])
    took = np.array([entry.ms for entry in served])
    over_window = np.ones(FLOOR_WINDOW)
    return float((np.convolve(plain, over_window, "valid") / np.convolve(took, over_window, "valid")).min())


def zero_shot(
    stage: Stage, teacher: LearningPolicy, new_policy: Callable[[int], LearningPolicy], *, seed: int
) -> float:
    """Share of plain prompts whose first plan names the right specialist, when each is the very first request of a
    policy that has a prior: what another one learnt from other traffic.

    Args:
        stage: On which.
        teacher: The other one.
        new_policy: Makes one that has learnt nothing, of a seed: what it explores is to differ from prompt to prompt.
        seed: Of the other traffic.
    """
    taught_on = replace(stage.fleet(seed), scoring_share=SCORING_SHARE)
    serve(taught_on, teacher, traffic(stage.recording.requests, stage.warm_up, seed=seed))
    prior = teacher.state()
    plain = stage.requests_of(PLAIN_DOMAINS)
    right = 0
    for number, request in enumerate(plain):
        policy = new_policy(number)
        policy.restore(prior)
        first = stage.fleet(seed).serve(policy, request, request_id=f"first {number}").plans[0]
        right += first.drafters == (right_drafter(request.prompt_set),)
    return right / len(plain)


def requests_to_learn(stage: Stage, policy: Policy, *, seed: int) -> Mapping[str, int]:
    """Place, from 1, of the first request of the first WINDOW that are served at BACK of the oracle: of all requests,
    and of those that the oracle bounds. Hybrid answers it does not: no fixed choice suits both their halves, so that a
    policy is above it from its first requests on."""
    oracle = stage.choices.oracle(stage.recording.drafters)
    served = cold_start(stage, policy, seed=seed)
    counted = {"all": served, "bounded": [entry for entry in served if entry.request.prompt_set != "hybrid"]}
    return {
        which: max(requests_until_back([(oracle.ms(entry.request), entry.ms) for entry in some]) - WINDOW + 1, 1)
        for which, some in counted.items()
    }


def log_of_cold_run(stage: Stage, policy: Policy, *, seed: int) -> list[LoggedRound]:
    """What the decision log holds of a policy that begins with nothing, as retraining reads it."""
    witness = _Witness(policy)
    cold_start(stage, witness, seed=seed)
    return witness.log


@dataclass
class _Witness(Policy):
    """Another policy, and a log of what it did. Its clock counts rounds."""

    policy: Policy
    log: list[LoggedRound] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.policy.name

    def plan(self, context: RoundContext) -> Plan:
        return self.policy.plan(context)

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        self.policy.learn(context, plan, outcome)
        tokens = min(len(outcome.verdict.token_ids), context.remaining_tokens)
        self.log.append(
            LoggedRound(context=context, plan=plan, outcome=outcome, tokens=tokens, at_ms=1 + len(self.log))
        )

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        return self.policy.readers(context)


def retrain_speedup(
    stage: Stage, new_policy: Callable[[], LearningPolicy], *, seed: int, log_seed: int
) -> Mapping[str, float]:
    """How many times sooner a policy is at BACK of the oracle that begins with what the log of a cold run teaches; see
    `requests_to_learn`.

    Args:
        stage: On which.
        new_policy: Makes one that has learnt nothing.
        seed: Of the traffic on which both are measured.
        log_seed: Of the traffic that was logged.
    """
    log = log_of_cold_run(stage, new_policy(), seed=log_seed)
    prior = taught(new_policy(), split_by_time(log).taught).state()
    retrained = new_policy()
    retrained.restore(prior)
    cold = requests_to_learn(stage, new_policy(), seed=seed)
    warm = requests_to_learn(stage, retrained, seed=seed)
    return {which: cold[which] / warm[which] for which in cold}


def decision_us(stage: Stage, policy: Policy, *, seed: int) -> list[float]:
    """Microseconds of each plan, with DECISION_DRAFTERS on offer: the recorded ones, some under further names."""
    names = stage.recording.drafters
    voices = {f"{names[place % len(names)]} {place}": names[place % len(names)] for place in range(DECISION_DRAFTERS)}
    timed = _Timed(policy)
    serve(stage.fleet(seed, voices), timed, traffic(stage.recording.requests, stage.measured, seed=seed))
    return timed.took_us


@dataclass
class _Timed(Policy):
    """Another policy, and how long each of its plans took."""

    policy: Policy
    took_us: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.policy.name

    def plan(self, context: RoundContext) -> Plan:
        began_ns = time.perf_counter_ns()
        plan = self.policy.plan(context)
        self.took_us.append((time.perf_counter_ns() - began_ns) / 1e3)
        return plan

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        self.policy.learn(context, plan, outcome)

    def readers(self, context: RoundContext) -> tuple[str, ...]:
        return self.policy.readers(context)
