"""Verification: the answer is the target's, whatever trees it is shown."""

import random
from collections.abc import Callable, Sequence

import pytest

from speculation.sampling import SamplingParameters
from speculation.tree import EMPTY_TREE, ROOT, TokenTree, chain, side_by_side
from tests.architectures import VOCAB_SIZE, plain_logits
from tests.worker.tiny_worker import (
    MAX_LENGTH,
    MODEL,
    PROMPT,
    SAMPLINGS,
    context_of,
    new_session,
    reference_text,
    speculative_text,
    tiny_engine,
    work,
)
from worker.engine import Engine
from worker.evidence import by_kernel, by_torch
from worker.sessions import SessionTable
from worker.verification import verify

COUNT = 24

Answer = Sequence[int]
TreeMaker = Callable[[Answer], TokenTree]


@pytest.fixture(scope="module", params=[pytest.param(by_torch, id="torch"), pytest.param(by_kernel(), id="kernel")])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Whose logits are judged in either way."""
    engine = tiny_engine()
    engine.weigh = request.param
    return engine


def random_tree(rng: random.Random, tokens: Sequence[int], size: int) -> TokenTree:
    """A tree of any form whose nodes carry some of these tokens."""
    return TokenTree(
        token_ids=tuple(rng.choice(tokens) for _ in range(size)),
        parents=tuple(rng.randrange(ROOT, node) for node in range(size)),
        confidences=(0.5,) * size,
    )


def tree_makers(text: Answer) -> dict[str, TreeMaker]:
    """Ways to speculate, some of which know the answer."""
    rng = random.Random(0)

    def right(answer: Answer) -> TokenTree:
        return chain(text[len(answer) : len(answer) + 4])

    def wrong(answer: Answer) -> TokenTree:
        return chain([(token + 1) % VOCAB_SIZE for token in right(answer).token_ids])

    def wrong_in_the_middle(answer: Answer) -> TokenTree:
        token_ids = list(right(answer).token_ids)
        token_ids[1:2] = [(token + 1) % VOCAB_SIZE for token in token_ids[1:2]]
        return chain(token_ids)

    def doubled(answer: Answer) -> TokenTree:
        return side_by_side([wrong_in_the_middle(answer), right(answer), right(answer), wrong(answer)])

    def any_form(answer: Answer) -> TokenTree:
        return random_tree(rng, text, rng.randrange(14))

    def likely_form(answer: Answer) -> TokenTree:
        return random_tree(rng, text[len(answer) : len(answer) + 3] or [0], rng.randrange(14))

    makers = (right, wrong, wrong_in_the_middle, doubled, any_form, likely_form)
    return {maker.__name__: maker for maker in makers}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS.keys())
def test_the_answer_is_the_targets_own_whatever_trees_are_verified(
    engine: Engine, sampling: SamplingParameters
) -> None:
    text = reference_text(sampling, COUNT)

    assert speculative_text(engine, sampling, COUNT) == text
    for name, maker in tree_makers(text).items():
        assert speculative_text(engine, sampling, COUNT, maker) == text, name


def test_a_right_chain_is_accepted_whole(engine: Engine) -> None:
    text = reference_text(SAMPLINGS["everything"], 5)
    session = new_session(SAMPLINGS["everything"])

    steps = verify(engine, session, chain(text[:4]))
    verdict = work(engine, SessionTable(engine, max_length=MAX_LENGTH).call(session, context_of(PROMPT), steps))

    assert verdict.accepted == (0, 1, 2, 3)
    assert list(verdict.token_ids) == text
    assert session.token_ids == [*PROMPT, *text]


def test_probabilities_are_the_targets_before_any_transform(engine: Engine) -> None:
    sampling = SAMPLINGS["everything"]
    text = reference_text(sampling, 4)
    tree = side_by_side([chain([text[0], 9]), chain(text[:3])])
    session = new_session(sampling)

    steps = verify(engine, session, tree, top_logprobs=3)
    verdict = work(engine, SessionTable(engine, max_length=MAX_LENGTH).call(session, context_of(PROMPT), steps))

    log_probs = plain_logits(MODEL, [*PROMPT, *text]).log_softmax(dim=-1)[len(PROMPT) - 1 :]
    assert verdict.logprobs == pytest.approx([float(log_probs[at, token]) for at, token in enumerate(text)], abs=1e-4)
    assert verdict.node_probs == pytest.approx(
        [float(log_probs[at, token].exp()) for at, token in [(0, text[0]), (1, 9), *enumerate(text[:3])]], rel=1e-3
    )
    for at, entries in enumerate(verdict.top_logprobs):
        best = log_probs[at].topk(3)
        assert [entry.token_id for entry in entries] == best.indices.tolist()
        assert [entry.logprob for entry in entries] == pytest.approx(best.values.tolist(), abs=1e-4)
    assert len(verdict.top_logprobs) == len(text)


def test_a_repeated_call_gives_the_same_verdict_whatever_tree_it_carries(engine: Engine) -> None:
    table, session = SessionTable(engine, max_length=MAX_LENGTH), new_session(SAMPLINGS["top-p"])
    text = reference_text(SAMPLINGS["top-p"], 6)

    def call(tree: TokenTree) -> tuple[int, ...]:
        return work(engine, table.call(session, context_of(PROMPT), verify(engine, session, tree))).token_ids

    assert call(chain(text[:4])) == tuple(text[:5])
    assert call(EMPTY_TREE) == tuple(text[:1])
    assert call(chain(text[:2])) == tuple(text[:3])
    assert call(chain(text[:4])) == tuple(text[:5])


def test_of_a_round_the_accepted_tokens_need_no_second_forward(engine: Engine) -> None:
    table, session = SessionTable(engine, max_length=MAX_LENGTH), new_session()
    text = reference_text(SamplingParameters(), 6)
    work(engine, table.call(session, context_of(PROMPT), verify(engine, session, chain(text[:4]))))
    held = [*PROMPT, *text[:5]]

    steps = table.call(session, context_of(held, len(held)), verify(engine, session, EMPTY_TREE))
    chunk = next(steps)

    assert chunk is not None
    assert list(chunk.token_ids) == [text[4]]  # the extra token alone
    steps.close()


@pytest.mark.parametrize(
    ("bias", "text", "expected"), [(1e9, [1, 1, 1], 3), (0.0, reference_text(SamplingParameters(), 3), 0)]
)
def test_near_ties_are_counted_for_emitted_tokens(engine: Engine, bias: float, text: list[int], expected: int) -> None:
    """So large a bias leaves nothing of what two tokens differ by, anywhere in the tree."""
    own = tiny_engine()
    own.weigh = engine.weigh
    session = new_session(SamplingParameters(logit_bias={1: bias, 2: bias}))
    wrong = (text[0] + 1) % VOCAB_SIZE

    steps = verify(own, session, side_by_side([chain(text[:2]), chain([wrong, wrong])]))
    verdict = work(own, SessionTable(own, max_length=MAX_LENGTH).call(session, context_of(PROMPT), steps))

    assert (list(verdict.token_ids), verdict.near_ties) == (text, expected)
