"""What a drafter is, and the one of them that is a language model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from weakref import WeakKeyDictionary

from speculation.calibration import UNCALIBRATED, Calibration
from speculation.foresight import MOST_OUTCOMES, Foreseen
from speculation.tree import TokenTree, TreeShape
from worker.batching import Steps
from worker.drafting import Begun, draft
from worker.engine import Engine
from worker.foresight import foresee
from worker.scoring import Scores, score
from worker.sessions import Session, read_all


class Drafter(ABC):
    """Proposes what may follow. Every method is a job for a session whose context is taken and whose slot is held.

    Attributes:
        most_outcomes: Outcomes of a verification that it can be asked to foresee; 0: it drafts nothing ahead.
    """

    most_outcomes = 0

    @abstractmethod
    def read(self, session: Session) -> Steps[int]:
        """Prepare for the session's tokens; returns how many are held."""

    @abstractmethod
    def draft(
        self, session: Session, shape: TreeShape, *, max_length: int, calibration: Calibration = UNCALIBRATED
    ) -> Steps[TokenTree]:
        """The tree most worth verifying after the context."""

    def foresee(
        self,
        session: Session,
        tree: TokenTree,
        shape: TreeShape,
        *,
        count: int,
        max_length: int,
        calibration: Calibration = UNCALIBRATED,
    ) -> Steps[tuple[Foreseen, ...]]:
        """What `draft` would answer after the likeliest outcomes of a verification, at most most_outcomes."""
        raise NotImplementedError(f"{type(self).__name__} drafts nothing ahead")

    @abstractmethod
    def score(self, session: Session, token_ids: Sequence[int]) -> Steps[Scores]:
        """How it would have ranked tokens that are known already."""


class LanguageModelDrafter(Drafter):
    """A drafter by an engine: see worker/drafting.py, worker/foresight.py and worker/scoring.py.

    Args:
        engine: Of the drafting model.
    """

    most_outcomes = MOST_OUTCOMES

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._begun: WeakKeyDictionary[Session, Begun] = WeakKeyDictionary()

    def read(self, session: Session) -> Steps[int]:
        """See `read_all`."""
        return read_all(self._engine, session)

    def draft(
        self, session: Session, shape: TreeShape, *, max_length: int, calibration: Calibration = UNCALIBRATED
    ) -> Steps[TokenTree]:
        """See `draft`. What the last `foresee` has begun is gone on with, once."""
        begun = self._begun.pop(session, None)
        return draft(self._engine, session, shape, max_length=max_length, calibration=calibration, begun=begun)

    def foresee(
        self,
        session: Session,
        tree: TokenTree,
        shape: TreeShape,
        *,
        count: int,
        max_length: int,
        calibration: Calibration = UNCALIBRATED,
    ) -> Steps[tuple[Foreseen, ...]]:
        """See `foresee`."""
        begun = self._begun[session] = {}
        return foresee(
            self._engine,
            session,
            tree,
            shape,
            count=count,
            max_length=max_length,
            calibration=calibration,
            begun=begun,
        )

    def score(self, session: Session, token_ids: Sequence[int]) -> Steps[Scores]:
        """See `score`."""
        return score(self._engine, session, token_ids)
