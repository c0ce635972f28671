"""A fleet that only remembers: a policy serves recorded requests, round by round, as the controller's loop would.

Drafts and acceptance are those of the real models; what a round takes comes from measured costs. Nothing is estimated
about which tokens are accepted. What a recording does not hold, the policy does not see either: log-probabilities.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.router.costs import CostProfile
from bench.router.recording import RecordedRequest, Recording
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings
from speculation.acceptance import walk
from speculation.calibration import UNCALIBRATED
from speculation.tree import TokenTree, TreeShape
from speculation.verdict import Verdict

NS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of one request.

    Attributes:
        request: Which.
        ms: How long it took, from the reading of the prompt to the last token.
        tokens_by_round: Emitted tokens of each round.
        plans: What each round did.
    """

    request: RecordedRequest
    ms: float
    tokens_by_round: tuple[int, ...]
    plans: tuple[Plan, ...]

    @property
    def tokens(self) -> int:
        """Of the answer."""
        return self.request.length


@dataclass(slots=True, kw_only=True)
class ReplayedFleet:
    """Drafters that answer from a recording.

    Attributes:
        recording: What they say.
        costs: What it takes.
        voices: Whose recorded drafts each drafter on offer gives, by the name under which it is on offer; change it to
            have a drafter replaced, join or leave.
        seed: Of the noise on times; None for the expected times.
        scoring_share: Of the answers that drafters score which did not draft for them; they do so between requests, in
            no time.
    """

    recording: Recording
    costs: CostProfile
    voices: Mapping[str, str]
    seed: int | None
    scoring_share: float = 0.0
    _rng: np.random.Generator | None = field(init=False)
    _choice: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._rng = None if self.seed is None else np.random.default_rng(self.seed)
        self._choice = np.random.default_rng(self.seed)

    def serve(self, policy: Policy, request: RecordedRequest, *, request_id: str) -> Served:
        """One request, from its prompt to its end."""
        session = _Session(self, request, request_id)
        while session.emitted < request.length:
            session.play(policy)
        if self._choice.random() < self.scoring_share:
            session.score(policy)
        return Served(
            request=request, ms=session.ms, tokens_by_round=tuple(session.tokens_by_round), plans=tuple(session.plans)
        )

    def noise(self) -> float:
        """A factor on a time, 1 in the mean."""
        return 1.0 if self._rng is None else float(self._rng.lognormal(-(self.costs.spread**2) / 2, self.costs.spread))


