"""What threads share: words by which they tell each other, and arrays at addresses."""

from typing import Any, cast

import numba
from llvmlite import ir
from numba import boolean, float32, int64, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic

from worker.kernels.processor import has
from worker.kernels.vectors import VectorCode


def _declare_read_word(_: Any, words: Any, index: Any) -> tuple[Any, Any]:
    """A word that other threads write, and after it what they wrote before."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load_atomic(_word(context, builder, signature, arguments), "acquire", 8)

    return int64(words, index), write


def _declare_write_word(_: Any, words: Any, index: Any, word: Any) -> tuple[Any, Any]:
    """Write a word that other threads read, after what was written before."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(arguments[2], _word(context, builder, signature, arguments), "release", 8)
        return context.get_dummy_value()

    return types.void(words, index, word), write


def _declare_replace_word(_: Any, words: Any, index: Any, word: Any, new: Any) -> tuple[Any, Any]:
    """Write a word if it still is what it was; whether it was."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _word(context, builder, signature, arguments)
        return builder.extract_value(builder.cmpxchg(at, arguments[2], arguments[3], "acq_rel", "acquire"), 1)

    return boolean(words, index, word, new), write


def _word(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Where a word of an array is."""
    return builder.gep(VectorCode(context, builder, signature, arguments).array(0).data, [arguments[1]])


def _declare_fence(_: Any) -> tuple[Any, Any]:
    """Nothing is read or written earlier or later than it stands here."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), write


def _declare_pause(_: Any) -> tuple[Any, Any]:
    """Some ten nanoseconds without work."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if has("sse2"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cast(Any, cgutils).get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), write


def _declare_rows_at(_: Any, address: Any, like: Any) -> tuple[Any, Any]:
    """Numbers of an array's kind at an address."""
    return _pointer(like.dtype, address, like)


def _declare_panels_at(_: Any, address: Any, like: Any) -> tuple[Any, Any]:
    """Panels of weights for such numbers at an address."""
    return _pointer(float32 if like.dtype == float32 else uint32, address, like)


def _declare_floats_at(_: Any, address: Any) -> tuple[Any, Any]:
    """Numbers of float32 at an address."""
    return _pointer(float32, address)


def _pointer(kind: Any, *given: Any) -> tuple[Any, Any]:
    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    pointer: Any = cast(Any, types).CPointer(kind)
    return pointer(*given), write


def _declare_copy_row(_: Any, source: Any, row: Any, target: Any, first: Any, count: Any) -> tuple[Any, Any]:
    """target[row, first : first + count] = source[row, :count]."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = VectorCode(context, builder, signature, arguments)
        _, row, _, first, count = arguments
        start, target_start = (
            code.row_at(array.data, row, builder.extract_value(array.shape, 1))
            for array in (code.array(0), code.array(2))
        )
        cast(Any, cgutils).raw_memcpy(builder, builder.gep(target_start, [first]), start, count, code.array(0).itemsize)
        return context.get_dummy_value()

    return types.void(source, row, target, first, count), write


read_word: Any = intrinsic(_declare_read_word)
write_word: Any = intrinsic(_declare_write_word)
replace_word: Any = intrinsic(_declare_replace_word)
fence: Any = intrinsic(_declare_fence)
pause: Any = intrinsic(_declare_pause)
rows_at: Any = intrinsic(_declare_rows_at)
panels_at: Any = intrinsic(_declare_panels_at)
floats_at: Any = intrinsic(_declare_floats_at)
array_at: Any = cast(Any, numba).carray
copy_row: Any = intrinsic(_declare_copy_row)
