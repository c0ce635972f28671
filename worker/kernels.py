"""What a decoder layer computes and what a verdict rests on, compiled by numba: torch's calls cost as much as the sums
of a small forward.

Each row is computed by itself in a fixed order, and attention reads the keys that a token sees in the order of its
text, so that a row's bits do not depend on the other rows of a forward.

Arrays keep numbers as the model does: float32, or bfloat16 as uint16, the upper halves of float32. Sums are made in
float32, and what they come to is rounded where transformers' layers round it.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numba
import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import boolean, float32, float64, int32, int64, types, uint16, uint32, void
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from speculation.compiled import EXACT, Function, compile_also, compiled

Rows = NDArray[np.float32] | NDArray[np.uint16]
Panels = NDArray[np.float32] | NDArray[np.uint32]
Sums = NDArray[np.float32]


def _has(feature: str) -> bool:
    """Whether code is made for processors that have it."""
    told: str | None = cast(Any, numba.config).CPU_FEATURES
    return bool(get_host_cpu_features().get(feature)) if told is None else f"+{feature}" in told.split(",")


LANES = 16 if _has("avx512f") else 8
"""Numbers of float32 in a register of the processor."""

WIDTH = 2 * LANES
"""Outputs of a panel."""

MOST_ROWS = 14 if LANES == 16 else 6
"""Rows of which sums are made at once: with WIDTH of each, the registers of the processor are nearly full."""

STEPS_AHEAD = 64
"""How early a panel's row is asked for: with more than a few rows to a panel, the processor itself asks too late."""

MULTIPLIES_BFLOAT16 = _has("avx512bf16")
"""Whether there is an instruction for products of bfloat16."""

REORDERED = frozenset({"reassoc", "contract", "arcp", "nsz"})
"""What sums need to be vectorised. Not `nnan` and `ninf`: what is no number stays none."""

CONTRACTED = frozenset({"contract"})
"""Not reordered; none at all would be the caller's, which are."""

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)

_vector, _sums, _places = float32[::1], float32[:, ::1], int64[:, ::1]


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


