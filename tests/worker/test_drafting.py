"""Drafting: the tree goes where the target will, and says how sure it is."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, MAX_NODES, ROOT, TokenTree, TreeShape, prune
from tests.architectures import VOCAB_SIZE, plain_logits
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    MODEL,
    PROMPT,
    SAMPLINGS,
    context_of,
    new_session,
    reference_text,
    tiny_engine,
    work,
)
from worker import drafting, surprisal
from worker.drafting import draft
from worker.engine import Engine
from worker.sessions import Session, SessionTable, read_all


@pytest.fixture(scope="module")
def engine() -> Engine:
    return tiny_engine()


@pytest.fixture(scope="module")
def table(engine: Engine) -> SessionTable:
    return SessionTable(engine, max_length=MAX_LENGTH)


def shape(depth: int, branching: int, budget: int) -> TreeShape:
    return TreeShape(depth=depth, branching=branching, budget=budget)


def propose(
    engine: Engine,
    table: SessionTable,
    session: Session,
    wanted: TreeShape,
    tokens: Sequence[int] = PROMPT,
    base: int = 0,
) -> TokenTree:
    """The tree after the tokens."""
    steps = draft(engine, session, wanted, max_length=MAX_LENGTH)
    return work(engine, table.call(session, context_of(tokens, base), steps))


def children_of(session: Session, sampling_is_noisy: bool, path: tuple[int, ...]) -> list[tuple[int, float]]:
    """Every token that may follow the path, best first, with its confidence, by the plain model."""
    logits = plain_logits(MODEL, [*PROMPT, *path])[-1:]
    scores = session.sampler.scores(logits, PROMPT, [path])[0].double()
    chances = session.sampler.log_probs(logits, PROMPT, [path])[0].double().softmax(dim=-1)
    if sampling_is_noisy:
        chances = 0.85 * (scores / 0.6).softmax(dim=-1) + 0.15 * chances
    order = chances.argsort(descending=True).tolist()
    return [(token, float(chances[token])) for token in order if scores[token] > -torch.inf]


def grown_in_full(session: Session, noisy: bool, wanted: TreeShape) -> TokenTree:
    """The tree of EAGLE-2, level by level, pruned once at the end."""
    nodes: list[tuple[int, int, float, float, tuple[int, ...]]] = []
    frontier: list[tuple[int, float, tuple[int, ...]]] = [(ROOT, 1.0, ())]
    for _ in range(wanted.depth):
        level = []
        for parent, chance, path in frontier:
            for token, confidence in children_of(session, noisy, path)[: wanted.branching]:
                level.append((len(nodes), chance * confidence, (*path, token)))
                nodes.append((token, parent, confidence, chance * confidence, (*path, token)))
        frontier = sorted(level, key=lambda entry: -entry[1])[: wanted.branching]
    whole = TokenTree(
        token_ids=tuple(node[0] for node in nodes),
        parents=tuple(node[1] for node in nodes),
        confidences=tuple(min(1.0, node[2]) for node in nodes),
    )
    return prune(whole, wanted.budget)


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param(SAMPLINGS["greedy with penalties"], id="greedy with penalties"),
        pytest.param(SAMPLINGS["everything"], id="everything"),
        pytest.param(SamplingParameters(temperature=4.0, seed=1), id="far from sure"),
        pytest.param(SamplingParameters(logit_bias={3: 9.0, 4: 9.0, 5: 9.0}), id="torn between three"),
    ],
)
@pytest.mark.parametrize("wanted", [shape(5, 1, 5), shape(6, 1, 3), shape(4, 3, 12), shape(3, 6, 9)], ids=str)
def test_the_tree_is_the_best_of_all_that_grew_within_the_shape(
    engine: Engine, table: SessionTable, sampling: SamplingParameters, wanted: TreeShape
) -> None:
    """That growing ends early where nothing below could be kept does not show."""
    session = new_session(sampling)

    tree = propose(engine, table, session, wanted)

    expected = grown_in_full(session, not sampling.greedy, wanted)
    assert tree.token_ids == expected.token_ids
    assert tree.parents == expected.parents
    assert tree.confidences == pytest.approx(expected.confidences, abs=1e-3)


def test_calibrated_confidences_decide_what_is_drafted_and_are_told(engine: Engine, table: SessionTable) -> None:
    session, doubtful = new_session(), Calibration(offset=-1.0, slope=2.0)
    own = propose(engine, table, session, shape(6, 1, 6))
    least = min(own.path_confidences) * 0.99

    def drafted(calibration: Calibration) -> TokenTree:
        wanted = replace(shape(6, 1, 6), least_confidence=least)
        steps = draft(engine, session, wanted, max_length=MAX_LENGTH, calibration=calibration)
        return work(engine, table.call(session, context_of(PROMPT), steps))

    assert drafted(UNCALIBRATED) == own
    told = drafted(doubtful).confidences
    assert 0 < len(told) < len(own)
    assert told == pytest.approx([doubtful(confidence) for confidence in own.confidences[: len(told)]], rel=1e-3)


@pytest.mark.parametrize("least", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("wanted", [shape(6, 1, 6), shape(4, 3, 12)], ids=str)
def test_no_node_is_drafted_below_the_least_confidence(
    engine: Engine, table: SessionTable, wanted: TreeShape, least: float
) -> None:
    """What is left is what the whole tree has above it."""
    sampling = SamplingParameters(temperature=1.0, seed=1)
    whole = propose(engine, table, new_session(sampling), replace(wanted, budget=MAX_NODES))

    tree = propose(engine, table, new_session(sampling), replace(wanted, least_confidence=least))

    believed = [node for node, chance in enumerate(whole.path_confidences) if chance >= least]
    assert tree.token_ids == prune(whole.subtree(believed), wanted.budget).token_ids


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_a_drafter_that_is_the_target_drafts_what_the_target_says(
    engine: Engine, table: SessionTable, monkeypatch: pytest.MonkeyPatch, sampling: SamplingParameters
) -> None:
    """At every temperature, with every filter and penalty: seed, positions and paths are those of the target."""
    monkeypatch.setattr(drafting, "CERTAIN_SHARE", 1e-30)  # this target is never surer than its drafter
    text = reference_text(sampling, 6)

    tree = propose(engine, table, new_session(sampling), shape(6, 1, 6))

    assert list(tree.token_ids) == text


def test_without_the_noise_candidates_rank_by_probability_alone(engine: Engine, table: SessionTable) -> None:
    sampling = SAMPLINGS["temperature 0.7"]

    tree = propose(engine, table, new_session(sampling, coupled=False), shape(1, 4, 4))

    probs = (plain_logits(MODEL, PROMPT)[-1] / sampling.temperature).softmax(dim=-1)
    best = probs.topk(4)
    assert list(tree.token_ids) == best.indices.tolist()
    assert tree.confidences == pytest.approx(best.values.tolist(), rel=1e-3)


def test_impossible_tokens_are_never_drafted(engine: Engine, table: SessionTable) -> None:
    only_two = SamplingParameters(temperature=1.0, top_k=2, seed=4)
    forbidden = dict.fromkeys(range(VOCAB_SIZE - 3), -torch.inf)

    assert len(propose(engine, table, new_session(only_two), shape(2, 8, 64))) == 2 + 2 * 2
    tree = propose(engine, table, new_session(SamplingParameters(logit_bias=forbidden)), shape(2, 8, 64))
    assert set(tree.token_ids) == {VOCAB_SIZE - 3, VOCAB_SIZE - 2, VOCAB_SIZE - 1}


@pytest.mark.parametrize("wanted", [shape(4, 1, 4), shape(4, 3, 10)], ids=str)
def test_a_repeated_propose_gives_the_same_tree(engine: Engine, table: SessionTable, wanted: TreeShape) -> None:
    session = new_session(SAMPLINGS["everything"])
    first = propose(engine, table, session, wanted)

    again = propose(engine, table, session, wanted, base=len(PROMPT))

    assert (again.token_ids, again.parents) == (first.token_ids, first.parents)


@pytest.mark.parametrize("wanted", [shape(4, 1, 4), shape(4, 3, 10)], ids=str)
def test_the_tree_does_not_depend_on_what_was_drafted_before(
    engine: Engine, table: SessionTable, wanted: TreeShape
) -> None:
    """Round after round the cache keeps what came true of the last tree; a session that starts anew knows no tree."""
    sampling = SAMPLINGS["everything"]
    text, session = reference_text(sampling, 12), new_session(sampling)
    text[4], text[7], text[9] = 17, 18, 19  # the target disagrees with the drafter here
    for end in (0, 3, 5, 6, 10, 12):
        tokens = [*PROMPT, *text[:end]]
        tree = propose(engine, table, session, wanted, tokens, base=len(session.token_ids))
        anew = propose(engine, table, new_session(sampling), wanted, tokens)
        assert (tree.token_ids, tree.parents) == (anew.token_ids, anew.parents)


def test_what_came_true_of_the_last_tree_is_not_read_again(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    tree = propose(engine, table, session, shape(4, 1, 4))
    tokens = [*PROMPT, *tree.token_ids[:2], 77]

    steps = table.call(session, context_of(tokens, len(PROMPT)), draft(engine, session, shape(4, 1, 4), max_length=99))
    chunk = next(steps)

    assert chunk is not None
    assert list(chunk.token_ids) == [77]
    steps.close()


@pytest.mark.parametrize(("room", "depth"), [(0, 0), (1, 1), (3, 3), (9, 5)])
def test_a_tree_ends_where_the_context_does(engine: Engine, table: SessionTable, room: int, depth: int) -> None:
    tokens = [index % VOCAB_SIZE for index in range(MAX_LENGTH - room)]

    tree = propose(engine, table, new_session(prompt_length=5), shape(5, 2, 64), tokens)

    assert tree.depth == depth
    assert (tree == EMPTY_TREE) == (room == 0)


def test_the_largest_shape_fits(engine: Engine, table: SessionTable) -> None:
    tree = propose(engine, table, new_session(SAMPLINGS["temperature 1"]), shape(64, 64, 256))

    assert len(tree) == 256


def plain_surprisal(prompt: Sequence[int], window: int) -> float:
    """Mean negative log-likelihood of the last tokens of a prompt."""
    log_probs = plain_logits(MODEL, prompt).log_softmax(dim=-1)
    scored = range(max(1, len(prompt) - window), len(prompt))
    return -sum(float(log_probs[place - 1, prompt[place]]) for place in scored) / len(scored)


@pytest.mark.parametrize("window", [256, 6])
@pytest.mark.parametrize("pieces", [(10,), (4, 10), (1, 2, 3, 9, 10), (10, 3, 10)], ids=str)
def test_surprisal_is_that_of_the_prompts_last_tokens_however_it_arrives(
    engine: Engine, table: SessionTable, monkeypatch: pytest.MonkeyPatch, window: int, pieces: tuple[int, ...]
) -> None:
    monkeypatch.setattr(surprisal, "WINDOW", window)
    session = new_session()
    assert session.surprisal is not None
    for end in pieces:
        base = min(len(session.token_ids), end - 1)
        work(engine, table.call(session, context_of(PROMPT[:end], base), read_all(engine, session)))
        assert (session.surprisal.value is None) == (end < len(PROMPT))

    assert session.surprisal.value == pytest.approx(plain_surprisal(PROMPT, window), abs=1e-4)


def test_surprisal_is_known_after_a_propose_and_stays_as_the_answer_grows(engine: Engine, table: SessionTable) -> None:
    session = new_session()
    assert session.surprisal is not None
    for tokens in (PROMPT, (*PROMPT, 1, 2), (*PROMPT, 1, 2, 3, 4)):
        propose(engine, table, session, shape(3, 1, 3), tokens, base=len(session.token_ids))

        assert session.surprisal.value == pytest.approx(plain_surprisal(PROMPT, 256), abs=1e-4)


def test_a_prompt_of_one_token_has_no_surprisal(engine: Engine, table: SessionTable) -> None:
    session = new_session(prompt_length=1)
    propose(engine, table, session, shape(3, 1, 3), (5,))

    assert session.surprisal is not None
    assert session.surprisal.value is None
    assert not session.surprisal.pending
