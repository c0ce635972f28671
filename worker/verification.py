"""Verification: the rest of the context and the whole tree in one forward, then the walk; and a run after it."""

from collections.abc import Set
from time import perf_counter_ns

from torch import Tensor

from speculation.acceptance import walk
from speculation.tree import EMPTY_TREE, ROOT, TokenTree
from speculation.verdict import TokenLogprob, Verdict
from worker.batching import Steps
from worker.engine import Chunk, Engine
from worker.evidence import Weigh
from worker.sessions import Session, read_to_tail


def verify(
    engine: Engine,
    session: Session,
    tree: TokenTree,
    *,
    run: int = 0,
    stop_token_ids: Set[int] = frozenset(),
    top_logprobs: int = 0,
) -> Steps[Verdict]:
    """What the target emits after the context and along the tree; the session holds it afterwards.

    Args:
        engine: The target.
        session: Its context taken, its slot held.
        tree: Candidates, of which doubles are welcome.
        run: Tokens to decode after that, one forward each.
        stop_token_ids: The run ends with the first of these.
        top_logprobs: Likeliest alternatives to report for each emitted token.
    """
    verdict = yield from _verdict_on(tree, engine, session, top_logprobs, in_run=False)
    while verdict.num_run < run and verdict.token_ids[-1] not in stop_token_ids:
        began_ns = perf_counter_ns()
        plain = yield from _verdict_on(EMPTY_TREE, engine, session, top_logprobs, in_run=True)
        verdict = verdict.and_then(plain, took_ns=perf_counter_ns() - began_ns)
    return verdict


def _verdict_on(
    tree: TokenTree, engine: Engine, session: Session, top_logprobs: int, *, in_run: bool
) -> Steps[Verdict]:
    tail = yield from read_to_tail(engine, session)
    root = len(tail) - 1
    logits = yield Chunk(
        slot=session.slot,
        token_ids=[*tail, *tree.token_ids],
        parents=[*range(ROOT, root), *(root if parent == ROOT else len(tail) + parent for parent in tree.parents)],
        wanted=range(root, root + 1 + len(tree)),
        in_run=in_run,
    )
    verdict = judge(session, tree, logits, engine.weigh, top_logprobs=top_logprobs)
    engine.commit(session.slot, [*range(len(tail)), *(len(tail) + node for node in verdict.accepted)])
    session.append(verdict.token_ids)
    return verdict


def judge(session: Session, tree: TokenTree, logits: Tensor, weigh: Weigh, *, top_logprobs: int) -> Verdict:
    """The verdict on a tree.

    Args:
        session: Its tokens end at the root.
        tree: The tree.
        logits: (1 + nodes, vocab), the target's at the root and after each node.
        weigh: How to find out what it rests on.
        top_logprobs: Alternatives to report.
    """
    evidence = weigh(session.sampler, session.token_ids, tree, logits)
    walked = walk(tree, evidence.chosen[0], evidence.chosen[1:])
    reached = [0, *(1 + node for node in walked.accepted)]
    return Verdict(
        accepted=walked.accepted,
        token_ids=tuple(evidence.chosen[row] for row in reached),
        logprobs=tuple(evidence.logprobs[row] for row in reached),
        top_logprobs=_likeliest(logits[reached], top_logprobs) if top_logprobs else (),
        node_probs=tuple(evidence.node_probs),
        near_ties=sum(evidence.near[row] for row in reached),
    )


def _likeliest(logits: Tensor, count: int) -> tuple[tuple[TokenLogprob, ...], ...]:
    log_probs = logits.float().log_softmax(dim=-1)
    best = log_probs.topk(min(count, log_probs.shape[-1]))
    return tuple(
        tuple(map(TokenLogprob, token_ids, values))
        for token_ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    )
