"""How many slots a worker gets: as many as asked for, or as fit into the memory that its cache may take."""

from pathlib import Path

import psutil
import torch

from speculation.errors import ConfigurationError

GIBIBYTE = 2**30

DEFAULT_SLOTS = 16
"""Where the operator says neither how many nor how much memory."""

CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Bytes that this container may use, or "max"; absent outside of Linux."""


def free_bytes(device: torch.device) -> int:
    """Memory that a new allocation on the device may take, as far as is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    available: int = psutil.virtual_memory().available
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.is_file() else "max"
    return min(available, int(limit)) if limit.isdecimal() else available


def affordable_slots(slots: int | None, cache_gib: float | None, *, slot_bytes: int, free: int) -> int:
    """How many slots to set up.

    Args:
        slots: How many the operator wants; None: as many as fit into cache_gib.
        cache_gib: Most memory of all of them, in GiB; None: what the machine has.
        slot_bytes: Memory of one.
        free: Memory of the machine, in bytes.

    Raises:
        ConfigurationError: They do not fit.
    """
    if slots is None and cache_gib is not None:
        slots = int(cache_gib * GIBIBYTE // slot_bytes)
    slots = DEFAULT_SLOTS if slots is None else slots
    needed, size = max(slots, 1) * slot_bytes, f"{slot_bytes / GIBIBYTE:.3g} GiB a session of the longest kind"
    if cache_gib is not None and needed > cache_gib * GIBIBYTE:
        raise ConfigurationError(
            "cache_gib", f"{cache_gib:g} is too little for {max(slots, 1)} slots ({size}): lower max_length or slots"
        )
    if needed > free:
        raise ConfigurationError(
            "slots" if cache_gib is None else "cache_gib",
            f"{slots} slots need {needed / GIBIBYTE:.3g} GiB ({size}), and {free / GIBIBYTE:.3g} GiB are free here: "
            "lower max_length, slots or cache_gib",
        )
    return slots
