"""What a round costs: drafting by drafter, levels and nodes, verifying by nodes, both by how many are served at once;
learnt from timings."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from router_models import formulas
from router_models.plan import Plan
from router_models.policy import RoundOutcome
from speculation.profile import ForwardProfile
from speculation.tree import TokenTree, TreeShape

Array = NDArray[np.float64]

NS_PER_MS = 1e6

MEMORY = 100.0
"""Rounds of one request that are remembered. In a crowd as many more are, since they come so much faster."""

PRIOR_WEIGHT = 0.5
"""Typical rounds that a guess is worth before anything was measured: what a tree of sixteen nodes costs does not follow
from a few times of one, be they as short as they may."""

SURPRISING = 3.0
"""A measurement this many times the expected one counts as if it were this many: machines stall."""


class Guess(NamedTuple):
    """Of what a feature costs.

    Attributes:
        ms: Per unit.
        typical: Units in a round.
    """

    ms: float
    typical: float


DRAFT_GUESSES = (Guess(2.0, 1.0), Guess(2.0, 4.0), Guess(0.1, 6.0), Guess(0.02, 20.0))
"""Per round, level, node and token to be read first."""

VERIFY_GUESSES = (Guess(25.0, 1.0), Guess(2.0, 1.0), Guess(0.5, 6.0))
"""Per round, other session that shares the forward, and node, whoever's it is."""

PLAIN_GUESSES = (Guess(25.0, 1.0), Guess(25.0, 1.0), Guess(0.5, 6.0), Guess(0.0, 1.0))
"""Per round of plain decoding, token of its run, and node and tree of others in its forwards."""


def draft_guesses(profile: ForwardProfile) -> tuple[Guess, ...]:
    """DRAFT_GUESSES, for a drafter whose forwards were timed."""
    took_ms = (DRAFT_GUESSES[0].ms, profile.forward_ms, profile.node_ms, profile.prompt_token_ms)
    return tuple(guess._replace(ms=ms) for guess, ms in zip(DRAFT_GUESSES, took_ms, strict=True))


def verify_guesses(profile: ForwardProfile) -> tuple[Guess, ...]:
    """VERIFY_GUESSES, for a target whose forwards were timed: another session is another token."""
    took_ms = (profile.forward_ms, profile.node_ms, profile.node_ms)
    return tuple(guess._replace(ms=ms) for guess, ms in zip(VERIFY_GUESSES, took_ms, strict=True))


def plain_guesses(profile: ForwardProfile) -> tuple[Guess, ...]:
    """PLAIN_GUESSES, for a target whose forwards were timed."""
    took_ms = (profile.forward_ms, profile.forward_ms, profile.node_ms, 0.0)
    return tuple(guess._replace(ms=ms) for guess, ms in zip(PLAIN_GUESSES, took_ms, strict=True))


REST_GUESSES = (Guess(0.5, 1.0),)

PLAIN_TOKENS_PER_MS = 1.0 / (VERIFY_GUESSES[0].ms + REST_GUESSES[0].ms)
"""What a session is thought to make before any was seen."""


