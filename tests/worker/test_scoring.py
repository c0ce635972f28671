"""Scoring: how a drafter would have ranked tokens that are known already."""

import numpy as np
import pytest
from numpy.typing import NDArray

from speculation.noise import gumbel_noise
from speculation.sampling import SamplingParameters
from speculation.tree import TreeShape
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    PROMPT,
    SAMPLINGS,
    context_of,
    new_session,
    reference_scores,
    reference_text,
    softmax,
    tiny_engine,
    work,
)
from worker import sessions
from worker.drafting import draft
from worker.engine import Engine
from worker.scoring import Scores, score
from worker.sessions import SessionTable


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(scope="module")
def table(engine: Engine) -> SessionTable:
    return SessionTable(engine, max_length=MAX_LENGTH)


def reference_confidences(
    sampling: SamplingParameters, scores: NDArray[np.float64], position: int
) -> NDArray[np.float64]:
    """(vocab,) chances of the next token, which decides with the noise most of the time, and else without."""
    if sampling.greedy:
        return softmax(scores)
    noise = gumbel_noise(sampling.seed, np.array([position]), len(scores))[0]
    return 0.85 * softmax(scores / 0.6) + 0.15 * softmax(scores - noise)


def reference_ranks(sampling: SamplingParameters, text: list[int]) -> Scores:
    """Rank and confidence of each token, by the plain model, one at a time."""
    ranks, confidences = [], []
    for end, token in enumerate(text):
        scores = reference_scores(sampling, [*PROMPT, *text[:end]], len(PROMPT))
        chances = reference_confidences(sampling, scores, len(PROMPT) + end)
        ranks.append(1 + int((chances > chances[token]).sum()))
        confidences.append(float(chances[token]))
    return Scores(ranks=tuple(ranks), confidences=tuple(confidences))


@pytest.mark.parametrize("slice_size", [256, 3])
@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_ranks_and_confidences_are_the_drafters_own(
    engine: Engine, table: SessionTable, monkeypatch: pytest.MonkeyPatch, sampling: SamplingParameters, slice_size: int
) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", slice_size)
    text = [*reference_text(sampling, 3), 17, 3, 250, 17, 8]

    session = new_session(sampling)
    scores = work(engine, table.call(session, context_of(PROMPT), score(engine, session, tuple(text))))

    expected = reference_ranks(sampling, text)
    assert scores.ranks[:3] == (1, 1, 1)
    assert scores.ranks == expected.ranks
    np.testing.assert_allclose(scores.confidences, expected.confidences, atol=1e-3)


def test_scoring_leaves_the_session_as_it_was(engine: Engine, table: SessionTable) -> None:
    sampling = SAMPLINGS["everything"]
    session, shape = new_session(sampling), TreeShape(depth=3, branching=2, budget=6)

    def propose() -> tuple[int, ...]:
        steps = draft(engine, session, shape, max_length=MAX_LENGTH)
        return work(engine, table.call(session, context_of(PROMPT), steps)).token_ids

    before = propose()
    work(engine, table.call(session, context_of(PROMPT), score(engine, session, (1, 2, 3, 4))))

    assert session.token_ids == list(PROMPT)
    assert propose() == before


def test_scoring_given_up_half_way_leaves_no_trace(
    engine: Engine, table: SessionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CPU_SLICE", 2)
    session = new_session()
    steps = table.call(session, context_of(PROMPT), score(engine, session, tuple(range(20))))
    chunk = next(steps)
    for _ in range(4):
        assert chunk is not None
        (logits,) = engine.forward([chunk])
        chunk = steps.send(logits)

    steps.close()

    text = tuple(reference_text(SAMPLINGS["greedy"], 3))
    scores = work(engine, table.call(session, context_of(PROMPT, len(PROMPT)), score(engine, session, text)))
    assert scores.ranks == (1, 1, 1)


def test_a_token_that_cannot_be_drafted_ranks_behind_all_that_can(engine: Engine, table: SessionTable) -> None:
    session = new_session(SamplingParameters(temperature=1.0, top_k=3, logit_bias={9: -np.inf}))

    scores = work(engine, table.call(session, context_of(PROMPT), score(engine, session, (9,))))

    assert scores.ranks == (4,)
    assert scores.confidences == (0.0,)