class _Session:
    """One request under way."""

    def __init__(self, fleet: ReplayedFleet, request: RecordedRequest, request_id: str) -> None:
        self._fleet, self._request, self._request_id = fleet, request, request_id
        self._read: dict[str, int] = {}
        self._surprisal: dict[str, float] = {}
        self.emitted, self.ms = 0, 0.0
        self._target_reads_ms = fleet.costs.target_read_ms(request.prompt_tokens) * fleet.noise()
        self.tokens_by_round: list[int] = []
        self.plans: list[Plan] = []

    def play(self, policy: Policy) -> None:
        """One round."""
        if not self.plans:
            self._read_by(policy.readers(self._context()))
        context = self._context()
        plan = policy.plan(context).within(context.remaining_tokens)
        drafts = {name: self._draft(name, plan) for name in plan.drafters}
        tree = plan.combine(tuple(drafts.values()))
        verdict = self._verify(tree, plan.run)
        timings = self._timings(plan, drafts, tree, verdict)
        self._hear(plan.drafters)
        outcome = RoundOutcome(drafts=drafts, tree=tree, verdict=verdict, timings=timings)
        policy.learn(context, plan, outcome)
        kept = min(len(verdict.token_ids), self._request.length - self.emitted)
        self.emitted += kept
        self.ms += timings.round_ns / NS_PER_MS
        self.tokens_by_round.append(kept)
        self.plans.append(plan)

    def score(self, policy: Policy) -> None:
        """Let drafters that did not draft tell the policy how they would have."""
        idle = [name for name in self._fleet.voices if not any(name in plan.drafters for plan in self.plans)]
        recording, request = self._fleet.recording, self._request
        scores = {name: recording.scores(request, self._voice(name)) for name in idle}
        self._hear(idle)
        policy.learn_scores(self._context(), scores)

    def _context(self) -> RoundContext:
        request = self._request
        return RoundContext(
            request_id=self._request_id,
            round=len(self.plans),
            drafters=tuple(self._fleet.voices),
            prompt_tokens=request.prompt_tokens,
            emitted_tokens=self.emitted,
            remaining_tokens=len(request.token_ids) - self.emitted,
            temperature=request.temperature,
            prompt_surprisal=dict(self._surprisal),
        )

    def _read_by(self, readers: Sequence[str]) -> None:
        """Drafters read the prompt before the first plan, while the target reads it."""
        if readers:
            costs = self._fleet.costs
            slowest_ms = max(costs.read_ms(self._voice(name), self._request.prompt_tokens) for name in readers)
            took_ms = costs.crowded(slowest_ms, len(readers)) * self._fleet.noise()
            self.ms += took_ms
            self._target_reads_ms = max(self._target_reads_ms - took_ms, 0.0)
            self._hear(readers)

    def _hear(self, drafters: Sequence[str]) -> None:
        """They have read everything so far, and have told the prompt's surprisal."""
        for name in drafters:
            self._read[name] = self._request.prompt_tokens + self.emitted
            if self._voice(name) in self._request.surprisal:
                self._surprisal[name] = self._request.surprisal[self._voice(name)]

    def _voice(self, drafter: str) -> str:
        return self._fleet.voices[drafter]

    def _draft(self, drafter: str, plan: Plan) -> TokenTree:
        calibration = plan.calibrations.get(drafter, UNCALIBRATED)
        return self._fleet.recording.tree(self._request, self._voice(drafter), self.emitted, plan.shape, calibration)

    def _verify(self, tree: TokenTree, run: int) -> Verdict:
        """The target goes on to say what it said; only nodes on its path are ever asked what follows them.

        What a forward takes without a round was not measured: a token of a run is charged with a verification.
        """
        said = self._request.token_ids[self.emitted :]
        walked = walk(tree, said[0], [said[depth] if depth < len(said) else -1 for depth in tree.depths])
        token_ids = (*(tree.token_ids[node] for node in walked.accepted), walked.extra_token)
        run_ms = sum(self._fleet.costs.verify_ms(0) * self._fleet.noise() for _ in range(run))
        return Verdict(
            accepted=walked.accepted,
            token_ids=(*token_ids, *said[len(token_ids) : len(token_ids) + run]),
            logprobs=(),
            run_ns=int(run_ms * NS_PER_MS),
        )

    def _timings(self, plan: Plan, drafts: Mapping[str, TokenTree], tree: TokenTree, verdict: Verdict) -> RoundTimings:
        costs = self._fleet.costs
        alone_ms = max((self._draft_ms(name, plan.shape, draft) for name, draft in drafts.items()), default=0.0)
        draft_ms = costs.crowded(alone_ms, len(drafts)) * self._fleet.noise()
        verify_ms = costs.verify_ms(len(tree)) * self._fleet.noise() + verdict.run_ns / NS_PER_MS
        # The first verification waits for the target's reading of the prompt, too.
        round_ms = max(draft_ms, self._target_reads_ms) + verify_ms + costs.rest_ms
        self._target_reads_ms = 0.0
        draft_ns, verify_ns = int(draft_ms * NS_PER_MS), int(verify_ms * NS_PER_MS)
        return RoundTimings(
            draft_ns=draft_ns,
            verify_ns=verify_ns,
            round_ns=int(round_ms * NS_PER_MS),
            draft_worker_ns=draft_ns,
            verify_worker_ns=verify_ns,
        )

    def _draft_ms(self, drafter: str, shape: TreeShape, tree: TokenTree) -> float:
        """Alone, on an idle machine."""
        read = self._read.get(drafter, 0)
        unread = self._request.prompt_tokens + self.emitted - read
        return self._fleet.costs.draft_ms(self._voice(drafter), shape, tree, unread, first=read == 0)
