"""Drafting ahead: while the target judges a tree, its drafter guesses the verdict and drafts on from the guesses.

All guesses grow together, as branches of one scratch: a level of all their trees is one forward. What was forwarded
stays in the scratch, so that what comes true is not read again.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.foresight import MOST_OUTCOMES, Foreseen
from speculation.tree import MAX_NODES, ROOT, TokenTree, TreeShape
from worker.batching import Steps
from worker.drafting import Growth, grow, log_confidences, within
from worker.engine import Chunk, Engine
from worker.sessions import Session, read_to_tail

LEAST_CHANCE = 0.01
"""A likelier outcome is worth a branch of its own in every forward."""

BOLDER = Calibration(offset=2.0, slope=1.5)
"""What makes chances of a greedy drafter's confidences where the caller knows no better, to rank guesses alone: it is
right far more often than it believes, so that its own word would never guess that a whole tree is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What the target may say of a tree.

    Attributes:
        node: The last accepted node, or ROOT.
        extra_token: What it emits there instead of a child.
        chance: That it does so.
    """

    node: int
    extra_token: int
    chance: float


def foresee(
    engine: Engine,
    session: Session,
    tree: TokenTree,
    shape: TreeShape,
    *,
    count: int,
    max_length: int,
    calibration: Calibration = UNCALIBRATED,
) -> Steps[tuple[Foreseen, ...]]:
    """What `draft` would answer after the likeliest outcomes of a verification, likeliest first.

    Args:
        engine: The drafter.
        session: Its context taken, its slot held.
        tree: What the target judges.
        shape: Of the trees to draft after each outcome.
        count: Most outcomes.
        max_length: Tokens a session may hold; near it nothing is foreseen.
        calibration: What makes chances of confidences.
    """
    room = max_length - len(session.token_ids)
    if tree.depth + 2 > room:
        return ()
    tail = yield from read_to_tail(engine, session)
    root, num_in_scratch = len(tail) - 1, len(tail) + len(tree)
    logits = yield Chunk(
        slot=session.slot,
        token_ids=[*tail, *tree.token_ids],
        parents=[*range(ROOT, root), *(root + 1 + parent for parent in tree.parents)],
        wanted=range(root, num_in_scratch),
    )
    rows_left = engine.max_length - engine.length(session.slot) - num_in_scratch
    guesses = _likeliest(session, tree, logits, calibration)[: min(count, rows_left // _rows(shape))]
    said = [(*tree.tokens_on_path(guess.node), guess.extra_token) for guess in guesses]
    growths = [
        Growth(within(shape, room - len(tokens)), calibration, root=num_in_scratch + place, before=tokens)
        for place, tokens in enumerate(said)
    ]
    if not growths:
        return ()
    logits = yield Chunk(
        slot=session.slot,
        token_ids=[guess.extra_token for guess in guesses],
        parents=[root + 1 + guess.node for guess in guesses],
    )
    yield from grow(session, growths, logits, num_in_scratch=num_in_scratch + len(guesses))
    return tuple(Foreseen(token_ids=tokens, tree=growth.best()) for tokens, growth in zip(said, growths, strict=True))


def _rows(shape: TreeShape) -> int:
    """Most rows of a slot that the growth of one tree takes, its root's included."""
    return 1 + min(shape.branching * (shape.depth - 1), MAX_NODES)


def _likeliest(session: Session, tree: TokenTree, logits: Tensor, calibration: Calibration) -> list[Guess]:
    """Verdicts by their chance: that of the path to a node, times that of a token there which is none of its children.

    Args:
        session: Its tokens end at the root.
        tree: What is judged.
        logits: (1 + nodes, vocab), the drafter's at the root and after each node.
        calibration: What made chances of the tree's confidences.
    """
    if calibration == UNCALIBRATED and not session.sampler.noisy:
        tree, calibration = replace(tree, confidences=tuple(map(BOLDER, tree.confidences))), BOLDER
    nodes = range(ROOT, len(tree))
    children: dict[int, set[int]] = {node: set() for node in nodes}
    for token, parent in zip(tree.token_ids, tree.parents, strict=True):
        children[parent].add(token)
    ranked = log_confidences(session.sampler, logits, session.token_ids, [tree.tokens_on_path(node) for node in nodes])
    best = ranked.topk(min(MOST_OUTCOMES + max(map(len, children.values())), ranked.shape[-1]))
    guesses: list[Guess] = []
    for node, tokens, confidences in zip(nodes, best.indices.tolist(), best.values.exp().tolist(), strict=True):
        reached = 1.0 if node == ROOT else tree.path_confidences[node]
        for token, confidence in zip(tokens, confidences, strict=True):
            chance = reached * calibration(confidence)
            if confidence > 0.0 and chance >= LEAST_CHANCE and token not in children[node]:
                guesses.append(Guess(node=node, extra_token=token, chance=chance))
    return sorted(guesses, key=lambda guess: -guess.chance)
