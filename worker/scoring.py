"""Scoring: how a drafter would have ranked tokens that are known already, by one teacher-forced pass."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker.batching import Steps
from worker.drafting import log_confidences
from worker.engine import Chunk, Engine
from worker.sessions import Session, read


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Per scored token.

    Attributes:
        ranks: Place among the drafter's candidates, 1 the first.
        confidences: The drafter's confidence in it.
    """

    ranks: tuple[int, ...]
    confidences: tuple[float, ...]


def score(engine: Engine, session: Session, token_ids: Sequence[int]) -> Steps[Scores]:
    """Rank the tokens that follow the context, each given those before it; the session's own tokens stay as they are.

    Args:
        engine: The drafter.
        session: Its context taken, its slot held.
        token_ids: At least one.
    """
    length = len(session.token_ids)
    yield from read(engine, session, length - 1)
    ranks: list[int] = []
    chances: list[float] = []
    before = [session.token_ids[-1], *token_ids[:-1]]
    for start in range(0, len(token_ids), session.slice_size):
        stop = start + session.slice_size
        logits = yield Chunk(slot=session.slot, token_ids=before[start:stop])
        engine.commit(session.slot)
        asked = torch.tensor(token_ids[start:stop], device=engine.device)[:, None]
        paths = [token_ids[:end] for end in range(start, start + len(asked))]
        ranked = log_confidences(session.sampler, logits, session.token_ids, paths)
        known = ranked.gather(1, asked)
        ranks += (1 + (ranked > known).sum(dim=-1)).tolist()
        chances += known[:, 0].exp().tolist()
    engine.truncate(session.slot, length)
    return Scores(ranks=tuple(ranks), confidences=tuple(chances))
