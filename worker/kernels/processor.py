"""The processor that code is made for."""

from typing import Any, cast

import numba
from llvmlite.binding import get_host_cpu_features


def has(feature: str) -> bool:
    """Whether code is made for processors that have it."""
    told: str | None = cast(Any, numba.config).CPU_FEATURES
    return bool(get_host_cpu_features().get(feature)) if told is None else f"+{feature}" in told.split(",")


LANES = 16 if has("avx512f") else 8
"""Numbers of float32 in a register of the processor."""

MULTIPLIES_BFLOAT16 = has("avx512bf16")
"""Whether there is an instruction for products of bfloat16."""