def _in_each_format(
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


def _declare_number(_: Any, kept: Any) -> tuple[Any, Any]:
    """A kept number as one of float32."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (kept,) = arguments
        return kept if signature.args[0] == float32 else _widened(builder, kept, ir.IntType(32), ir.FloatType())

    return float32(kept), write


def _widened(builder: Any, kept: Any, integers: Any, floats: Any) -> Any:
    """One bfloat16, or a vector of them, in twice the bits."""
    lanes = getattr(integers, "count", None)
    half = ir.Constant(integers, 16 if lanes is None else [16] * lanes)
    return builder.bitcast(builder.shl(builder.zext(kept, integers), half), floats)


def _declare_kept(_: Any, number: Any, array: Any) -> tuple[Any, Any]:
    """A number of float32 as an array keeps it: the nearest, of two the even one."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number, _ = arguments
        return number if signature.return_type == float32 else _narrowed(builder, number, ir.IntType(32))

    return array.dtype(number, array), write


def _narrowed(builder: Any, number: Any, integers: Any) -> Any:
    """One number of float32, or a vector of them, as bfloat16."""
    lanes = getattr(integers, "count", None)
    halves = ir.IntType(16) if lanes is None else ir.VectorType(ir.IntType(16), lanes)

    def constant(value: int) -> Any:
        return ir.Constant(integers, value if lanes is None else [value] * lanes)

    bits = builder.bitcast(number, integers)
    odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
    rounded = builder.lshr(builder.add(bits, builder.add(odd, constant(0x7FFF))), constant(16))
    is_none = builder.fcmp_unordered("uno", number, number)
    return builder.trunc(builder.select(is_none, constant(0x7FC0), rounded), halves)


_number: Any = intrinsic(_declare_number)
_kept: Any = intrinsic(_declare_kept)


@compiled(fastmath=CONTRACTED)
def _rounded(number: Any, array: Any) -> Any:
    """A number of float32, rounded as if the array had kept it."""
    return _number(_kept(number, array))


@compiled(fastmath=CONTRACTED)  # reordered, the rounding by adding and subtracting a large number would be left out
def _exp(x: Any) -> Any:
    """e to the x, within two units in the last place, x being cut to [-87, 88]. Source: Cephes, expf."""
    bounded = max(min(x, np.float32(88.0)), np.float32(-87.0))
    shifted = np.float32(bounded * np.float32(1.44269504) + np.float32(12582912.0))
    exponent = shifted - np.float32(12582912.0)
    rest = bounded - exponent * np.float32(0.693359375) + exponent * np.float32(2.12194440e-4)
    power = np.float32(1.9875691500e-4) * rest + np.float32(1.3981999507e-3)
    power = power * rest + np.float32(8.3334519073e-3)
    power = power * rest + np.float32(4.1665795894e-2)
    power = power * rest + np.float32(1.6666665459e-1)
    power = power * rest + np.float32(5.0000001201e-1)
    power = power * rest * rest + rest + _ONE
    return power * np.int32((shifted.view(np.int32) + np.int32(127)) << np.int32(23)).view(np.float32)


@_in_each_format(lambda of: void(of.rows, _vector, float32, of.rows), fastmath=REORDERED)
def normalise(rows: Rows, weight: Sums, eps: float, normed: Rows) -> None:
    """Root mean square norm of (n, channels). Source: Zhang and Sennrich 2019, arXiv:1910.07467."""
    size = rows.shape[1]
    for row in range(len(rows)):
        squares = _ZERO
        for i in range(size):
            squares += _number(rows[row, i]) * _number(rows[row, i])
        factor = _ONE / math.sqrt(squares / np.float32(size) + eps)
        for i in range(size):
            normed[row, i] = _kept(_rounded(_number(rows[row, i]) * factor, rows) * weight[i], rows)


@_in_each_format(lambda of: void(of.rows, of.rows), fastmath=REORDERED)
def add(rows: Rows, other: Rows) -> None:
    """Add (n, channels) to rows in place."""
    for row in range(len(rows)):
        for i in range(rows.shape[1]):
            rows[row, i] = _kept(_number(rows[row, i]) + _number(other[row, i]), rows)


@_in_each_format(lambda of: void(of.rows, _sums, float32), fastmath=REORDERED)
def normalise_heads(joined: Rows, weights: Sums, eps: float) -> None:
    """Root mean square norm of the first heads of each row, in place; weights are (heads, head size)."""
    num_heads, size = weights.shape
    heads = joined.reshape(len(joined), -1, size)
    for row in range(len(joined)):
        for head in range(num_heads):
            squares = _ZERO
            for i in range(size):
                squares += _number(heads[row, head, i]) * _number(heads[row, head, i])
            factor = _ONE / math.sqrt(squares / np.float32(size) + eps)
            for i in range(size):
                normed = _rounded(_number(heads[row, head, i]) * factor, heads)
                heads[row, head, i] = _kept(normed * weights[head, i], heads)


@_in_each_format(lambda of: void(of.rows, of.rows), fastmath=REORDERED)
def gate(gate_up: Rows, gated: Rows) -> None:
    """silu(gate) * up, for rows (n, 2 * hidden units) with gates first."""
    size = gated.shape[1]
    halves = gate_up.reshape(len(gate_up), 2, size)
    for row in range(len(gated)):
        for i in range(size):
            number = _number(halves[row, 0, i])
            silu = _rounded(number / (_ONE + _exp(-number)), gated)
            gated[row, i] = _kept(silu * _number(halves[row, 1, i]), gated)


# Products: LLVM makes no tile of sums in registers of Python's loops, so it is told here, in its own words.


class _VectorCode:
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


class _ProductCode(_VectorCode):
    """Writes the innermost loop of a product in float32: at each step, one number of a row times its weights."""

    weights = _VectorCode.vector
    step_size = 1

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        super().__init__(context, builder, signature, arguments)
        self._rows, self._panel, self._sums = (self.array(place) for place in (0, 3, 4))
        self._size = builder.extract_value(self._rows.shape, 1)

    def write(self, count: int) -> None:
        """So many rows of the first argument, from the second on, times a panel, to the last argument."""
        builder, one = self._builder, self.number(1)
        indices = [builder.add(self._arguments[1], self.number(row)) for row in range(count)]
        starts = [self.row_at(self._rows.data, index, self._size) for index in indices]
        biases = self._panel_row(self.number(0), self.vector)
        totals = [[self._cgutils.alloca_once_value(builder, bias) for bias in biases] for _ in starts]
        num_steps = builder.udiv(self._size, self.number(self.step_size))
        with self._cgutils.for_range(builder, num_steps) as loop:
            self._ask_for(builder.add(loop.index, self.number(STEPS_AHEAD)))
            weights = self._panel_row(builder.add(loop.index, one), self.weights)
            for start, of_row in zip(starts, totals, strict=True):  # no factors ahead of their use: they would not fit
                self._add(self.factor(self._at_step(start, loop.index)), weights, of_row)
        for row, of_row in enumerate(totals):
            for total, place in zip(of_row, self._sums_of(row), strict=True):
                builder.store(builder.load(total), place, align=4)
        self.write_rest([self._at_step(start, num_steps) for start in starts], builder.add(num_steps, one))

    def write_rest(self, starts: Sequence[Any], panel_row: Any) -> None:
        """Add to the sums what is left of the rows after whole steps."""

    def factor(self, place: Any) -> Any:
        """A vector of a row's number."""
        return _spread(self._builder, self._builder.load(place), self.weights)

    def plus(self, total: Any, factor: Any, weights: Any) -> Any:
        """total + factor * weights."""
        return _plus_product(self._builder, total, factor, weights)

    def _add(self, factor: Any, weights: Sequence[Any], totals: Sequence[Any]) -> None:
        for total, weight in zip(totals, weights, strict=True):
            self._builder.store(self.plus(self._builder.load(total, align=4), factor, weight), total, align=4)

    def _at_step(self, start: Any, step: Any) -> Any:
        return self.row_at(start, step, self.number(self.step_size))

    def _sums_of(self, row: int) -> list[Any]:
        """Where the vectors of a row's sums are."""
        start = self.row_at(self._sums.data, self.number(row), self.number(WIDTH))
        return [self.vector_at(place) for place in self._vectors(start)]

    def _panel_row(self, row: Any, kind: Any) -> list[Any]:
        """Its vectors."""
        start = self.row_at(self._panel.data, row, self.number(WIDTH))
        return [self._builder.load(self.vector_at(place, kind), align=4) for place in self._vectors(start)]

    def _ask_for(self, row: Any) -> None:
        """Have a panel's row brought into the nearest cache; beyond a panel is the next one."""
        integer, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer])
        prefetch = self._cgutils.get_or_insert_function(self._builder.module, kind, "llvm.prefetch.p0")
        for place in self._vectors(self.row_at(self._panel.data, row, self.number(WIDTH))):
            self._builder.call(prefetch, [self._builder.bitcast(place, byte), integer(0), integer(3), integer(1)])

    def _vectors(self, start: Any) -> list[Any]:
        """Where those of WIDTH numbers begin."""
        return [self._builder.gep(start, [self.number(first)]) for first in range(0, WIDTH, LANES)]


