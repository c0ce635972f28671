"""Starts the ranks of one target on this machine, each a process of its own, and ends all of them when one ends.

It is what torchrun does, but without a port: ranks that meet through a file of their own and talk over the loopback
can be reached by nobody else. For a target over several machines torchrun starts the ranks, and this is not needed.
"""

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from pathlib import Path

from speculation import tether

RANK, LOCAL_RANK, SIZE, MEETING_FILE = "RANK", "LOCAL_RANK", "WORLD_SIZE", "FORERUN_RANKS_FILE"
"""How a process learns its place from whoever started it; the first three are torchrun's names."""

LOOPBACK = "lo"
ENDS_WITHIN_S = 10.0
"""What ranks may take to end after rank 0."""


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether somebody has started this process as one of several ranks."""
    return RANK in environment and SIZE in environment


def launch(size: int, arguments: Sequence[str]) -> int:
    """Run `python -m worker` with these arguments as so many ranks; the exit status, once all have ended.

    SIGTERM and SIGINT are for rank 0, which ends the others when it has drained.
    """
    return asyncio.run(_run(size, arguments))


async def _run(size: int, arguments: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="forerun-ranks-") as folder:
        ranks = [await _start(rank, size, Path(folder) / "meeting", arguments) for rank in range(size)]
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _tell, ranks[0])
        try:
            return await _status(ranks)
        finally:
            for process in ranks:
                if process.returncode is None:
                    process.kill()
                    await process.wait()


async def _start(rank: int, size: int, meeting_file: Path, arguments: Sequence[str]) -> Process:
    place = {RANK: rank, LOCAL_RANK: rank, SIZE: size, "LOCAL_WORLD_SIZE": size, MEETING_FILE: meeting_file}
    interfaces = {"GLOO_SOCKET_IFNAME": LOOPBACK, "NCCL_SOCKET_IFNAME": LOOPBACK}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
        *(sys.executable, "-P", "-m", "worker", *arguments),
        env={**interfaces, **os.environ, **{name: str(value) for name, value in place.items()}},
    )


def _tell(process: Process) -> None:
    if process.returncode is None:
        process.terminate()


async def _status(ranks: Sequence[Process]) -> int:
    """Rank 0's exit status, once all have ended or had their time to; 1 as soon as another rank has failed."""
    waits = {asyncio.ensure_future(process.wait()): rank for rank, process in enumerate(ranks)}
    pending = set(waits)
    while pending:
        within_s = None if ranks[0].returncode is None else ENDS_WITHIN_S
        done, pending = await asyncio.wait(pending, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        failed = min((waits[wait] for wait in done if wait.result()), default=None)
        if failed:
            how = _how(ranks[failed].returncode or 0)
            print(f"worker: rank {failed} of {len(ranks)} {how}; the others end with it", file=sys.stderr)
            return 1
        if failed == 0 or not done:
            break
    return 1 if ranks[0].returncode else 0


def _how(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
