"""What a drafter would have brought, worked out from one teacher-forced pass, is what it brings: round for round.

The models are the zoo's: random weights agree on nothing, so nothing could be accepted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

import pytest
import torch

from forerun.models import model_folder
from router_models.counterfactual import accepted_lengths, rounds_of
from router_models.fixed import StaticPolicy
from router_models.menu import LONG, chain_of
from router_models.plan import Plan
from router_models.policy import RoundContext, TextScores
from speculation.calibration import UNCALIBRATED, Calibration
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TreeShape
from tests.worker.tiny_worker import context_of, work
from worker.drafting import draft
from worker.engine import Engine
from worker.host import TREE_ROOM
from worker.models import load_model
from worker.sampling import Sampler
from worker.scoring import score
from worker.sessions import Session, SessionTable
from worker.surprisal import PromptSurprisal
from worker.verification import verify

MAX_LENGTH = 128
ANSWER = 20

PROMPTS = {
    "code": "def area(radius):\n    ",
    "math": "<|user|>\nCompute (2 + 3) * 4 - 5.\n<|assistant|>\n",
}

SAMPLINGS = {
    "greedy": SamplingParameters(),
    "greedy with penalties": SamplingParameters(repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.25),
    "temperature 1": SamplingParameters(temperature=1.0, seed=5),
    "everything": SamplingParameters(
        temperature=0.8, top_k=50, top_p=0.95, min_p=0.01, repetition_penalty=1.2, presence_penalty=0.4, seed=2**64 - 1
    ),
}

CALIBRATION = Calibration(offset=0.8, slope=0.6)

EXACT = {
    "chain of 4": chain_of(4),
    "chain that ends when unsure": chain_of(LONG, 0.3),
    "two levels": TreeShape(depth=2, branching=4, budget=20),
}

ALSO_EXACT = (
    TreeShape(depth=1, branching=8, budget=5),
    chain_of(1),
    chain_of(LONG),
    TreeShape(depth=6, branching=1, budget=3),
    TreeShape(depth=1, branching=8, budget=8),
    TreeShape(depth=2, branching=3, budget=12, least_confidence=0.05),
)

BOUNDED = (
    TreeShape(depth=4, branching=4, budget=12),
    TreeShape(depth=6, branching=4, budget=16),
    TreeShape(depth=6, branching=4, budget=16, least_confidence=0.04),
    TreeShape(depth=2, branching=4, budget=6),
    TreeShape(depth=4, branching=6, budget=5),
    TreeShape(depth=5, branching=2, budget=20),
)


@dataclass
class Model:
    """A model of the zoo, alone with its sessions."""

    engine: Engine
    table: SessionTable

    @classmethod
    def of(cls, name: str) -> "Model":
        engine = Engine(load_model(model_folder(f"zoo:{name}")).model, slots=2, max_length=MAX_LENGTH + TREE_ROOM)
        return cls(engine, SessionTable(engine, max_length=MAX_LENGTH))

    def session(self, sampling: SamplingParameters, prompt_length: int) -> Session:
        sampler = Sampler(
            sampling, vocab_size=self.engine.vocab_size, prompt_length=prompt_length, device=self.engine.device
        )
        return Session(sampler, PromptSurprisal(prompt_length))


@dataclass
class Served:
    """An answer, and how much of it each round's draft held."""

    prompt: list[int]
    token_ids: list[int]
    accepted: list[int]


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: Model.of(name) for name in ("target", *PROMPTS)}


def prompt_of(name: str) -> list[int]:
    token_ids: list[int] = load_model(model_folder("zoo:target")).tokenizer.encode(PROMPTS[name])
    return token_ids


def plan_of(shape: TreeShape, remaining: int) -> Plan:
    context = RoundContext(
        request_id="r", round=0, drafters=("d",), prompt_tokens=1, emitted_tokens=0, remaining_tokens=remaining
    )
    return StaticPolicy(shape=shape).plan(context).within(remaining)