class _PairProductCode(_ProductCode):
    """The same in bfloat16: at each step, two neighbouring numbers of a row."""

    weights = ir.VectorType(ir.IntType(32), LANES)
    step_size = 2

    def write_rest(self, starts: Sequence[Any], panel_row: Any) -> None:
        """A last number without a second one: behind it is another row."""
        builder = self._builder
        with builder.if_then(builder.trunc(self._size, ir.IntType(1))):
            weights = self._panel_row(panel_row, self.weights)
            for row, start in enumerate(starts):
                pair = builder.zext(builder.load(start), ir.IntType(32))
                self._add(_spread(builder, pair, self.weights), weights, self._sums_of(row))

    def factor(self, place: Any) -> Any:
        """A vector of a row's pair of numbers."""
        pair = self._builder.load(self._builder.bitcast(place, ir.IntType(32).as_pointer()), align=2)
        return _spread(self._builder, pair, self.weights)

    def plus(self, total: Any, factor: Any, weights: Any) -> Any:
        """total + the products of two numbers with their weights."""
        kind = ir.FunctionType(self.vector, [self.vector, self.weights, self.weights])
        name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * LANES}"
        function = self._cgutils.get_or_insert_function(self._builder.module, kind, name)
        return self._builder.call(function, [total, factor, weights])


def _declare_add_products(_: Any, rows: Any, first: Any, count: Any, panel: Any, sums: Any) -> tuple[Any, Any]:
    """sums (count, WIDTH) of rows (n, in), from the first one on, times a panel; count is 1 to MOST_ROWS.

    There is a loop for every count: its sums stay in registers, and a panel's row is loaded once for all of them.
    """

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = (_ProductCode if rows.dtype == float32 else _PairProductCode)(context, builder, signature, arguments)
        done = builder.append_basic_block()
        switch = builder.switch(arguments[2], done)
        for number in range(1, MOST_ROWS + 1):
            block = builder.append_basic_block()
            switch.add_case(ir.IntType(64)(number), block)
            builder.position_at_end(block)
            code.write(number)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(rows, first, count, panel, sums), write


