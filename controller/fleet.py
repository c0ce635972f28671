"""The workers as requests use them: `generation.Fleet` over gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import PurePath

from controller.generation import ServedModel
from controller.request import GenerationRequest
from controller.roster import Roster
from controller.sequence import Sequence
from controller.session import RequestSession
from controller.tasks import owned_tasks
from controller.worker_client import Role


class WorkerFleet(Roster):
    """A roster that gives places to requests. `run` keeps it up to date."""

    @property
    def model(self) -> ServedModel | None:
        """The target's, which all verify workers share; None while none of them serves."""
        described = (worker.description for worker in self.workers if worker.serving and worker.role is Role.VERIFY)
        for target in filter(None, described):
            return ServedModel(
                name=_without_folders(target.model), revision=target.model_revision, max_length=target.max_length
            )
        return None

    @asynccontextmanager
    async def session(
        self, request: GenerationRequest, sequence: Sequence, *, deadline: float
    ) -> AsyncIterator[RequestSession]:
        """A place for one request; see `generation.Fleet`."""
        async with owned_tasks() as spawn:
            session = RequestSession(self, request, deadline=deadline, spawn=spawn)
            try:
                session.begin(sequence)
                yield session
            finally:
                session.close()


def _without_folders(model: str) -> str:
    """A hub id as it is; of a path only its end, as callers need not know where things lie on the target's machine."""
    return PurePath(model).name if PurePath(model).is_absolute() or model.startswith(".") else model
