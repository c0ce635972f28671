"""Drafting ahead: what is foreseen is what a drafter would propose, and nothing that was read is read again."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.foresight import Foreseen
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, TokenTree, TreeShape, chain
from tests.architectures import VOCAB_SIZE
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    PROMPT,
    SAMPLINGS,
    context_of,
    new_session,
    reference_text,
    tiny_engine,
    work,
)
from worker import foresight
from worker.batching import GaveWayError, Result, Steps
from worker.drafting import Begun, draft
from worker.engine import Engine
from worker.foresight import foresee
from worker.sessions import Session, SessionTable
from worker.verification import verify

CHAIN = TreeShape(depth=4, branching=1, budget=4)
TREE = TreeShape(depth=4, branching=3, budget=12)
COUNT = 6
DOUBTFUL = Calibration(offset=-0.5, slope=1.5)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(scope="module")
def table(engine: Engine) -> SessionTable:
    return SessionTable(engine, max_length=MAX_LENGTH)


@pytest.fixture(autouse=True)
def likely(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model is never sure: for it, nothing would be worth foreseeing."""
    monkeypatch.setattr(foresight, "LEAST_CHANCE", 0.0)


def proposed(
    engine: Engine,
    table: SessionTable,
    session: Session,
    tokens: Sequence[int],
    shape: TreeShape,
    calibration: Calibration = UNCALIBRATED,
) -> TokenTree:
    """What the session's drafter proposes after the tokens."""
    steps = draft(engine, session, shape, max_length=MAX_LENGTH, calibration=calibration)
    return work(engine, table.call(session, context_of(tokens), steps))


def foreseen(
    engine: Engine,
    table: SessionTable,
    session: Session,
    tokens: Sequence[int],
    tree: TokenTree,
    shape: TreeShape,
    calibration: Calibration = UNCALIBRATED,
) -> tuple[Foreseen, ...]:
    """What it foresees while the target judges a tree after the tokens."""
    steps = foresee(engine, session, tree, shape, count=COUNT, max_length=MAX_LENGTH, calibration=calibration)
    return work(engine, table.call(session, context_of(tokens), steps))


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(SAMPLINGS["greedy"], id="greedy"),
        pytest.param(SAMPLINGS["greedy with penalties"], id="greedy with penalties"),
        pytest.param(SAMPLINGS["everything"], id="everything"),
        pytest.param(SamplingParameters(temperature=0.05, seed=3, repetition_penalty=1.5), id="nearly sure"),
    ],
)
@pytest.mark.parametrize(
    ("shape", "calibration"),
    [
        pytest.param(CHAIN, UNCALIBRATED, id="chain"),
        pytest.param(TREE, UNCALIBRATED, id="tree"),
        pytest.param(replace(TREE, least_confidence=0.01), DOUBTFUL, id="calibrated tree that ends where in doubt"),
    ],
)
def test_a_foreseen_tree_is_the_one_that_a_propose_gives_after_that_outcome(
    engine: Engine, table: SessionTable, sampling: SamplingParameters, shape: TreeShape, calibration: Calibration
) -> None:
    """Same noise, same penalties on the same path, same calibration."""
    session = new_session(sampling)
    tree = proposed(engine, table, session, PROMPT, shape, calibration)

    outcomes = foreseen(engine, table, session, PROMPT, tree, shape, calibration)

    assert len({outcome.token_ids for outcome in outcomes}) == COUNT
    for outcome in outcomes:
        tokens = [*PROMPT, *outcome.token_ids]
        expected = proposed(engine, table, new_session(sampling), tokens, shape, calibration)
        assert (outcome.tree.token_ids, outcome.tree.parents) == (expected.token_ids, expected.parents)
        assert outcome.tree.confidences == pytest.approx(expected.confidences, abs=1e-3)


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_an_outcome_ends_where_the_tree_has_no_such_child(
    engine: Engine, table: SessionTable, sampling: SamplingParameters
) -> None:
    """Else the target would have gone on: no verdict could say this."""
    tree = proposed(engine, table, new_session(sampling), PROMPT, TREE)
    paths = {tree.tokens_on_path(node) for node in (-1, *range(len(tree)))}

    for outcome in foreseen(engine, table, new_session(sampling), PROMPT, tree, CHAIN):
        assert outcome.token_ids[:-1] in paths
        assert outcome.token_ids not in paths


