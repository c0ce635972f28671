"""What scores of drafters that did not draft are worth to the planner."""

import numpy as np

from router_models.formulas import rank_probabilities
from router_models.planner import PlannerPolicy
from router_models.policy import RoundContext, TextScores
from tests.router_models.world import Tally, World

GOOD = np.array([0.85, 0.4, 0.2, 0.1])
POOR = np.array([0.35, 0.2, 0.1, 0.1])
HAZARDS = {"good": GOOD, **{f"poor {number}": POOR for number in range(7)}}
LENGTH = 64


def scores_of(drafter: str, rng: np.random.Generator) -> TextScores:
    """How a drafter ranks a text, by its hazards."""
    chances = rank_probabilities(HAZARDS[drafter])
    ranks = 1 + rng.choice(len(chances) + 1, p=[*chances, 1.0 - chances.sum()], size=LENGTH)
    return TextScores(ranks=tuple(ranks.tolist()), confidences=(0.5,) * LENGTH)


def served(*, scored: bool, seed: int, requests: int = 6) -> Tally:
    """A planner's first requests; after each, drafters that did not draft score it or do not."""
    planner, world, rng = PlannerPolicy(seed=seed), World(HAZARDS, seed=seed), np.random.default_rng(seed)
    total = Tally()
    for number in range(requests):
        tally = world.serve(planner, requests=1, length=LENGTH, first=number)
        total.tokens, total.ms = total.tokens + tally.tokens, total.ms + tally.ms
        total.plans += tally.plans
        if scored:
            idle = set(HAZARDS) - {name for plan in tally.plans for name in plan.drafters}
            context = RoundContext(
                request_id=f"request {number}",
                round=tally.rounds,
                drafters=tuple(HAZARDS),
                prompt_tokens=20,
                emitted_tokens=LENGTH,
                remaining_tokens=0,
            )
            planner.learn_scores(context, {name: scores_of(name, rng) for name in sorted(idle)})
    return total


def right(tally: Tally) -> float:
    return float(np.mean([plan.drafters == ("good",) for plan in tally.plans]))


def test_with_scores_the_right_drafter_is_found_sooner() -> None:
    """Among eight of whom seven are poor; nothing else tells them apart."""
    without, scored = ([served(scored=choice, seed=seed) for seed in range(8)] for choice in (False, True))

    assert np.mean([right(tally) for tally in scored]) > np.mean([right(tally) for tally in without]) + 0.02
    assert sum(tally.ms for tally in scored) < sum(tally.ms for tally in without)
