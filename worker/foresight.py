"""Drafting ahead: while the target judges a tree, its drafter guesses the verdict and drafts on from the guesses.

All guesses grow together, as branches of one scratch: a level of all their trees is one forward. What was forwarded
stays in the scratch, so that what comes true is not read again.
"""

from dataclasses import dataclass

from torch import Tensor

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.foresight import MOST_OUTCOMES, Foreseen
from speculation.prefix import extend_hash
from speculation.tree import MAX_NODES, ROOT, TokenTree, TreeShape
from worker.batching import Steps
from worker.drafting import Begun, Growth, grow, log_confidences, within
from worker.engine import Chunk, Engine
from worker.sessions import Session, read_to_tail

LEAST_CHANCE = 0.005
"""A likelier outcome is worth a branch of its own in every forward."""

GREEDY_SHARPNESS = 2.0
"""To what power a greedy drafter's chances are raised to rank guesses: it is right far more often than it believes, so
that its own word would hardly ever guess that a whole tree is accepted. Where there is noise, it is to be believed."""


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
    begun: Begun | None = None,
) -> Steps[tuple[Foreseen, ...]]:
    """What `draft` would answer after the likeliest outcomes of a verification, likeliest first.

    Args:
        engine: The drafter.
        session: Its context taken, its slot held.
        tree: What the target judges.
        shape: Of the trees to draft after each outcome.
        count: Most outcomes.
        max_length: Tokens a session may hold; near it nothing is foreseen.
        calibration: What makes chances of the confidences of those trees.
        begun: Is told of them as soon as they grow, so that they are not lost if this is ended early.
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
    guesses = _likeliest(session, tree, logits)[: min(count, rows_left // _rows(shape))]
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
    if begun is not None:
        hashes = (extend_hash(session.prefix_hash, tokens) for tokens in said)
        begun.update(((known, shape, calibration), growth) for known, growth in zip(hashes, growths, strict=True))
    yield from grow(session, growths, logits, num_in_scratch=num_in_scratch + len(guesses))
    return tuple(Foreseen(token_ids=tokens, tree=growth.best()) for tokens, growth in zip(said, growths, strict=True))


def _rows(shape: TreeShape) -> int:
    """Most rows of a slot that the growth of one tree takes, its root's included."""
    return 1 + min(shape.branching * (shape.depth - 1), MAX_NODES)


def _likeliest(session: Session, tree: TokenTree, logits: Tensor) -> list[Guess]:
    """Verdicts by their chance: that of the path to a node, times that of a token there which is none of its children.

    The drafter judges by what it says itself, as the target will: the tree may be another's.

    Args:
        session: Its tokens end at the root.
        tree: What is judged.
        logits: (1 + nodes, vocab), the drafter's at the root and after each node.
    """
    nodes = range(ROOT, len(tree))
    ranked = log_confidences(session.sampler, logits, session.token_ids, [tree.tokens_on_path(node) for node in nodes])
    if session.sampler.parameters.greedy:
        ranked = (GREEDY_SHARPNESS * ranked).log_softmax(dim=-1)
    of_nodes = ranked[[1 + parent for parent in tree.parents], list(tree.token_ids)].exp().tolist()
    reached, children = {ROOT: 1.0}, {node: set[int]() for node in nodes}
    for node, (token, parent, chance) in enumerate(zip(tree.token_ids, tree.parents, of_nodes, strict=True)):
        reached[node] = reached[parent] * chance
        children[parent].add(token)
    best = ranked.topk(min(MOST_OUTCOMES + max(map(len, children.values())), ranked.shape[-1]))
    guesses: list[Guess] = []
    for node, tokens, chances in zip(nodes, best.indices.tolist(), best.values.exp().tolist(), strict=True):
        for token, chance in zip(tokens, chances, strict=True):
            if chance > 0.0 and reached[node] * chance >= LEAST_CHANCE and token not in children[node]:
                guesses.append(Guess(node=node, extra_token=token, chance=reached[node] * chance))
    return sorted(guesses, key=lambda guess: -guess.chance)