def _declare_keep_sums(_: Any, sums: Any, of_row: Any, products: Any, row: Any, first: Any) -> tuple[Any, Any]:
    """products[row, first : first + WIDTH] = sums[of_row]."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _VectorCode(context, builder, signature, arguments)
        _, of_row, _, row, first = arguments
        source = code.row_at(code.array(0).data, of_row, code.number(WIDTH))
        array = code.array(2)
        start = builder.gep(code.row_at(array.data, row, builder.extract_value(array.shape, 1)), [first])
        integers = ir.VectorType(ir.IntType(32), LANES)
        for at in map(code.number, range(0, WIDTH, LANES)):
            kept = builder.load(code.vector_at(builder.gep(source, [at])), align=4)
            if products.dtype != float32:
                kept = _narrowed(builder, kept, integers)
            builder.store(kept, code.vector_at(builder.gep(start, [at]), kept.type), align=2)
        return context.get_dummy_value()

    return types.void(sums, of_row, products, row, first), write


_add_products: Any = intrinsic(_declare_add_products)
_keep_sums: Any = intrinsic(_declare_keep_sums)


def _plus_product(builder: Any, total: Any, factor: Any, other: Any) -> Any:
    """total + factor * other, rounded once where the processor can."""
    return builder.fadd(total, builder.fmul(factor, other, flags=("contract",)), flags=("contract",))


def _spread(builder: Any, number: Any, wide: ir.VectorType) -> Any:
    """A vector of one number."""
    none = ir.Constant(wide, ir.Undefined)
    first = builder.insert_element(none, number, ir.IntType(32)(0))
    return builder.shuffle_vector(first, none, ir.Constant(ir.VectorType(ir.IntType(32), wide.count), None))


@_in_each_format(lambda of: void(of.rows, int64, _sums))
def keep(rows: Rows, first: int, sums: Sums) -> None:
    """Keep what sums (n, width) come to as columns of rows, from the first one on."""
    for row in range(len(sums)):
        for i in range(sums.shape[1]):
            rows[row, first + i] = _kept(sums[row, i], rows)


@compiled(fastmath=CONTRACTED)
def _multiply_panel(rows: Any, panel: Any, sums: Any, products: Any, first: int) -> None:
    """The products of rows (n, in) with a panel, as columns of products from the first one on.

    Rows come in groups of nearly equal size, which read the panel in turn while it lies in the nearest cache; their
    sums (MOST_ROWS, WIDTH) stay there, too.
    """
    num_groups = (len(rows) + MOST_ROWS - 1) // MOST_ROWS
    start = 0
    for group in range(num_groups):
        stop = len(rows) * (group + 1) // num_groups
        _add_products(rows, start, stop - start, panel, sums)
        for row in range(start, stop):
            if first + WIDTH <= products.shape[1]:
                _keep_sums(sums, row - start, products, row, first)
            else:
                for i in range(products.shape[1] - first):
                    products[row, first + i] = _kept(sums[row - start, i], products)
        start = stop


@_in_each_format(lambda of: void(of.rows, of.panels, of.rows), nogil=True)
def multiply(rows: Rows, panels: Panels, products: Rows) -> None:
    """Rows (n, in) times the weights in panels, and the bias added: (n, out).

    Panels are (out / WIDTH, 1 + in, WIDTH), biases first. In bfloat16 they are (out / WIDTH, 1 + pairs, WIDTH): after
    biases in float32 the weights of an even input in the lower halves, and those of the next one in the upper halves.
    """
    sums = np.empty((MOST_ROWS, WIDTH), np.float32)
    for index in range(len(panels)):
        _multiply_panel(rows, panels[index], sums, products, index * WIDTH)


@_in_each_format(lambda of: void(of.rows, float32[:, :, ::1], _places, of.table, of.table), fastmath=REORDERED)
def place(joined: Rows, rotation: Sums, places: NDArray[np.int64], keys: Rows, values: Rows) -> None:
    """Turn queries and keys to their positions, in place, and store keys and values.

    Args:
        joined: (n, query, key and value heads by head size).
        rotation: (positions, 2, half a head), cosines and sines.
        places: (n, 4) pool row, position, the session's first row and its committed tokens.
        keys: (pool rows, key heads, head size).
        values: Of the same shape.
    """
    _, num_keys, size = keys.shape
    num_rotated = joined.shape[1] // size - num_keys
    heads = joined.reshape(len(joined), -1, size)
    halves = joined.reshape(len(joined), -1, 2, size // 2)
    for token in range(len(joined)):
        row, position = places[token, 0], places[token, 1]
        for head in range(num_rotated):
            for i in range(size // 2):
                x, y = _number(halves[token, head, 0, i]), _number(halves[token, head, 1, i])
                cos, sin = rotation[position, 0, i], rotation[position, 1, i]
                halves[token, head, 0, i] = _kept(_rounded(x * cos, halves) - _rounded(y * sin, halves), halves)
                halves[token, head, 1, i] = _kept(_rounded(y * cos, halves) + _rounded(x * sin, halves), halves)
        for head in range(num_keys):
            for i in range(size):
                keys[row, head, i] = heads[token, num_rotated - num_keys + head, i]
                values[row, head, i] = heads[token, num_rotated + head, i]


@compiled(void(_places, boolean[:, ::1], int64, _places, int64[::1]))
def see(
    places: NDArray[np.int64],
    related: NDArray[np.bool_],
    row_size: int,
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """What every token looks at: its session's committed prefix, then its own path.

    Args:
        places: See `place`.
        related: (n, longest scratch), the tokens of its session's scratch that each descends from, itself included.
        row_size: Numbers in a row of keys or values.
        seen: (n, a multiple of LANES), written: where in the pool their rows begin, in the order of the text; the last
            one is repeated.
        counts: (n,), written: how many they are.
    """
    for token in range(len(seen)):
        first_row, committed = places[token, 2], places[token, 3]
        count = committed
        for i in range(committed):
            seen[token, i] = (first_row + i) * row_size
        for node in range(related.shape[1]):
            if related[token, node]:
                seen[token, count] = (first_row + committed + node) * row_size
                count += 1
        seen[token, count:] = seen[token, count - 1]
        counts[token] = count


# Attention reads LANES keys, and then values, for one token after another, so that they come from the nearest cache.
# LLVM would look for overlaps of arrays before every such loop of Python's.


class _HeadCode(_VectorCode):
    """The same for vectors of a head, the last one cut to the head's size."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        super().__init__(context, builder, signature, arguments)
        self._mask = ir.VectorType(ir.IntType(1), LANES)

    def element(self, array: Any, *indices: Any) -> Any:
        """Where an element of an array begins, or all of those below it."""
        shape = self._cgutils.unpack_tuple(self._builder, array.shape)
        place = self.number(0)
        for index, size in zip(indices, shape, strict=False):
            place = self._builder.add(self._builder.mul(place, size), index)
        for size in shape[len(indices) :]:
            place = self._builder.mul(place, size)
        return self._builder.gep(array.data, [place])

    def seen_starts(self, array: Any, head: Any, first: Any) -> list[Any]:
        """Where a head of LANES rows begins, the first of which `see` listed here."""
        start = self.element(array, self.number(0), head)
        places = [self._builder.load(self._builder.gep(first, [self.number(lane)])) for lane in range(LANES)]
        return [self._builder.gep(start, [place]) for place in places]

    @contextmanager
    def parts(self, size: Any) -> Iterator[tuple[Any, Any]]:
        """A loop over the vectors of a head: the first number of each, and which of its lanes are inside."""
        lanes = ir.Constant(ir.VectorType(self.number, LANES), list(range(LANES)))
        step = self.number(LANES)
        with self._cgutils.for_range_slice(self._builder, self.number(0), size, step, self.number) as (first, _):
            left = _spread(self._builder, self._builder.sub(size, first), lanes.type)
            yield first, self._builder.icmp_signed(">", left, lanes)

    def load(self, start: Any, first: Any, inside: Any) -> Any:
        """A vector of kept numbers; outside of the head it is 0."""
        kept = ir.VectorType(start.type.pointee, LANES)
        kind = ir.FunctionType(kept, [kept.as_pointer(), ir.IntType(32), self._mask, kept])
        at = self.vector_at(self._builder.gep(start, [first]), kept)
        loaded = self._masked("load", kept, kind, at, ir.IntType(32)(2), inside, ir.Constant(kept, None))
        integers = ir.VectorType(ir.IntType(32), LANES)
        return loaded if kept == self.vector else _widened(self._builder, loaded, integers, self.vector)

    def store(self, vector: Any, start: Any, first: Any, inside: Any) -> None:
        """What of it is inside of the head."""
        kind = ir.FunctionType(ir.VoidType(), [self.vector, self.vector.as_pointer(), ir.IntType(32), self._mask])
        at = self.vector_at(self._builder.gep(start, [first]))
        self._masked("store", self.vector, kind, vector, at, ir.IntType(32)(4), inside)

    def _masked(self, name: str, vector: Any, kind: Any, *arguments: Any) -> Any:
        element = "f32" if vector == self.vector else "i16"
        function = self._cgutils.get_or_insert_function(
            self._builder.module, kind, f"llvm.masked.{name}.v{LANES}{element}.p0"
        )
        return self._builder.call(function, arguments)


