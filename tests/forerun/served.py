"""Rounds of a fleet that was never there: what each costs and brings is known, so a diagnosis can be judged."""

from dataclasses import replace

import numpy as np

from forerun.diagnosis.rows import Answer, Row
from router_models.plan import CHAIN_OF_4
from router_models.ranks import count_ranks
from speculation.tree import ROOT, TokenTree, TreeShape

ROUNDS_A_REQUEST = 12
TARGET_MS, NODE_MS = 40.0, 0.5
TAKEN, REFUSED = 1, 0


def served(
    count: int = 120,
    *,
    drafter: str = "code",
    task: str = "code",
    rate: float = 0.75,
    shape: TreeShape = CHAIN_OF_4,
    forward_ms: float = 3.0,
    link_ms: float = 1.3,
    draft_queue_ms: float = 0.1,
    target_link_ms: float = 1.3,
    queue_ms: float = 0.1,
    batch: int = 1,
    sampled: bool = False,
    policy: str = "planner",
    forced: bool = False,
    offered: tuple[str, ...] = ("code", "docs"),
    address: str = "",
    requests: str = "r",
    seed: int = 0,
) -> list[Row]:
    """Rounds in which one drafter drafts; the target takes its first candidate at a rate, another one never.

    Args:
        count: How many.
        drafter: Who drafts.
        task: Label of the requests.
        rate: Chance of each first candidate.
        shape: What is asked for; wide trees have all their candidates under the first one of each level.
        forward_ms: Of the drafter.
        link_ms: To the drafter and back.
        draft_queue_ms: Before it begins.
        target_link_ms: To the target and back.
        queue_ms: Before it begins.
        batch: Sessions that share the target's forwards.
        sampled: Whether the temperature is above 0.
        policy: Who decides.
        forced: Whether it had a choice.
        offered: Drafters there are.
        address: Of the drafter's worker; by default its name.
        requests: How they are called.
        seed: Of the chance.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        tree, trunk = _tree(shape)
        kept = int(np.argmin([*(rng.random(len(trunk)) < rate), False]))
        token_ids = (TAKEN,) * kept + (REFUSED,)
        found, looked = count_ranks(tree, token_ids, shape)[:, 0]
        compute_ms = forward_ms * tree.depth
        answer = Answer(
            drafter=drafter,
            address=address or f"{drafter}:1",
            elapsed_ms=compute_ms + draft_queue_ms + link_ms,
            worker_ms=compute_ms + draft_queue_ms,
            queue_ms=draft_queue_ms,
            compute_ms=compute_ms,
            forwards=tree.depth,
            found=float(found),
            looked=float(looked),
        )
        rows.append(
            replace(
                plain(
                    1,
                    task=task,
                    target_link_ms=target_link_ms,
                    queue_ms=queue_ms,
                    batch=batch,
                    nodes=len(tree),
                    sampled=sampled,
                    policy=policy,
                    forced=forced,
                    offered=offered,
                )[0],
                request_id=f"{requests}{number // ROUNDS_A_REQUEST}",
                number=number % ROUNDS_A_REQUEST,
                drafters=(drafter,),
                shape=shape,
                tree=tree,
                accepted=tuple(trunk[:kept]),
                tokens=1.0 + kept,
                answers=(answer,),
                draft_ms=answer.elapsed_ms,
            )
        )
    return rows


def plain(
    count: int,
    *,
    task: str = "code",
    target_link_ms: float = 1.3,
    queue_ms: float = 0.1,
    batch: int = 1,
    nodes: int = 0,
    sampled: bool = False,
    policy: str = "planner",
    forced: bool = False,
    offered: tuple[str, ...] = ("code", "docs"),
) -> list[Row]:
    """Rounds of plain decoding; with `nodes`, the target's part of others."""
    compute_ms = TARGET_MS + NODE_MS * batch * (nodes + 1)
    row = Row(
        request_id="plain",
        number=1,
        task=task,
        sampled=sampled,
        policy=policy,
        forced=forced,
        offered=offered,
        verify_ms=compute_ms + queue_ms + target_link_ms,
        other_ms=0.3,
        target="target:1",
        verify_worker_ms=compute_ms + queue_ms,
        verify_queue_ms=queue_ms,
        verify_compute_ms=compute_ms,
        batch=batch,
    )
    return [replace(row, request_id=f"plain{number // ROUNDS_A_REQUEST}") for number in range(count)]


def _tree(shape: TreeShape) -> tuple[TokenTree, list[int]]:
    """A tree of a shape, and its trunk: the likeliest candidate of each level."""
    parents: list[int] = []
    trunk = [ROOT]
    while len(trunk) <= shape.depth and len(parents) + shape.branching <= shape.budget:
        first = len(parents)
        parents += [trunk[-1]] * shape.branching
        trunk.append(first)
    tokens = [TAKEN if node in trunk else 2 + node for node in range(len(parents))]
    confidences = [0.7 if node in trunk else 0.2 for node in range(len(parents))]
    return TokenTree(token_ids=tuple(tokens), parents=tuple(parents), confidences=tuple(confidences)), trunk[1:]
