"""The policy that serves each request with whatever is fastest for it: expected tokens a second, by what was accepted.

Every round it draws acceptance rates from their posteriors (Thompson, 1933), works out what each drafter and shape
would bring and cost, and takes the best; plain decoding is one of the choices. Where it knows, all draws agree; where
it does not, they differ, and that is all the exploration there is.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from router_models.acceptance_model import AcceptanceModel
from router_models.cost_model import CostModel, draft_features
from router_models.plan import Plan, no_speculation
from router_models.policy import Policy, RoundContext, RoundOutcome
from router_models.ranks import ShapeMenu, count_ranks, rank_probabilities
from speculation.tree import TreeShape

DRAWS = 8
"""Posterior draws a round; a propensity is a number of eighths."""

SHAPES = (
    *(TreeShape(depth=depth, branching=1, budget=depth) for depth in (1, 2, 3, 4, 5, 6, 8)),
    TreeShape(depth=3, branching=2, budget=6),
    TreeShape(depth=4, branching=4, budget=12),
    TreeShape(depth=6, branching=4, budget=16),
)

SURPRISAL_STEPS = (0.05, 0.5, 1.5)
"""Nats per token by which a drafter may be more surprised by the prompt than the least surprised one."""

TOKENS_A_ROUND = 2.0
"""What a round may be counted on to bring, when the reading of a prompt is spread over the rounds to come."""

MOST_REQUESTS = 4096
"""Requests remembered; nobody says when one has ended."""


class PlannerPolicy(Policy):
    """Chooses drafter and shape by expected tokens a second.

    Args:
        shapes: What it chooses from; a shape pinned by the request stands in for all of them.
        seed: Of the posterior draws, together with request and round: the same history gives the same plans.
    """

    def __init__(self, *, shapes: Sequence[TreeShape] = SHAPES, seed: int = 0) -> None:
        self._menu, self._seed = ShapeMenu(shapes), seed
        self._acceptance = AcceptanceModel()
        self._costs = CostModel()
        self._read: OrderedDict[str, dict[str, int]] = OrderedDict()

    @property
    def name(self) -> str:
        """The name by which requests and operators call it."""
        return "planner"

    def plan(self, context: RoundContext) -> Plan:
        """The fastest choice under one of several posterior draws."""
        if not context.drafters:
            return no_speculation("no drafter is on offer")
        menu = _menu_of(context.pinned_shape) if context.pinned_shape else self._menu
        expected = self._expected_accepted(context, menu)
        costs = self._costs_ms(context, menu.shapes)
        plain_ms = float(self._costs.verify_ms(np.zeros(1))[0])
        speeds = (1.0 + expected) / costs
        best = speeds.reshape(DRAWS, -1).argmax(axis=1)
        speculates = speeds.reshape(DRAWS, -1).max(axis=1) > 1.0 / plain_ms
        choices = np.where(speculates, best, -1)
        chosen = int(choices[0])  # the draws are alike in law, so the first is as good as a random one
        propensity = float(np.mean(choices == chosen))
        if chosen < 0:
            return Plan(drafters=(), explanation=f"plain decoding: {plain_ms:.1f} ms a token", propensity=propensity)
        place, number = divmod(chosen, len(menu.shapes))
        drafter, shape = context.drafters[place], menu.shapes[number]
        tokens, cost_ms = 1.0 + float(expected[:, place, number].mean()), float(costs[place, number])
        return Plan(
            drafters=(drafter,),
            shape=shape,
            propensity=propensity,
            explanation=f"{tokens:.1f} tokens in {cost_ms:.1f} ms expected; plain decoding {plain_ms:.1f} ms a token",
        )

    def learn(self, context: RoundContext, plan: Plan, outcome: RoundOutcome) -> None:
        """Ranks from every tree that was drafted, costs from the timings."""
        read = self._read_by_drafters(context.request_id)
        length = context.prompt_tokens + context.emitted_tokens
        unread = max((length - read.get(drafter, 0) for drafter in plan.drafters), default=0)
        self._costs.learn(plan, outcome, unread)
        for drafter, tree in outcome.drafts.items():
            read[drafter] = length
            self._acceptance.learn(_path(context, drafter), count_ranks(tree, outcome.verdict.token_ids))

    def _expected_accepted(self, context: RoundContext, menu: ShapeMenu) -> NDArray[np.float64]:
        """(draws, drafters, shapes) accepted tokens."""
        alpha, beta = self._acceptance.posteriors([_path(context, drafter) for drafter in context.drafters])
        rng = np.random.default_rng(_seed_of(self._seed, context))
        return menu.expected_accepted(rank_probabilities(rng.beta(alpha, beta, size=(DRAWS, *alpha.shape))))

    def _costs_ms(self, context: RoundContext, shapes: Sequence[TreeShape]) -> NDArray[np.float64]:
        """(drafters, shapes) milliseconds. Text that a drafter has not read is charged to the tokens still to come."""
        read = self._read_by_drafters(context.request_id)
        length = context.prompt_tokens + context.emitted_tokens
        rounds_left = max(context.remaining_tokens / TOKENS_A_ROUND, 1.0)
        rows = []
        for drafter in context.drafters:
            unread = (length - read.get(drafter, 0)) / rounds_left
            rows.append(self._costs.draft_ms(drafter, np.array([draft_features(shape, unread) for shape in shapes])))
        return np.stack(rows) + self._costs.verify_ms(np.array([float(shape.budget) for shape in shapes]))

    def _read_by_drafters(self, request_id: str) -> dict[str, int]:
        """How many tokens of a request each drafter has read."""
        read = self._read.setdefault(request_id, {})
        self._read.move_to_end(request_id)
        if len(self._read) > MOST_REQUESTS:
            self._read.popitem(last=False)
        return read


@lru_cache(maxsize=256)
def _menu_of(shape: TreeShape) -> ShapeMenu:
    return ShapeMenu((shape,))


def _path(context: RoundContext, drafter: str) -> tuple[Hashable, ...]:
    """From the drafter as such to this very request."""
    sampled = context.temperature > 0
    return (drafter, sampled, context.task, _surprise(context, drafter), context.request_id)


def _surprise(context: RoundContext, drafter: str) -> int | None:
    """By how many steps the prompt surprised a drafter more than the least surprised one; None if that is unknown."""
    if drafter not in context.prompt_surprisal:
        return None
    excess = context.prompt_surprisal[drafter] - min(context.prompt_surprisal.values())
    return int(np.searchsorted(SURPRISAL_STEPS, excess))


def _seed_of(seed: int, context: RoundContext) -> int:
    text = f"{seed}/{context.request_id}/{context.round}"
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "big")
