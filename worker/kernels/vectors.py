"""Code of vectors in LLVM's own words, where it would not find them in loops of Python's."""

from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils

from worker.kernels.processor import LANES


class VectorCode:
    """Writes what is done with vectors of LANES numbers, in the code of an intrinsic."""

    vector = ir.VectorType(ir.FloatType(), LANES)
    number = ir.IntType(64)

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._context, self._builder, self._kinds, self._arguments = context, builder, signature.args, arguments
        self._cgutils = cast(Any, cgutils)

    def array(self, place: int) -> Any:
        """An argument that is one."""
        return self._context.make_array(self._kinds[place])(self._context, self._builder, self._arguments[place])

    def row_at(self, data: Any, index: Any, size: Any) -> Any:
        """Where a row of so many numbers begins."""
        return self._builder.gep(data, [self._builder.mul(index, size)])

    def vector_at(self, pointer: Any, kind: Any = vector) -> Any:
        """The vector that begins with this number."""
        return self._builder.bitcast(pointer, kind.as_pointer())


def plus_product(builder: Any, total: Any, factor: Any, other: Any) -> Any:
    """total + factor * other, rounded once where the processor can."""
    return builder.fadd(total, builder.fmul(factor, other, flags=("contract",)), flags=("contract",))


def spread(builder: Any, number: Any, wide: ir.VectorType) -> Any:
    """A vector of one number."""
    none = ir.Constant(wide, ir.Undefined)
    first = builder.insert_element(none, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(ir.IntType(32), wide.count), None))