class LinearCost:
    """Milliseconds as a linear function of features: least squares that forget.

    The normal equations A w = b of exponentially weighted measurements, plus a prior that is not forgotten, so that A
    never becomes singular. The sums are of measurements alone: whoever goes on from them may guess otherwise.

    Attributes:
        weights: (features,) milliseconds per unit; no part of a round gives time back.
    """

    def __init__(self, guesses: Sequence[Guess], *, memory: float = MEMORY) -> None:
        """
        Args:
            guesses: Of each feature's coefficient.
            memory: Measurements that are remembered.
        """
        self._memory = memory
        self._sums = np.zeros((len(guesses), len(guesses) + 1))
        self._rounds = 0.0
        self.guess(guesses)

    def guess(self, guesses: Sequence[Guess]) -> None:
        """Guess this from now on. What rounds have told stays; of a chain they do not tell a level from a node."""
        self._prior = np.array([guess.ms for guess in guesses])
        self._ridge = PRIOR_WEIGHT * np.diag([guess.typical**2 for guess in guesses])
        self._solve()

    def learn(self, features: Sequence[float], cost_ms: float) -> None:
        """One measurement."""
        measured = np.array((*features, cost_ms))
        x = measured[:-1]
        if self._rounds > MEMORY / 5.0:
            measured[-1] = min(cost_ms, SURPRISING * max(float(x @ self.weights), 1e-3))
        kept = 1.0 - 1.0 / self._memory
        self._rounds = kept * self._rounds + 1.0
        self._sums *= kept
        self._sums += x[:, None] * measured
        self._solve()

    @property
    def state(self) -> Array:
        """(features, features + 1) sums of the normal equations."""
        return self._sums.copy()

    def restore(self, sums: Array) -> None:
        """Go on from a state."""
        self._sums = np.array(sums, dtype=np.float64)
        self._rounds = float(self._sums[0, 0])
        self._solve()

    def _solve(self) -> None:
        """Least squares under w >= 0: what comes out negative is nothing, and the others are solved for again.

        Clipping alone would not do. A chain has as many levels as nodes: one then stands for the other, and half of a
        sum whose other half was clipped is no estimate of anything.
        """
        products, targets = self._sums[:, :-1] + self._ridge, self._sums[:, -1] + self._ridge @ self._prior
        counted = np.ones(len(targets), dtype=np.bool_)
        weights = np.linalg.solve(products, targets)
        while (weights[counted] < 0.0).any():
            counted &= weights >= 0.0
            weights = np.zeros_like(targets)
            weights[counted] = np.linalg.solve(products[np.ix_(counted, counted)], targets[counted])
        self.weights: Array = weights


def crowd_of(beside: int) -> int:
    """Requests served beside this one, in classes: none, one, two or three, four to seven, and so on."""
    return beside.bit_length()


def memory_of(crowd: int) -> float:
    """Rounds that are remembered in such a crowd: about as long as those of one request are."""
    return MEMORY * (1 << crowd)


class CrowdCost:
    """The cost of the same work in every crowd, each learnt by itself: what a rush teaches is not believed of a quiet
    hour, and what a quiet hour taught is still known after the rush.

    Attributes:
        guesses: Of each feature's coefficient, in every crowd.
        learnt: By crowd.
    """

    def __init__(self, guesses: Sequence[Guess]) -> None:
        self.guesses = guesses
        self.learnt: dict[int, LinearCost] = {}

    def guess(self, guesses: Sequence[Guess]) -> None:
        """Guess this from now on, where rounds have not told."""
        if guesses != self.guesses:
            self.guesses = guesses
            for cost in self.learnt.values():
                cost.guess(guesses)

    def learn(self, crowd: int, features: Sequence[float], cost_ms: float) -> None:
        """One measurement."""
        self.of(crowd).learn(features, cost_ms)

    def of(self, crowd: int) -> LinearCost:
        """To be taught."""
        if crowd not in self.learnt:
            self.learnt[crowd] = LinearCost(self.guesses, memory=memory_of(crowd))
        return self.learnt[crowd]

    def weights(self, crowd: int) -> Array:
        """(features,) milliseconds per unit: as learnt in this crowd, else in the nearest there was, else the guess."""
        if crowd in self.learnt:
            return self.learnt[crowd].weights
        if not self.learnt:
            return np.array([guess.ms for guess in self.guesses])
        return self.learnt[min(self.learnt, key=lambda other: (abs(other - crowd), other))].weights


class Company(NamedTuple):
    """Who shares a forward of the target with a request.

    Attributes:
        sessions: Others.
        nodes: Theirs.
        tokens_per_ms: What each of them makes.
    """

    sessions: float
    nodes: float
    tokens_per_ms: float


