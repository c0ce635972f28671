"""A fleet whose drafters can be asked afterwards: each request has one text, each drafter its word on every token."""

from collections.abc import Mapping
from functools import cache

import numpy as np

from router_models.cost_model import levels_forwarded
from router_models.formulas import rank_probabilities
from router_models.plan import Plan
from router_models.policy import RoundContext, RoundOutcome, TextScores
from router_models.ranks import accepted_of
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape, chain, merge
from tests.router_models.world import World

BESIDE = 10_000
"""Added to a token it is one that the target never emits."""


class ScoredWorld(World):
    """Drafts chains, as a language model would draft them before a text that is known: nothing is drawn anew.

    Args:
        hazards: Of each drafter, by class.
        length: Of every answer.
        seed: Of all chance.
    """

    def __init__(self, hazards: Mapping[str, np.ndarray], *, length: int, seed: int = 0) -> None:
        super().__init__(hazards, seed=seed)
        self.length, self.seed = length, seed
        self.text_of = cache(self._text_of)
        self.scores_of = cache(self._scores_of)

    def _text_of(self, request_id: str) -> tuple[int, ...]:
        rng = np.random.default_rng([self.seed, *request_id.encode()])
        return tuple(rng.integers(0, BESIDE // 2, self.length).tolist())

    def _scores_of(self, request_id: str, drafter: str) -> TextScores:
        """At which candidate it has each token, and how sure it is of that."""
        rng = np.random.default_rng([self.seed, *f"{request_id}{drafter}".encode()])
        chances = rank_probabilities(np.array(self.hazards[drafter]))
        chances = np.append(chances, max(1.0 - chances.sum(), 0.0))
        ranks = 1 + rng.choice(len(chances), p=chances / chances.sum(), size=self.length)
        sure = rng.uniform(0.3, 0.99, self.length)
        # As the log has them: in single precision.
        confidences = np.where(ranks == 1, sure, (1.0 - sure) / ranks).astype(np.float32)
        return TextScores(ranks=tuple(ranks.tolist()), confidences=tuple(confidences.tolist()))

    def play_at(self, context: RoundContext, plan: Plan) -> RoundOutcome:
        """What the plan's chains hold of the text that follows."""
        text = self.text_of(context.request_id)[context.emitted_tokens :]
        drafts = {
            name: self.chain_of(context, name, plan.shape, plan.calibrations.get(name, UNCALIBRATED))
            for name in plan.drafters
        }
        tree = merge(drafts.values(), plan.verify_budget) if drafts else EMPTY_TREE
        levels = max((levels_forwarded(plan.shape, own) for own in drafts.values()), default=0)
        return self._outcome(
            drafts, tree, text[: accepted_of(tree, text) + 1], draft_ms=(1.0 + self.level_ms * levels) * bool(drafts)
        )

    def chain_of(self, context: RoundContext, drafter: str, shape: TreeShape, calibration: Calibration) -> TokenTree:
        """What a drafter drafts there."""
        start, scores = context.emitted_tokens, self.scores_of(context.request_id, drafter)
        text = self.text_of(context.request_id)
        tokens: list[int] = []
        confidences: list[float] = []
        on_text, path = True, 1.0
        for place in range(start, min(start + min(shape.depth, shape.budget), self.length)):
            right = on_text and scores.ranks[place] == 1
            own = scores.confidences[place] if right else 1.0 - 1.5 * min(scores.confidences[place], 0.6)
            confidence = calibration(own) if calibration != UNCALIBRATED else own
            path *= confidence
            if path < shape.least_confidence:
                break
            tokens.append(text[place] if right else text[place] + BESIDE)
            confidences.append(confidence)
            on_text = right
        return chain(tokens, confidences)
