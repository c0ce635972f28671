"""Numbers as a model keeps them, float32 or bfloat16, and functions that are compiled for both.

Sums are made in float32. bfloat16 is kept as uint16, the upper half of a float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import float32, int64, uint16, uint32, void
from numba.extending import intrinsic
from numpy.typing import NDArray

from speculation.compiled import EXACT, Function, compile_also, compiled
from worker.kernels.arithmetic import CONTRACTED
from worker.kernels.processor import MULTIPLIES_BFLOAT16

Rows = NDArray[np.float32] | NDArray[np.uint16]
Panels = NDArray[np.float32] | NDArray[np.uint32]
Sums = NDArray[np.float32]


class _Format(NamedTuple):
    """Types of arrays in which a model's numbers are kept."""

    row: Any
    rows: Any
    table: Any
    panels: Any


_FLOAT32 = _Format(float32[::1], float32[:, ::1], float32[:, :, ::1], float32[:, :, ::1])
_BFLOAT16 = _Format(uint16[::1], uint16[:, ::1], uint16[:, :, ::1], uint32[:, :, ::1])

_in_bfloat16: list[Callable[[], None]] = []
"""What compiles functions for bfloat16 that so far are for float32."""


def in_each_format(
    signature: Callable[[_Format], Any], *, fastmath: frozenset[str] = EXACT, nogil: bool = False
) -> Callable[[Function], Function]:
    """The function compiled for float32, and for bfloat16 once somebody asks for it."""

    def compile_function(function: Function) -> Function:
        kernel = compiled(signature(_FLOAT32), fastmath=fastmath, nogil=nogil)(function)
        _in_bfloat16.append(lambda: compile_also(kernel, signature(_BFLOAT16)))
        return kernel

    return compile_function


def compile_for_bfloat16() -> None:
    """Compile all for models in bfloat16, too, if the processor can multiply it: others need not pay for it."""
    if MULTIPLIES_BFLOAT16:
        for compile_kernel in _in_bfloat16:
            compile_kernel()


def _declare_number(_: Any, element: Any) -> tuple[Any, Any]:
    """A kept number as one of float32."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (element,) = arguments
        return element if signature.args[0] == float32 else widened(builder, element, ir.IntType(32), ir.FloatType())

    return float32(element), write


def widened(builder: Any, element: Any, integers: Any, floats: Any) -> Any:
    """One bfloat16, or a vector of them, in twice the bits."""
    lanes = getattr(integers, "count", None)
    half = ir.Constant(integers, 16 if lanes is None else [16] * lanes)
    return builder.bitcast(builder.shl(builder.zext(element, integers), half), floats)


def _declare_kept(_: Any, x: Any, array: Any) -> tuple[Any, Any]:
    """A number of float32 as an array keeps it: the nearest, of two the even one."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, _ = arguments
        return x if signature.return_type == float32 else narrowed(builder, x, ir.IntType(32))

    return array.dtype(x, array), write


def narrowed(builder: Any, x: Any, integers: Any) -> Any:
    """One number of float32, or a vector of them, as bfloat16."""
    lanes = getattr(integers, "count", None)
    halves = ir.IntType(16) if lanes is None else ir.VectorType(ir.IntType(16), lanes)

    def constant(value: int) -> Any:
        return ir.Constant(integers, value if lanes is None else [value] * lanes)

    bits = builder.bitcast(x, integers)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    upper = builder.lshr(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(16))
    is_none = builder.fcmp_unordered("uno", x, x)
    return builder.trunc(builder.select(is_none, constant(0x7FC0), upper), halves)


number: Any = intrinsic(_declare_number)
kept: Any = intrinsic(_declare_kept)


@compiled(fastmath=CONTRACTED)
def rounded(x: Any, array: Any) -> Any:
    """A number of float32, rounded as if the array had kept it."""
    return number(kept(x, array))


@in_each_format(lambda of: void(of.rows, int64, float32[:, ::1]))
def keep(rows: Rows, first: int, sums: Sums) -> None:
    """Keep what sums (n, width) come to as columns of rows, from the first one on."""
    for row in range(len(sums)):
        for i in range(sums.shape[1]):
            rows[row, first + i] = kept(sums[row, i], rows)
