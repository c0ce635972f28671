"""A fleet of known rates and costs: what a learner must find out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from router_models.cost_model import levels_forwarded
from router_models.formulas import rank_probabilities
from router_models.plan import Plan
from router_models.policy import Policy, RoundContext, RoundOutcome, RoundTimings
from router_models.ranks import likeliest_nodes, steps_of
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import EMPTY_TREE, ROOT, TokenTree, TreeShape
from speculation.verdict import Verdict

NS_PER_MS = 1_000_000
NOBODYS_TOKEN = 99


@dataclass(slots=True)
class Tally:
    """What was served, and in which time."""

    tokens: int = 0
    ms: float = 0.0
    plans: list[Plan] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        return len(self.plans)

    @property
    def plain_rounds(self) -> int:
        return sum(not plan.speculates for plan in self.plans)

    @property
    def tokens_per_ms(self) -> float:
        return self.tokens / self.ms


@lru_cache(maxsize=64)
def _drafted(shape: TreeShape, calibration: Calibration) -> tuple[TokenTree, frozenset[tuple[int, ...]]]:
    """A tree, and the ranks on the way to each of its nodes; a token is its rank, and every drafter is equally sure."""
    nodes = sorted(likeliest_nodes(shape), key=lambda node: (len(node), node))
    place = {node: index for index, node in enumerate(nodes)}
    tree = TokenTree(
        token_ids=tuple(node[-1] for node in nodes),
        parents=tuple(place.get(node[:-1], ROOT) for node in nodes),
        confidences=tuple(calibration(0.9 / (node[-1] + 1)) for node in nodes),
    )
    kept = [node for node, chance in enumerate(tree.path_confidences) if chance >= shape.least_confidence]
    return tree.subtree(kept), frozenset(nodes[node] for node in kept)


class World:
    """Drafters whose candidates the target takes with given hazards, and rounds that cost what they cost.

    Args:
        hazards: Of each drafter, by class; an entry may be changed at any time.
        seed: Of all chance.
        level_ms: What a drafter takes for a level.
        verify_ms: What the target takes for an empty tree.
        surprisal: Of every prompt, by drafter.
    """

    def __init__(
        self,
        hazards: Mapping[str, np.ndarray],
        *,
        seed: int = 0,
        level_ms: float = 2.0,
        verify_ms: float = 25.0,
        surprisal: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.hazards, self.surprisal = dict(hazards), surprisal
        self.level_ms, self.verify_ms = level_ms, verify_ms
        self._rng = np.random.default_rng(seed)

    def answer(
        self, drafter: str, shape: TreeShape, calibration: Calibration = UNCALIBRATED
    ) -> tuple[TokenTree, tuple[int, ...]]:
        """A drafted tree and what the target emits."""
        tree, nodes = _drafted(shape, calibration)
        chances = rank_probabilities(self.hazards[drafter])
        chances = np.append(chances, max(1 - chances.sum(), 0.0))
        emitted: list[int] = []
        node: tuple[int, ...] = ()
        while True:
            rank = int(self._rng.choice(len(chances), p=chances / chances.sum()))
            emitted.append(rank if rank < len(chances) - 1 else NOBODYS_TOKEN)
            node = (*node, rank)
            if node not in nodes:
                return tree, tuple(emitted)

    def play(self, plan: Plan) -> RoundOutcome:
        """What comes of a plan of at most one drafter."""
        if not plan.drafters:
            return self._outcome({}, EMPTY_TREE, (NOBODYS_TOKEN,) * (1 + plan.run), draft_ms=0.0)
        (drafter,) = plan.drafters
        tree, emitted = self.answer(drafter, plan.shape, plan.calibrations.get(drafter, UNCALIBRATED))
        draft_ms = 1.0 + self.level_ms * levels_forwarded(plan.shape, tree)
        return self._outcome({drafter: tree}, tree, emitted, draft_ms=draft_ms)

    def play_at(self, context: RoundContext, plan: Plan) -> RoundOutcome:
        """What comes of it in this place: here all places are alike."""
        return self.play(plan)

    def _outcome(
        self, drafts: Mapping[str, TokenTree], tree: TokenTree, emitted: tuple[int, ...], *, draft_ms: float
    ) -> RoundOutcome:
        run_ms = 0.0 if drafts else self.verify_ms * (len(emitted) - 1)
        verify_ms = self.verify_ms + 0.6 * len(tree) + run_ms
        noise = float(self._rng.uniform(0.95, 1.05))
        draft_ns, verify_ns = int(draft_ms * noise * NS_PER_MS), int(verify_ms * noise * NS_PER_MS)
        return RoundOutcome(
            drafts=drafts,
            tree=tree,
            verdict=Verdict(
                accepted=tuple(step.taken for step in steps_of(tree, emitted) if step.taken is not None),
                token_ids=emitted,
                logprobs=(-1.0,) * len(emitted),
                node_probs=(0.5,) * len(tree),
                run_ns=int(run_ms * noise * NS_PER_MS),
            ),
            timings=RoundTimings(draft_ns=draft_ns, verify_ns=verify_ns, round_ns=draft_ns + verify_ns + NS_PER_MS),
        )

    def serve(self, policy: Policy, *, requests: int, length: int = 64, first: int = 0, task: str = "") -> Tally:
        """Let a policy serve requests, one after another."""
        tally = Tally()
        for number in range(first, first + requests):
            emitted = rounds = 0
            while emitted < length:
                context = RoundContext(
                    request_id=f"request {number}",
                    round=rounds,
                    drafters=tuple(self.hazards),
                    task=task,
                    prompt_tokens=20,
                    emitted_tokens=emitted,
                    remaining_tokens=length - emitted,
                    prompt_surprisal=self.surprisal,
                )
                plan = policy.plan(context).within(length - emitted)
                outcome = self.play_at(context, plan)
                policy.learn(context, plan, outcome)
                emitted += len(outcome.verdict.token_ids)
                rounds += 1
                tally.tokens += len(outcome.verdict.token_ids)
                tally.ms += outcome.timings.round_ns / NS_PER_MS
                tally.plans.append(plan)
        return tally
