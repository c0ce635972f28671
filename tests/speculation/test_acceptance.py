"""Laws of the acceptance walk."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from speculation.acceptance import walk
from speculation.tree import EMPTY_TREE, TokenTree, chain, merge, side_by_side
from tests.strategies import SMALL_VOCABULARY, trees

Target = Callable[[tuple[int, ...]], int]


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """A deterministic language: the next token is a function of the path so far."""
    multiplier, offset = draw(st.integers(1, 97)), draw(st.integers(0, 97))
    return lambda path: (
        (sum((place + 1) * token for place, token in enumerate(path)) * multiplier + offset) % (SMALL_VOCABULARY)
    )


def walked(tree: TokenTree, target: Target) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Accepted nodes and emitted tokens."""
    result = walk(tree, target(()), [target(tree.tokens_on_path(node)) for node in range(len(tree))])
    emitted = tuple(tree.token_ids[node] for node in result.accepted)
    return result.accepted, (*emitted, result.extra_token)


@given(trees(), targets())
def test_what_is_emitted_is_what_the_target_says_alone(tree: TokenTree, target: Target) -> None:
    _, emitted = walked(tree, target)

    plain: tuple[int, ...] = ()
    for _ in emitted:
        plain += (target(plain),)
    assert emitted == plain


@given(trees(), targets())
def test_the_walk_goes_as_deep_as_the_tree_foresaw(tree: TokenTree, target: Target) -> None:
    accepted, _ = walked(tree, target)

    foreseen = 0
    said: tuple[int, ...] = ()
    while (said := (*said, target(said))) in {tree.tokens_on_path(node) for node in range(len(tree))}:
        foreseen += 1
    assert len(accepted) == foreseen


@given(trees(), targets())
def test_accepted_nodes_are_one_path_from_the_root(tree: TokenTree, target: Target) -> None:
    accepted, _ = walked(tree, target)

    assert accepted == (tree.path(accepted[-1]) if accepted else ())


@given(trees(), trees(), targets())
def test_doubles_cost_nothing_but_time(one: TokenTree, other: TokenTree, target: Target) -> None:
    assert walked(side_by_side([one, other]), target)[1] == walked(merge([one, other]), target)[1]


def test_an_empty_tree_is_plain_decoding() -> None:
    assert walked(EMPTY_TREE, lambda path: 3) == ((), (3,))


def test_a_perfect_chain_is_accepted_whole() -> None:
    assert walked(chain([0, 1, 2]), len) == ((0, 1, 2), (0, 1, 2, 3))


def test_an_early_mismatch_rejects_all_that_follows() -> None:
    assert walked(chain([0, 5, 2]), len) == ((0,), (0, 1))
