"""The workers as requests use them: `generation.Fleet` over gRPC."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from controller.request import GenerationRequest
from controller.roster import Roster
from controller.sequence import Sequence
from controller.session import RequestSession
from controller.tasks import owned_tasks


class WorkerFleet(Roster):
    """A roster that gives places to requests. `run` keeps it up to date."""

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