class CompanyModel:
    """The company in every crowd: means that forget.

    Attributes:
        sums: By crowd, (5,) of rounds, other sessions, their nodes, tokens and milliseconds of one session.
    """

    def __init__(self) -> None:
        self.sums: dict[int, Array] = {}

    def learn(self, crowd: int, outcome: RoundOutcome) -> None:
        """Take in a round."""
        tokens, ms = len(outcome.verdict.token_ids), outcome.timings.round_ns / NS_PER_MS
        seen = np.array((1.0, *others_in(outcome), tokens, ms))
        self.sums[crowd] = (1.0 - 1.0 / memory_of(crowd)) * self.sums.get(crowd, 0.0) + seen

    def of(self, beside: int) -> Company:
        """The company of a request that is served beside so many.

        In a crowd that nobody has seen yet all are thought to share one forward. So what a request should verify falls
        as one over the requests, which is FastGRPO's law for a first guess (arXiv:2509.21792).
        """
        crowd = crowd_of(beside)
        if crowd not in self.sums:
            return Company(beside, 0.0, PLAIN_TOKENS_PER_MS)
        rounds, sessions, nodes, tokens, ms = self.sums[crowd].tolist()
        return Company(sessions / rounds, nodes / rounds, tokens / max(ms, 1e-3))


