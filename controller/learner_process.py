"""The learner in a process of its own, beside the controller that starts it: learning takes no time from requests.

The two are joined by two pipes. The controller says once what is to be learnt, and its end of the pipe closes when it
ends, however it ends; the learner says when it becomes the one that learns for all, and when it no longer is.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass

from controller.event_log import redis_client
from controller.learner import Learner
from controller.snapshot import Keys
from router_models.catalogue import all_policies
from router_models.policy import LearningPolicy
from speculation.errors import InvalidModelStateError
from speculation.logs import log_to_stderr
from speculation.redis_failures import REDIS_FAILURES
from speculation.tree import TreeShape

logger = logging.getLogger(__name__)

RESTART_PAUSE_S = 5.0
"""Between two starts, at least: a learner that cannot live must not keep a processor busy with being born."""

END_TIMEOUT_S = 5.0

LEADS, FOLLOWS = b"1", b"0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """What is to be learnt.

    Attributes:
        url: Of Redis.
        namespace: Whose log.
        policy: By what.
        shape: As `all_policies` takes it.
        drafter: Likewise.
        interval_s: Between two looks at the log.
        lease_s: A learner that has not been heard of for so long is replaced.
    """

    url: str
    namespace: str
    policy: str
    shape: TreeShape
    drafter: str | None
    interval_s: float
    lease_s: float

    def to_json(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> "Lessons":
        """Those of a line."""
        fields = json.loads(line)
        return cls(**fields | {"shape": TreeShape(**fields["shape"])})

    def make_policy(self) -> LearningPolicy:
        """One that has learnt nothing."""
        policy = all_policies(shape=self.shape, drafter=self.drafter)[self.policy]
        assert isinstance(policy, LearningPolicy)
        return policy


class LearnerProcess:
    """A learner that lives in a process of its own, and is born again when it dies."""

    def __init__(self, lessons: Lessons) -> None:
        self._lessons = lessons
        self._process: subprocess.Popen[bytes] | None = None
        self._start_at = 0.0
        self._leads = False

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    async def step(self) -> bool:
        """Whether it learns for all now. It is seen to that it lives."""
        if self._process is not None and self._process.poll() is not None:
            logger.warning("the learner ended and is started again", extra={"exit_code": self._process.returncode})
            await self.close()
        now = asyncio.get_running_loop().time()
        if self._process is None and now >= self._start_at:
            self._start_at = now + RESTART_PAUSE_S
            self._start()
        if self._process is not None and (said := _heard(self._process)):
            self._leads = said.endswith(LEADS)
        return self._leads

    async def close(self) -> None:
        """Let it write down what it has learnt and give its lease back."""
        process, self._process, self._leads = self._process, None, False
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            await asyncio.to_thread(process.wait, END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _start(self) -> None:
        # Not by the event loop's own means: those fork, of which gRPC complains once it has threads; this one does not.
        process = self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", __name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the controller; the learner ends with it
        )
        assert process.stdin is not None
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        process.stdin.write(self._lessons.to_json())
        process.stdin.flush()


def _heard(process: "subprocess.Popen[bytes]") -> bytes:
    """What it has said since it was last listened to."""
    assert process.stdout is not None
    return process.stdout.read() or b""


async def learn(lessons: Lessons, *, until: "asyncio.Future[bytes]") -> None:
    """Be a learner until told to end; while Redis is away, or its snapshot damaged, try again."""
    async with redis_client(lessons.url) as redis:
        keys = Keys(lessons.namespace, lessons.policy)
        learner = Learner(redis, keys, lessons.make_policy, lease_s=lessons.lease_s)
        leads, problem = False, ""
        while not until.done():
            before, known = leads, problem
            try:
                leads, problem = await learner.step(longest_s=lessons.interval_s), ""
            except (*REDIS_FAILURES, InvalidModelStateError) as error:
                leads, problem = False, str(error)
            if problem and problem != known:
                logger.warning("nothing can be learnt", extra={"policy": lessons.policy, "problem": problem})
            if leads is not before:
                os.write(sys.stdout.fileno(), LEADS if leads else FOLLOWS)
            await asyncio.wait((until,), timeout=lessons.interval_s)
        with suppress(*REDIS_FAILURES):  # then the lease lapses
            await learner.close()


async def main() -> None:
    """Learn what the first line on stdin says, until stdin ends."""
    pipe = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(pipe), sys.stdin)
    lessons = Lessons.from_json(await pipe.readline())
    await learn(lessons, until=asyncio.ensure_future(pipe.read()))


if __name__ == "__main__":
    log_to_stderr()
    asyncio.run(main())