def _declare_score(
    _: Any, queries: Any, token: Any, head: Any, keys: Any, key_head: Any, seen: Any, at: Any, weights: Any
) -> tuple[Any, Any]:
    """weights[token, at : at + LANES] = dot products of its query with the keys of seen[token, at : at + LANES]."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _HeadCode(context, builder, signature, arguments)
        queries, keys, seen, weights = (code.array(place) for place in (0, 3, 5, 7))
        _, token, head, _, key_head, _, at, _ = arguments
        query = code.element(queries, token, head)
        starts = code.seen_starts(keys, key_head, code.element(seen, token, at))
        zero = ir.Constant(code.vector, None)
        totals = [cast(Any, cgutils).alloca_once_value(builder, zero) for _ in starts]
        with code.parts(builder.extract_value(keys.shape, 2)) as (first, inside):
            factor = code.load(query, first, inside)
            for start, total in zip(starts, totals, strict=True):
                key = code.load(start, first, inside)
                builder.store(_plus_product(builder, builder.load(total), factor, key), total)
        sums = _folded(builder, [builder.load(total) for total in totals])
        builder.store(sums, code.vector_at(code.element(weights, token, at)), align=4)
        return context.get_dummy_value()

    return types.void(queries, token, head, keys, key_head, seen, at, weights), write


def _folded(builder: Any, vectors: list[Any]) -> Any:
    """One vector of the sums of as many vectors as it has lanes: neighbours are added until one is left of each."""
    lanes = ir.VectorType(ir.IntType(32), LANES)
    even, odd = (ir.Constant(lanes, list(range(first, 2 * LANES, 2))) for first in (0, 1))
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [
            builder.fadd(builder.shuffle_vector(*pair, even), builder.shuffle_vector(*pair, odd)) for pair in pairs
        ]
    return vectors[0]


def _declare_mix(
    _: Any, values: Any, value_head: Any, seen: Any, at: Any, weights: Any, outputs: Any, token: Any
) -> tuple[Any, Any]:
    """outputs[token] += the values of seen[token, at : at + LANES] by their weights."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code = _HeadCode(context, builder, signature, arguments)
        values, seen, weights, outputs = (code.array(place) for place in (0, 2, 4, 5))
        _, value_head, _, at, _, _, token = arguments
        output = code.element(outputs, token)
        starts = code.seen_starts(values, value_head, code.element(seen, token, at))
        first_weight = code.element(weights, token, at)
        factors = [
            _spread(builder, builder.load(builder.gep(first_weight, [code.number(lane)])), code.vector)
            for lane in range(LANES)
        ]
        with code.parts(builder.extract_value(values.shape, 2)) as (first, inside):
            sums = [code.load(output, first, inside), *[ir.Constant(code.vector, None)] * 3]
            for lane, (start, factor) in enumerate(zip(starts, factors, strict=True)):
                sums[lane % 4] = _plus_product(builder, sums[lane % 4], factor, code.load(start, first, inside))
            code.store(
                builder.fadd(builder.fadd(sums[0], sums[1]), builder.fadd(sums[2], sums[3])), output, first, inside
            )
        return context.get_dummy_value()

    return types.void(values, value_head, seen, at, weights, outputs, token), write


_score: Any = intrinsic(_declare_score)
_mix: Any = intrinsic(_declare_mix)


@compiled(fastmath=CONTRACTED)  # reordered, code from the cache and code just compiled had sums in orders of their own
def _soften(weights: Any, token: int, count: int, scale: float) -> None:
    """weights[token] = softmax of the first count of them, scaled; the others are 0."""
    most = weights[token, 0]
    for at in range(count):
        most = max(most, weights[token, at])
    for at in range(count):
        weights[token, at] = _exp((weights[token, at] - most) * scale)
    total = _ZERO
    for at in range(count):
        total += weights[token, at]
    for at in range(count):
        weights[token, at] /= total
    weights[token, count:] = _ZERO


@compiled(fastmath=CONTRACTED)
def _attend_head(
    queries: Any,
    keys: Any,
    values: Any,
    head: int,
    key_head: int,
    seen: Any,
    counts: Any,
    scale: Any,
    weights: Any,
    mixed: Any,
) -> None:
    """mixed (n, head size) = attention of a head of queries (n, heads, head size), every token to what it sees.
    There has to be room for weights (n, most keys seen)."""
    most = seen.shape[1]
    mixed[:] = _ZERO
    for at in range(0, most, LANES):
        for token in range(len(queries)):
            if at < counts[token]:
                _score(queries, token, head, keys, key_head, seen, at, weights)
    for token in range(len(queries)):
        _soften(weights, token, min(counts[token], most), scale)
    for at in range(0, most, LANES):
        for token in range(len(queries)):
            if at < counts[token]:
                _mix(values, key_head, seen, at, weights, mixed, token)


# Threads that share a forward. One leads: it goes through the layers, and offers what takes longest as tasks of many
# units: a product by panels, attention by heads. Whoever is free takes a share of them. A helper computes in memory of
# its own and says when it is done; the leader gathers, and waits for nobody: a share that does not come in time, as its
# helper has lost its processor, it computes again, and what the helper has to say of it later is not heard. So a helper
# may work on what is long past. All that it reads has to stay, whatever then stands in it.
#
# What they tell each other stands in one array: words, a line of the cache each,
#   _TICKET   the number of the task on offer, and how many of its shares are left;
#   STATE     whether a forward is ON, helpers may be ASLEEP, or all is ENDED;
#   _LAST     the last task's number;
#   _DONE     for each share the number of the last task for which it was computed, and by which thread;
# and then the last tasks, _NUM_TASKS in turn.

MOST_SHARES = 128
"""Of a task."""

SHARES_A_THREAD = 2
"""With more, threads end nearer together; with fewer, each reads longer stretches of weights (6: 1.03 to 1.15 of the
time)."""

LEAST_WORK = 2**14
"""Products in a share: about a microsecond."""

PATIENCE, PRODUCTS_A_PAUSE = 64, 512
"""How long a leader waits for a share: about twice as long as it takes."""

_NUM_TASKS = 64
_LINE = 8
_TICKET, STATE, _LAST, _DONE = range(0, 4 * _LINE, _LINE)
_TASKS = _DONE + MOST_SHARES * _LINE
_TASK_SIZE = 3 * _LINE
CONTROL_SIZE = _TASKS + _NUM_TASKS * _TASK_SIZE
"""Numbers in the array."""

_NUMBER, _NUM_KEYS, _UNITS, _SHARES, _WIDTH, _ROWS, _INPUTS, _COLUMNS, _DATA, _DATA_ROWS = range(10)
_VALUES, _SEEN, _COUNTS, _MOST, _SCALE, _MEMORY, _MEMORY_SIZE, _COMPUTING = range(10, 18)
"""Of a task. _NUM_KEYS is 0 for a product, else how many heads keys have."""