@pytest.mark.parametrize("tree", [chain([1, 2]), EMPTY_TREE], ids=["another's chain", "no tree"])
@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_drafter_that_is_the_target_foresees_what_the_target_says(
    engine: Engine, table: SessionTable, tree: TokenTree, length: int
) -> None:
    """Whoever drafted the tree, and however much of it is accepted; the noise tells the extra token, too."""
    sampling = SamplingParameters(temperature=0.05, seed=3)
    drafted = chain([*reference_text(sampling, length), *tree.token_ids], [0.9] * length + [0.1] * len(tree))
    session = new_session(sampling)
    verdict = work(engine, table.call(session, context_of(PROMPT), verify(engine, session, drafted)))

    outcomes = foreseen(engine, table, new_session(sampling), PROMPT, drafted, CHAIN)

    assert verdict.token_ids in [outcome.token_ids for outcome in outcomes]


def forwarded(engine: Engine, steps: Steps[Result], most: int | None = None) -> tuple[Result | None, int]:
    """What came of the steps and how many forwards they took; they end at the last of so many, its logits unseen."""
    forwards = 0
    try:
        chunk = next(steps)
        while forwards != most:
            assert chunk is not None
            (logits,) = engine.forward([chunk])
            forwards += 1
            if forwards != most:
                chunk = steps.send(logits)
    except StopIteration as stop:
        return stop.value, forwards
    with pytest.raises(GaveWayError):
        steps.throw(GaveWayError())
    return None, forwards


