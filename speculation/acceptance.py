"""The lossless rule: walk down the tree for as long as it says what the target says."""

from collections.abc import Sequence
from dataclasses import dataclass

from speculation.tree import ROOT, TokenTree


@dataclass(frozen=True, slots=True)
class Walk:
    """What one verification accepted.

    Attributes:
        accepted: Accepted nodes, first level first.
        extra_token: The target's own token after the last accepted node.
    """

    accepted: tuple[int, ...]
    extra_token: int


def walk(tree: TokenTree, target_at_root: int, target_at: Sequence[int]) -> Walk:
    """Follow the target's own tokens through the tree.

    A node is accepted when its parent is and its token is the one the target emits after the parent. Of doubles (the
    same path twice) both are followed and the one that leads deepest counts.

    Args:
        tree: The drafted tree, of any number of nodes.
        target_at_root: Token the target emits after the last committed token.
        target_at: (nodes,), token the target emits after each node.

    Source: the drafter-invariant rule of Daliri, Musco and Suresh 2024, arXiv:2408.07978; greedy decoding is its
    noiseless case.
    """
    accepted = [False] * len(tree)
    deepest = ROOT
    for node, (token, parent) in enumerate(zip(tree.token_ids, tree.parents, strict=True)):
        follows = parent == ROOT or accepted[parent]
        accepted[node] = follows and token == (target_at_root if parent == ROOT else target_at[parent])
        if accepted[node] and (deepest == ROOT or tree.depths[node] > tree.depths[deepest]):
            deepest = node
    extra_token = target_at_root if deepest == ROOT else target_at[deepest]
    return Walk(accepted=tree.path(deepest), extra_token=extra_token)