class CostModel:
    """All costs of a round, as the controller sees them: the wire and the waiting for others are in them.

    Attributes:
        drafts: Of each drafter.
        verify: Of the target.
        plain: Of the target where nothing was drafted for this request.
        company: With whom its forwards are shared.
        rest: Of what is neither.
    """

    def __init__(self) -> None:
        self.drafts: dict[str, CrowdCost] = {}
        self.verify = CrowdCost(VERIFY_GUESSES)
        self.plain = CrowdCost(PLAIN_GUESSES)
        self.company = CompanyModel()
        self.rest = LinearCost(REST_GUESSES)

    def expect(self, drafters: Mapping[str, ForwardProfile], target: ForwardProfile | None) -> None:
        """Guess by what workers measured when they started."""
        for name, profile in drafters.items():
            self.of_drafter(name).guess(draft_guesses(profile))
        if target is not None:
            self.verify.guess(verify_guesses(target))
            self.plain.guess(plain_guesses(target))

    def guess_as(self, other: "CostModel") -> None:
        """Take over what another one guesses: whoever learns for all has never seen what workers measured."""
        for name, cost in other.drafts.items():
            self.of_drafter(name).guess(cost.guesses)
        self.verify.guess(other.verify.guesses)
        self.plain.guess(other.plain.guesses)

    def learn(self, plan: Plan, outcome: RoundOutcome, *, unread: int, beside: int) -> None:
        """Take in a round.

        Of several drafters only the slowest is timed, so such rounds say nothing about any one. Nor do rounds that
        waited for no draft because it was there.

        Args:
            plan: What was done.
            outcome: What it took.
            unread: Tokens that its drafter had to read first.
            beside: Requests served at the same time.
        """
        timings, crowd = outcome.timings, crowd_of(beside)
        for silence in outcome.silences:
            self.of_drafter(silence.drafter).learn(crowd, (1.0, 1.0, 0.0, 0.0), silence.took_ns / NS_PER_MS)
        if len(plan.drafters) == 1 and outcome.drafts and not outcome.foreseen:
            (name,) = plan.drafters
            tree = outcome.drafts[name]
            features = (1.0, levels_forwarded(plan.shape, tree), len(tree), unread)
            self.of_drafter(name).learn(crowd, features, timings.draft_ns / NS_PER_MS)
        sessions, nodes = others_in(outcome)
        verdict = outcome.verdict
        judged_ms = max(timings.verify_ns - verdict.run_ns, 0) / NS_PER_MS
        self.verify.learn(crowd, (1.0, sessions, len(outcome.tree) + nodes), judged_ms)
        if not len(outcome.tree) and (verdict.run_ns or not verdict.num_run):
            others = verdict.timings.nodes_beside, verdict.timings.trees_beside
            self.plain.learn(crowd, (1.0, verdict.num_run, *others), timings.verify_ns / NS_PER_MS)
        self.company.learn(crowd, outcome)
        silent_ns = sum(silence.took_ns for silence in outcome.silences)
        rest_ns = max(timings.round_ns - timings.draft_ns - timings.verify_ns - silent_ns, 0)
        self.rest.learn((1.0,), rest_ns / NS_PER_MS)

    def silence_ms(self, drafters: Sequence[str], beside: int) -> Array:
        """(drafters,) what it takes to hear that there is nothing to say: one level without a node."""
        crowd = crowd_of(beside)
        return np.array([self.of_drafter(name).weights(crowd)[:2].sum() for name in drafters])

    def draft_ms(self, drafters: Sequence[str], levels: Array, nodes: Array, unread: Array, beside: int) -> Array:
        """(drafters, shapes) levels and nodes, (drafters,) tokens to be read, to (drafters, shapes)."""
        crowd = crowd_of(beside)
        weights = np.array([self.of_drafter(name).weights(crowd) for name in drafters])
        return formulas.draft_ms(weights, unread, levels, nodes)

    def verify_ms(self, nodes: Array, beside: int) -> Array:
        """(...) nodes to (...): the target's part of a round and all that is neither draft nor verification."""
        node_ms = float(self.verify.weights(crowd_of(beside))[2])
        return node_ms * nodes + self._without_nodes_ms(beside)

    def plain_ms(self, run: int, beside: int) -> float:
        """A round of plain decoding, as it is where nobody beside has anything drafted either.

        Where all draft, plain decoding is slow for whoever tries it alone, and so all would draft on, though each were
        faster if none did. So drafting must beat what plain decoding is then, once that was seen in such a crowd
        (docs/log.md, "Runs of plain decoding").
        """
        crowd = crowd_of(beside)
        fixed_ms, token_ms, *_ = self.plain.weights(crowd).tolist()
        if crowd not in self.plain.learnt:
            return self._without_nodes_ms(beside) + float(token_ms) * run
        return max(float(fixed_ms) + float(token_ms) * run + self._rest_ms, 1e-3)

    def _without_nodes_ms(self, beside: int) -> float:
        """A round without drafts of its own, in the company that there is."""
        fixed, session, node = self.verify.weights(crowd_of(beside)).tolist()
        company = self.company.of(beside)
        return max(float(fixed + session * company.sessions + node * company.nodes) + self._rest_ms, 1e-3)

    def others_tokens(self, nodes: Array, beside: int) -> Array | float:
        """(...) nodes to (...): tokens that those who share the forward do not make while it judges them.

        What nodes and trees take from others is learnt from those who decode on by themselves: they wait for nothing
        else, and the processors that drafting takes are in it.
        """
        if not beside:
            return 0.0
        company, (node_ms, tree_ms) = self.company.of(beside), self._others_wait_ms(crowd_of(beside))
        return (tree_ms + node_ms * nodes) * (company.sessions * company.tokens_per_ms)

    def _others_wait_ms(self, crowd: int) -> tuple[float, float]:
        """How long those who share its forward wait for a node, and for a tree."""
        if crowd not in self.plain.learnt:
            return float(self.verify.weights(crowd)[2]), 0.0
        *_, node_ms, tree_ms = self.plain.weights(crowd).tolist()
        return node_ms, tree_ms

    def of_drafter(self, name: str) -> CrowdCost:
        """What drafting with it costs."""
        if name not in self.drafts:
            self.drafts[name] = CrowdCost(DRAFT_GUESSES)
        return self.drafts[name]

    @property
    def _rest_ms(self) -> float:
        return max(float(self.rest.weights[0]), 0.0)


def others_in(outcome: RoundOutcome) -> tuple[int, int]:
    """Sessions that shared the target's forward, and their nodes, as far as the worker tells."""
    timings = outcome.verdict.timings
    sessions = max(timings.batch_size - 1, 0)
    return sessions, max(timings.batch_positions - 1 - sessions - len(outcome.tree), 0)


def levels_forwarded(shape: TreeShape, tree: TokenTree) -> int:
    """Forwards of the drafter: one more than it drew where it stopped by itself."""
    return min(tree.depth + 1, shape.depth, shape.budget)
