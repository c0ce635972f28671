"""The processes that serve one target together, each holding a part of every layer: tensor parallelism (Shoeybi et al.
2019, arXiv:1909.08053), as transformers lays it out.

A forward is one that all ranks run at the same moment; inside it they exchange sums. Rank 0 decides which forward that
is, and tells the others what it does before it does it. They wait for that in a group of their own, on the processor
and with endless patience: a GPU would spin, and the group of the forwards gives up after minutes.
"""

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as distributed

from speculation.errors import ConfigurationError, ForerunError
from worker.launcher import LOCAL_RANK, MEETING_FILE, RANK, SIZE

FORWARD_TIMEOUT = timedelta(minutes=5)
"""For what ranks do together, and for their meeting. A rank that is dead is noticed at once, one that hangs by this."""

PATIENCE = timedelta(days=365)
"""Between two orders."""

PAGE = 4096
"""Bytes of a message that is passed on in one go; most rounds fit."""

HEAD = 8

Order = Sequence[Any]
"""Name of what is to be done, then its arguments: what JSON can say."""

END = "end"
"""The last one."""


class RankLostError(ForerunError):
    """The ranks are no longer together: none of them can go on."""

    reason = "RANK_LOST"


class Ranks:
    """This process among the ranks.

    Args:
        size: How many there must be.
        device_type: "cpu" or "cuda".

    Attributes:
        rank: 0 for the one that is called by controllers.
        size: How many there are.
        device: The torch device of this one.

    Raises:
        ConfigurationError: Others were started than asked for, or they do not find each other.
    """

    def __init__(self, size: int, *, device_type: str) -> None:
        self.rank, self.size = int(os.environ[RANK]), int(os.environ[SIZE])
        if self.size != size:
            raise ConfigurationError("tensor_parallel", f"{size} ranks were asked for, and {self.size} started")
        place = f"cuda:{os.environ.get(LOCAL_RANK, self.rank)}" if device_type == "cuda" else device_type
        self.device = torch.device(place)
        _require_own_kind(self.device)
        try:
            self._meet()
        except (RuntimeError, ValueError) as error:
            problem = f"the ranks do not find each other ({str(error).splitlines()[0]})"
            raise ConfigurationError("tensor_parallel", problem) from error

    def _meet(self) -> None:
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.set_device(self.device)
        file = os.environ.get(MEETING_FILE)
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            init_method=f"file://{file}" if file else "env://",
            rank=self.rank,
            world_size=self.size,
            timeout=FORWARD_TIMEOUT,
            device_id=self.device if on_gpu else None,
        )
        self._orders = distributed.new_group(backend="gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def least(self, number: int) -> int:
        """The least of the numbers that the ranks bring; waits for all of them, however long they take."""
        least = torch.tensor([number])
        try:
            distributed.all_reduce(least, distributed.ReduceOp.MIN, group=self._orders)
        except RuntimeError as error:
            raise RankLostError(_lost(error)) from error
        return int(least)

    def tell(self, orders: Sequence[Order]) -> None:
        """Let the other ranks do this, in this order; for rank 0."""
        said = json.dumps(orders, separators=(",", ":")).encode()
        said = len(said).to_bytes(HEAD, "little") + said
        said += b" " * (PAGE - len(said))
        for part in (said[:PAGE], said[PAGE:]):
            if part:
                distributed.broadcast(torch.frombuffer(bytearray(part), dtype=torch.uint8), 0, group=self._orders)

    def hear(self) -> Sequence[Order]:
        """What rank 0 tells next.

        Raises:
            RankLostError: Rank 0 is gone.
        """
        said = self._received(PAGE)
        length = int.from_bytes(said[:HEAD], "little")
        if length > PAGE - HEAD:
            said += self._received(length - (PAGE - HEAD))
        orders: list[Order] = json.loads(said[HEAD : HEAD + length])
        return orders

    def _received(self, size: int) -> bytes:
        buffer = torch.empty(size, dtype=torch.uint8)
        try:
            distributed.broadcast(buffer, 0, group=self._orders)
        except RuntimeError as error:
            raise RankLostError(_lost(error)) from error
        return buffer.numpy().tobytes()

    def abandon(self, error: BaseException) -> NoReturn:
        """End this process at once: a forward that not all ranks have finished leaves them out of step for good.

        Not in order, because other threads may wait inside of a forward that never ends. Sessions go on at another
        worker, and whoever started the ranks ends the others and starts them anew.
        """
        print(f"worker: {_lost(error)}", file=sys.stderr, flush=True)
        os._exit(1)

    def leave(self) -> None:
        """Let the others end, if this is rank 0, and part; nothing can be said afterwards."""
        with suppress(RuntimeError):  # whoever is gone already need not be told
            if self.leads:
                self.tell([[END]])
            distributed.destroy_process_group()


def _lost(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"the ranks of this target are no longer together: {lines[0] if lines else type(error).__name__}"


def _require_own_kind(device: torch.device) -> None:
    """transformers puts the parts of a model on the machine's accelerator, whatever is asked for."""
    accelerator = torch.accelerator.current_accelerator()
    available = "cpu" if accelerator is None or not torch.accelerator.is_available() else accelerator.type
    if device.type != available:
        problem = f"the parts of a model are put on the {available} here, not on the {device.type}"
        raise ConfigurationError("device", problem)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(
            "tensor_parallel", f"rank {device.index} has no GPU: this machine has {torch.cuda.device_count()}"
        )