@torch.inference_mode()
def serve(
    models: dict[str, Model],
    drafter: str,
    prompt: Sequence[int],
    sampling: SamplingParameters,
    shapes: Sequence[TreeShape],
    calibration: Calibration,
) -> Served:
    """The controller's loop over the workers' own drafting and verification; each round takes the next shape."""
    target, own = models["target"], models[drafter]
    verifying, drafting = (model.session(sampling, len(prompt)) for model in (target, own))
    token_ids, accepted, turns = list(prompt), [], cycle(shapes)
    while (remaining := len(prompt) + ANSWER - len(token_ids)) > 0:
        plan, tree = plan_of(next(turns), remaining), EMPTY_TREE
        if plan.speculates:
            steps = draft(own.engine, drafting, plan.shape, max_length=MAX_LENGTH, calibration=calibration)
            tree = plan.combine([work(own.engine, own.table.call(drafting, context_of(token_ids), steps))])
        held = verify(target.engine, verifying, tree)
        verdict = work(target.engine, target.table.call(verifying, context_of(token_ids), held))
        token_ids += verdict.token_ids
        accepted.append(verdict.num_accepted)
    for model, session in ((target, verifying), (own, drafting)):
        model.table.close(session)
    return Served(list(prompt), token_ids[len(prompt) :], accepted)


@torch.inference_mode()
def scores_of(model: Model, served: Served, sampling: SamplingParameters) -> TextScores:
    """One teacher-forced pass over the answer."""
    session = model.session(sampling, len(served.prompt))
    steps = score(model.engine, session, tuple(served.token_ids))
    scores = work(model.engine, model.table.call(session, context_of(served.prompt), steps))
    model.table.close(session)
    return TextScores(ranks=scores.ranks, confidences=scores.confidences)


@pytest.mark.parametrize("sampling", ["greedy with penalties", "everything"])
@pytest.mark.parametrize("shape", EXACT)
def test_predicted_and_observed_are_the_same_round_for_round(
    models: dict[str, Model], shape: str, sampling: str
) -> None:
    served = serve(models, "code", prompt_of("code"), SAMPLINGS[sampling], [EXACT[shape]], UNCALIBRATED)

    predicted = accepted_lengths(scores_of(models["code"], served, SAMPLINGS[sampling]), EXACT[shape])

    assert predicted.exact
    assert list(rounds_of(predicted.most)) == served.accepted


@pytest.mark.parametrize(
    ("drafter", "sampling", "calibration"),
    [
        ("code", "greedy", UNCALIBRATED),
        ("code", "greedy", CALIBRATION),
        ("code", "temperature 1", UNCALIBRATED),
        ("code", "everything", CALIBRATION),
        ("math", "temperature 1", UNCALIBRATED),
    ],
)
def test_so_they_are_for_any_shape_in_any_round_and_whoever_drafts(
    models: dict[str, Model], drafter: str, sampling: str, calibration: Calibration
) -> None:
    """Where nodes beside the text compete for the budget there are bounds; they hold."""
    shapes = [*EXACT.values(), *ALSO_EXACT, *BOUNDED]
    served = serve(models, drafter, prompt_of("code"), SAMPLINGS[sampling], shapes, calibration)

    scores, start = scores_of(models[drafter], served, SAMPLINGS[sampling]), 0
    for shape, observed in zip(cycle(shapes), served.accepted, strict=False):
        predicted = accepted_lengths(scores, shape, calibration=calibration)
        assert predicted.exact or shape in BOUNDED
        assert predicted.least[start] <= observed <= predicted.most[start]
        start += observed + 1


@pytest.mark.parametrize("shape", BOUNDED[1:3], ids=str)
def test_the_bounds_meet_where_a_drafter_is_sure(models: dict[str, Model], shape: TreeShape) -> None:
    served = serve(models, "math", prompt_of("math"), SamplingParameters(), [shape], UNCALIBRATED)

    predicted = accepted_lengths(scores_of(models["math"], served, SamplingParameters()), shape)

    assert sum(served.accepted) > ANSWER // 2
    assert list(rounds_of(predicted.least)) == list(rounds_of(predicted.most)) == served.accepted