@pytest.mark.parametrize("sampling", [SAMPLINGS["greedy"], SAMPLINGS["everything"]], ids=["greedy", "everything"])
@pytest.mark.parametrize("shape", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("forwards", range(1, 6))
def test_a_tree_begun_ahead_grows_on_where_it_was_ended(
    engine: Engine, table: SessionTable, sampling: SamplingParameters, shape: TreeShape, forwards: int
) -> None:
    """It is the one that a drafter would propose that knew of nothing, with a forward less for each level looked at."""
    session, begun = new_session(sampling), Begun()
    tree = proposed(engine, table, session, PROMPT, CHAIN)
    outcome = foreseen(engine, table, session, PROMPT, tree, shape)[-1]
    tokens = [*PROMPT, *outcome.token_ids]
    ahead = foresee(engine, session, tree, shape, count=COUNT, max_length=MAX_LENGTH, begun=begun)
    forwarded(engine, table.call(session, context_of(PROMPT), ahead), most=forwards)

    steps = draft(engine, session, shape, max_length=MAX_LENGTH, begun=begun)
    grown, taken = forwarded(engine, table.call(session, context_of(tokens), steps))

    alone = new_session(sampling)
    proposed(engine, table, alone, PROMPT, shape)
    steps = draft(engine, alone, shape, max_length=MAX_LENGTH)
    expected, in_full = forwarded(engine, table.call(alone, context_of(tokens), steps))
    assert grown is not None
    assert expected is not None
    assert (grown.token_ids, grown.parents) == (expected.token_ids, expected.parents)
    assert grown.confidences == pytest.approx(expected.confidences, abs=1e-3)
    assert taken == in_full - max(forwards - 2, 0)


def test_a_tree_that_was_ready_is_told_without_a_forward(engine: Engine, table: SessionTable) -> None:
    """It was not heard of in time. Another shape, another calibration or other tokens are another tree."""
    session, begun = new_session(), Begun()
    tree = proposed(engine, table, session, PROMPT, CHAIN)
    steps = foresee(engine, session, tree, CHAIN, count=COUNT, max_length=MAX_LENGTH, begun=begun)
    outcome = work(engine, table.call(session, context_of(PROMPT), steps))[0]
    tokens = [*PROMPT, *outcome.token_ids]

    def forwards(tokens: Sequence[int], shape: TreeShape, calibration: Calibration) -> int:
        steps = draft(engine, session, shape, max_length=MAX_LENGTH, calibration=calibration, begun=begun)
        return forwarded(engine, table.call(session, context_of(tokens), steps))[1]

    assert forwards([*tokens[:-1], tokens[-1] - 1], CHAIN, UNCALIBRATED) == CHAIN.depth
    assert forwards(tokens, replace(CHAIN, depth=3, budget=3), UNCALIBRATED) == 3
    assert forwards(tokens, CHAIN, DOUBTFUL) == CHAIN.depth
    assert forwards(tokens, CHAIN, UNCALIBRATED) == 0


def test_a_model_that_is_unsure_is_never_silent(engine: Engine, table: SessionTable) -> None:
    """It has said something about the text, if ahead: what is empty without a forward is taken for no answer at all."""
    session, begun = new_session(), Begun()
    sure = replace(CHAIN, least_confidence=1.0)
    tree = proposed(engine, table, session, PROMPT, CHAIN)
    steps = foresee(engine, session, tree, sure, count=COUNT, max_length=MAX_LENGTH, begun=begun)
    outcome = work(engine, table.call(session, context_of(PROMPT), steps))[0]
    assert outcome.tree == EMPTY_TREE

    steps = draft(engine, session, sure, max_length=MAX_LENGTH, begun=begun)
    grown, taken = forwarded(engine, table.call(session, context_of([*PROMPT, *outcome.token_ids]), steps))

    assert (grown, taken) == (EMPTY_TREE, 1)


@pytest.mark.parametrize("ended_after", [1, 2, None])
def test_what_came_true_is_not_read_again(engine: Engine, table: SessionTable, ended_after: int | None) -> None:
    """Not even if the drafter was told to stop in the middle, or had not even time to look at its last forward."""
    session = new_session()
    tree = proposed(engine, table, session, PROMPT, CHAIN)
    steps = table.call(
        session,
        context_of(PROMPT, len(PROMPT)),
        foresee(engine, session, tree, CHAIN, count=2, max_length=MAX_LENGTH),
    )
    if ended_after is None:
        work(engine, steps)
    else:
        chunk = next(steps)
        for number in range(ended_after):
            assert chunk is not None
            (logits,) = engine.forward([chunk])
            if number + 1 < ended_after:
                chunk = steps.send(logits)
        with pytest.raises(GaveWayError):
            steps.throw(GaveWayError())

    tokens = [*PROMPT, *tree.token_ids, 77]
    again = table.call(session, context_of(tokens, len(PROMPT)), draft(engine, session, CHAIN, max_length=MAX_LENGTH))
    chunk = next(again)

    assert chunk is not None
    assert list(chunk.token_ids) == [77]
    again.close()


def test_the_prompts_surprisal_survives_a_reading_that_was_broken_off(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    steps = table.call(
        session, context_of(PROMPT), foresee(engine, session, EMPTY_TREE, CHAIN, count=1, max_length=MAX_LENGTH)
    )
    chunk = next(steps)
    assert chunk is not None
    engine.forward([chunk])
    with pytest.raises(GaveWayError):
        steps.throw(GaveWayError())

    proposed(engine, table, session, PROMPT, CHAIN)

    whole = new_session()
    proposed(engine, table, whole, PROMPT, CHAIN)
    assert session.surprisal is not None
    assert whole.surprisal is not None
    assert session.surprisal.value == whole.surprisal.value is not None


@pytest.mark.parametrize("room", [0, 1, 2, 3, 6, 30])
@pytest.mark.parametrize("shape", [CHAIN, TreeShape(depth=64, branching=64, budget=256)], ids=str)
def test_what_is_foreseen_fits_into_the_session(
    engine: Engine, table: SessionTable, room: int, shape: TreeShape
) -> None:
    """However large the trees, and however little room is left; what would not fit is not begun."""
    tokens = [index % VOCAB_SIZE for index in range(MAX_LENGTH - room)]
    session = new_session(prompt_length=5)
    tree = proposed(engine, table, session, tokens, replace(shape, budget=2))

    outcomes = foreseen(engine, table, session, tokens, tree, shape)

    assert bool(outcomes) == (room >= tree.depth + 2)
    for outcome in outcomes:
        after = [*tokens, *outcome.token_ids]
        assert outcome.tree.token_ids == proposed(engine, table, session, after, shape).token_ids