_BITS = 16
_STOLEN = 2**_BITS - 1
ON, ASLEEP, ENDED = 1, 0, -1


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
    return builder.gep(_VectorCode(context, builder, signature, arguments).array(0).data, [arguments[1]])


def _declare_fence(_: Any) -> tuple[Any, Any]:
    """Nothing is read or written earlier or later than it stands here."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), write


def _declare_pause(_: Any) -> tuple[Any, Any]:
    """Some ten nanoseconds without work."""

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if _has("sse2"):
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
        code = _VectorCode(context, builder, signature, arguments)
        _, row, _, first, count = arguments
        starts = []
        for array in (code.array(0), code.array(2)):
            starts.append(code.row_at(array.data, row, builder.extract_value(array.shape, 1)))
        target_start = builder.gep(starts[1], [first])
        cast(Any, cgutils).raw_memcpy(builder, target_start, starts[0], count, code.array(0).itemsize)
        return context.get_dummy_value()

    return types.void(source, row, target, first, count), write


_copy_row: Any = intrinsic(_declare_copy_row)
_read_word: Any = intrinsic(_declare_read_word)
_write_word: Any = intrinsic(_declare_write_word)
_replace_word: Any = intrinsic(_declare_replace_word)
_fence: Any = intrinsic(_declare_fence)
_pause: Any = intrinsic(_declare_pause)
_rows_at: Any = intrinsic(_declare_rows_at)
_panels_at: Any = intrinsic(_declare_panels_at)
_floats_at: Any = intrinsic(_declare_floats_at)
_read_file: Any = types.ExternalFunction("read", int64(int32, types.voidptr, types.uintp))
_at: Any = cast(Any, numba).carray


@compiled()
def _new_task(control: Any, units: int, width: int, work: int, rows: Any, memory: Any) -> Any:
    """The next task, of units that are columns of so many numbers and take so many products. Its number is written
    before all else, so that who still reads what stood there can see it."""
    number = control[_LAST] + 1
    control[_LAST] = number
    place = _TASKS + number % _NUM_TASKS * _TASK_SIZE
    _write_word(control, place, number)
    _fence()
    task = control[place : place + _TASK_SIZE]
    most = min(SHARES_A_THREAD * len(memory), MOST_SHARES, units, 1 + units * work // LEAST_WORK)
    task[_UNITS] = units
    task[_SHARES] = most if len(memory) > 1 else 1
    task[_WIDTH] = width
    task[_ROWS] = len(rows)
    task[_INPUTS] = rows.ctypes.data
    task[_COLUMNS] = rows.shape[1]
    task[_MEMORY] = memory.ctypes.data
    task[_MEMORY_SIZE] = memory.shape[1]
    return task


@compiled()
def _first_unit(task: Any, share: int) -> Any:
    """Of a share; that of the next one is the end."""
    return share * task[_UNITS] // task[_SHARES]


@compiled()
def _own(task: Any, thread: int) -> Any:
    """Address of the memory of a thread: first it computes there, and then come outputs, if it has to keep them."""
    return task[_MEMORY] + 4 * thread * task[_MEMORY_SIZE]


@compiled()
def _told(task: Any, thread: int, unit: int, like: Any) -> Any:
    """The outputs of a unit (rows, width) where a helper keeps them."""
    count, width = task[_ROWS], task[_WIDTH]
    address = _own(task, thread) + 4 * task[_COMPUTING] + like.itemsize * unit * count * width
    return _at(_rows_at(address, like), (count, width))


@compiled()
def _compute(task: Any, unit: int, thread: int, outputs: Any, first: int) -> None:
    """A unit, as columns of outputs from the first one on."""
    if task[_NUM_KEYS] == 0:
        _multiply_unit(task, unit, thread, outputs, first)
    else:
        _attend_unit(task, unit, thread, outputs, first)


@compiled()
def _multiply_unit(task: Any, unit: int, thread: int, products: Any, first: int) -> None:
    rows = _at(_rows_at(task[_INPUTS], products), (task[_ROWS], task[_COLUMNS]))
    panels = _at(_panels_at(task[_DATA], products), (task[_UNITS], task[_DATA_ROWS], WIDTH))
    sums = _at(_floats_at(_own(task, thread)), (MOST_ROWS, WIDTH))
    _multiply_panel(rows, panels[unit], sums, products, first)


@compiled()
def _attend_unit(task: Any, unit: int, thread: int, attended: Any, first: int) -> None:
    count, size, most, units = task[_ROWS], task[_WIDTH], task[_MOST], task[_UNITS]
    queries = _at(_rows_at(task[_INPUTS], attended), (count, task[_COLUMNS] // size, size))
    shape = task[_DATA_ROWS], task[_NUM_KEYS], size
    keys, values = _at(_rows_at(task[_DATA], attended), shape), _at(_rows_at(task[_VALUES], attended), shape)
    seen = _at(_rows_at(task[_SEEN], task), (count, most))
    counts = _at(_rows_at(task[_COUNTS], task), (count,))
    mixed = _at(_floats_at(_own(task, thread)), (count, size))
    weights = _at(_floats_at(_own(task, thread) + 4 * count * size), (count, most))
    scale = np.int32(task[_SCALE]).view(np.float32)
    key_head = unit * task[_NUM_KEYS] // units
    _attend_head(queries, keys, values, unit, key_head, seen, counts, scale, weights, mixed)
    keep(attended, first, mixed)


@compiled()
def _take(control: Any, number: int) -> Any:
    """A share of a task that nobody else has taken; -1 if there is none."""
    while True:
        ticket = _read_word(control, _TICKET)
        if ticket >> _BITS != number or ticket & _STOLEN == 0:
            return -1
        if _replace_word(control, _TICKET, ticket, ticket - 1):
            return (ticket & _STOLEN) - 1


@compiled()
def _compute_share(task: Any, share: int, outputs: Any) -> None:
    """What the leader does with one."""
    for unit in range(_first_unit(task, share), _first_unit(task, share + 1)):
        _compute(task, unit, 0, outputs, unit * task[_WIDTH])


@compiled()
def _gather_share(task: Any, share: int, doer: int, outputs: Any) -> None:
    """Copy what a helper has computed."""
    for unit in range(_first_unit(task, share), _first_unit(task, share + 1)):
        told, first = _told(task, doer, unit, outputs), unit * task[_WIDTH]
        for row in range(len(told)):
            _copy_row(told, row, outputs, first, min(told.shape[1], outputs.shape[1] - first))


@compiled()
def _doer(control: Any, share: int, number: int, patience: int) -> Any:
    """The thread that has computed a share, once it has; -1 if it does not, and need not any more."""
    place, waited = _DONE + share * _LINE, 0
    while True:
        done = _read_word(control, place)
        if done >> _BITS == number:
            return done & _STOLEN
        if waited > patience and _replace_word(control, place, done, number << _BITS | _STOLEN):
            return -1
        waited += 1
        _pause()


@compiled()
def _lead(control: Any, task: Any, work: int, outputs: Any) -> None:
    """See a task done: its units are columns of outputs."""
    number, shares = task[_NUMBER], task[_SHARES]
    if shares == 1:
        _compute_share(task, 0, outputs)
        return
    _write_word(control, _TICKET, number << _BITS | shares)
    while True:
        share = _take(control, number)
        if share < 0:
            break
        _compute_share(task, share, outputs)
        _write_word(control, _DONE + share * _LINE, number << _BITS)
    patience = PATIENCE + task[_UNITS] * work // shares // PRODUCTS_A_PAUSE
    for share in range(shares):
        doer = _doer(control, share, number, patience)
        if doer < 0:
            _compute_share(task, share, outputs)
        elif doer > 0:
            _gather_share(task, share, doer, outputs)


@_in_each_format(lambda of: void(of.rows, int64[::1], int64, int32), nogil=True)
def assist(like: Rows, control: NDArray[np.int64], thread: int, pipe: int) -> None:
    """Take shares of what a leader offers, until it ends.

    Args:
        like: Any array of the model's kind.
        control: CONTROL_SIZE words that the threads share.
        thread: From 1 on.
        pipe: To be read from where there is nothing to do.
    """
    task, woken = np.empty(_TASK_SIZE, np.int64), np.empty(512, np.int64)
    while True:
        state = _read_word(control, STATE)
        if state == ENDED:
            return
        if state == ASLEEP:
            _read_file(pipe, woken.ctypes, woken.nbytes)
            continue
        number = _read_word(control, _TICKET) >> _BITS
        share = _take(control, number)
        if share < 0:
            _pause()
            continue
        done = _read_word(control, _DONE + share * _LINE)
        place = _TASKS + number % _NUM_TASKS * _TASK_SIZE
        task[:] = control[place : place + _TASK_SIZE]
        _fence()
        if done >> _BITS == number or _read_word(control, place) != number:
            continue
        for unit in range(_first_unit(task, share), _first_unit(task, share + 1)):
            _compute(task, unit, thread, _told(task, thread, unit, like), 0)
        _replace_word(control, _DONE + share * _LINE, done, number << _BITS | thread)


@_in_each_format(lambda of: void(of.rows, of.panels, of.rows, int64[::1], _sums), nogil=True)
def multiply_together(rows: Rows, panels: Panels, products: Rows, control: NDArray[np.int64], memory: Sums) -> None:
    """See `multiply`; the threads of `control` share it.

    Args:
        rows: Its memory stays, as does that of the panels.
        panels: See `multiply`.
        products: Written.
        control: See `assist`.
        memory: (threads, MOST_ROWS * WIDTH + n * out rounded up to panels), which stays.
    """
    work = len(rows) * panels.shape[1] * WIDTH
    task = _new_task(control, len(panels), WIDTH, work, rows, memory)
    task[_NUM_KEYS] = 0
    task[_COMPUTING] = MOST_ROWS * WIDTH
    task[_DATA] = panels.ctypes.data
    task[_DATA_ROWS] = panels.shape[1]
    _lead(control, task, work, products)


@_in_each_format(
    lambda of: void(of.rows, of.table, of.table, _places, int64[::1], float32, of.rows, int64[::1], _sums),
)
def attend(
    joined: Rows,
    keys: Rows,
    values: Rows,
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
    scale: float,
    attended: Rows,
    control: NDArray[np.int64],
    memory: Sums,
) -> None:
    """Attention of every token to what it sees.

    Args:
        joined: As `place` leaves it.
        keys: See `place`.
        values: See `place`.
        seen: See `see`.
        counts: See `see`.
        scale: Factor on the dot products.
        attended: (n, query heads by head size), written.
        control: See `assist`.
        memory: (threads, n * (head size + most keys seen + query heads by head size)), which stays, as does all that
            is read.
    """
    _, num_keys, size = keys.shape
    most = seen.shape[1]
    work = 2 * len(joined) * most * size
    task = _new_task(control, attended.shape[1] // size, size, work, joined, memory)
    task[_NUM_KEYS] = num_keys
    task[_COMPUTING] = len(joined) * (size + most)
    task[_DATA] = keys.ctypes.data
    task[_DATA_ROWS] = len(keys)
    task[_VALUES] = values.ctypes.data
    task[_SEEN] = seen.ctypes.data
    task[_COUNTS] = counts.ctypes.data
    task[_MOST] = most
    task[_SCALE] = np.int64(np.float32(scale).view(np.int32))
    _lead(control, task, work, attended)


@compiled()
def _cut(room: Any, first: int, count: int, size: int) -> tuple[int, Any]:
    """Rows of a size from somewhere on, and where they end."""
    last = first + count * size
    return last, room[first:last].reshape(count, size)


@_in_each_format(
    lambda of: void(
        of.rows,
        float32[:, :, ::1],
        _places,
        _places,
        int64[::1],
        int64[::1],
        _sums,
        of.row,
        _sums,
        float32,
        _sums,
        int64,
        int64,
        of.panels,
        of.panels,
        of.panels,
        of.panels,
        of.table,
        of.table,
        float32,
    ),
    fastmath=REORDERED,
    nogil=True,
)
def decode(
    rows: Rows,
    rotation: Sums,
    places: NDArray[np.int64],
    seen: NDArray[np.int64],
    counts: NDArray[np.int64],
    control: NDArray[np.int64],
    memory: Sums,
    room: NDArray[np.float32] | NDArray[np.uint16],
    norms: Sums,
    eps: float,
    head_norms: Sums,
    num_queries: int,
    num_units: int,
    query_key_value: Panels,
    output: Panels,
    gate_up: Panels,
    down: Panels,
    keys: Rows,
    values: Rows,
    scale: float,
) -> None:
    """One decoder layer, over rows (n, channels), in place.

    Args:
        rows: What the layer before left.
        rotation: See `place`.
        places: See `place`.
        seen: See `see`.
        counts: See `see`.
        control: See `assist`.
        memory: See `multiply_together` and `attend`.
        room: For what it makes of the rows in between; it stays.
        norms: (2, channels), before attention and before the feed-forward.
        eps: Of all norms.
        head_norms: (heads with a norm, head size); (0, 0) for none.
        num_queries: Query heads.
        num_units: Hidden units of the feed-forward.
        query_key_value: See `multiply`.
        output: See `multiply`.
        gate_up: See `multiply`.
        down: See `multiply`.
        keys: See `place`.
        values: See `place`.
        scale: See `attend`.
    """
    count, channels = rows.shape
    _, num_keys, size = keys.shape
    first, changes = _cut(room, 0, count, channels)
    first, joined = _cut(room, first, count, (num_queries + 2 * num_keys) * size)
    first, attended = _cut(room, first, count, num_queries * size)
    first, units = _cut(room, first, count, 2 * num_units)
    _, gated = _cut(room, first, count, num_units)

    normalise(rows, norms[0], eps, changes)
    multiply_together(changes, query_key_value, joined, control, memory)
    normalise_heads(joined, head_norms, eps)
    place(joined, rotation, places, keys, values)
    attend(joined, keys, values, seen, counts, scale, attended, control, memory)
    multiply_together(attended, output, changes, control, memory)
    add(rows, changes)
    normalise(rows, norms[1], eps, changes)
    multiply_together(changes, gate_up, units, control, memory)
    gate(units, gated)
    multiply_together(gated, down, changes, control, memory)
    add(rows, changes)


@compiled(fastmath=CONTRACTED)
def _best(row: Any) -> tuple[int, float]:
    """Where the highest number is, the first of equals, and by how much the next is lower. As for torch, what is no
    number is higher than all that are."""
    place, best, second = 0, -np.inf, -np.inf
    for i in range(len(row)):
        if not row[i] <= second:
            if math.isnan(row[i]):
                return i, np.nan
            if row[i] > best:
                place, best, second = i, row[i], best
            else:
                second = row[i]
    return place, best - second


@compiled(fastmath=CONTRACTED)  # to the last bit what torch makes of them
def _warm(row: Any, temperature: float, warmed: Any) -> None:
    """Divide by a temperature what a row is below its highest number; by 0, leave it as it is."""
    highest = row[_best(row)[0]]
    for i in range(len(row)):
        warmed[i] = (row[i] - highest) / temperature if temperature else row[i]


@compiled(fastmath=REORDERED)
def _spread_and_total(row: Any) -> tuple[float, float]:
    """Standard deviation of a row, and the logarithm of the sum of its exponentials."""
    size, highest = np.float32(len(row)), row[_best(row)[0]]
    distances, total = _ZERO, _ZERO
    for i in range(len(row)):
        distances += row[i] - highest
        total += _exp(row[i] - highest)
    mean = highest + distances / size
    squares = _ZERO
    for i in range(len(row)):
        squares += (row[i] - mean) * (row[i] - mean)
    return math.sqrt(squares / (size - _ONE)), np.float64(highest) + math.log(np.float64(total))


@compiled(
    void(
        _sums,
        _sums,
        float32,
        float64[:, ::1],
        float64,
        int64[:, ::1],
        int64[:, ::1],
        float64[:, ::1],
    ),
    fastmath=REORDERED,
)
def weigh(
    logits: Rows,
    scores: Rows,
    temperature: float,
    noise: NDArray[np.float64],
    rounding: float,
    nodes: NDArray[np.int64],
    choices: NDArray[np.int64],
    chances: NDArray[np.float64],
) -> None:
    """What `worker.evidence` tells of a tree.

    Args:
        logits: (n, vocab), at the root and after each node.
        scores: (n, vocab), what tokens are chosen by, before temperature and noise.
        temperature: That is still to be applied; 0 for none.
        noise: (n, vocab), added at last; (0, vocab) for none.
        rounding: How far rounding may move the difference of two scores, in standard deviations of the logits.
        nodes: (2, n - 1), the parents of the nodes, -1 for the root, and their tokens.
        choices: (2, n), written: chosen, near.
        chances: (2, n), written: logprobs, and node_probs with that of the root, 1, before them.
    """
    count, size = logits.shape
    final = np.empty(size, np.float64)
    totals = np.empty(count, np.float64)
    for row in range(count):
        _warm(scores[row], temperature, final)
        if len(noise):
            for i in range(size):
                final[i] += noise[row, i]
        choices[0, row], margin = _best(final)
        deviation, totals[row] = _spread_and_total(logits[row])
        choices[1, row] = margin < rounding * deviation
        chances[0, row] = logits[row, choices[0, row]] - totals[row]
    chances[1, 0] = 1.0
    for node in range(count - 1):
        parent = 1 + nodes[0, node]
        chances[1, 1 + node] = math.exp(logits[parent, nodes[1, node]] - totals[parent])
