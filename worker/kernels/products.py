"""Products of rows with weights that lie in panels.

LLVM makes no tile of sums in registers of Python's loops, so it is told here, in its own words.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int64, types, void
from numba.extending import intrinsic
from numpy.typing import NDArray

from speculation.compiled import compiled
from worker.kernels.arithmetic import CONTRACTED
from worker.kernels.formats import Panels, Rows, in_each_format, kept, narrowed
from worker.kernels.processor import LANES
from worker.kernels.vectors import VectorCode, plus_product, spread

WIDTH = 2 * LANES
"""Outputs of a panel."""

MOST_ROWS = 14 if LANES == 16 else 6
"""Rows of which sums are made at once: with WIDTH of each, the registers of the processor are nearly full."""

STEPS_AHEAD = 64
"""How early a panel's row is asked for: with more than a few rows to a panel, the processor itself asks too late."""


class _ProductCode(VectorCode):
    """Writes the innermost loop of a product in float32: at each step, one number of a row times its weights."""

    weights = VectorCode.vector
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
        return spread(self._builder, self._builder.load(place), self.weights)

    def plus(self, total: Any, factor: Any, weights: Any) -> Any:
        """total + factor * weights."""
        return plus_product(self._builder, total, factor, weights)

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
                self._add(spread(builder, pair, self.weights), weights, self._sums_of(row))

    def factor(self, place: Any) -> Any:
        """A vector of a row's pair of numbers."""
        pair = self._builder.load(self._builder.bitcast(place, ir.IntType(32).as_pointer()), align=2)
        return spread(self._builder, pair, self.weights)

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
        code = VectorCode(context, builder, signature, arguments)
        _, of_row, _, row, first = arguments
        source = code.row_at(code.array(0).data, of_row, code.number(WIDTH))
        array = code.array(2)
        start = builder.gep(code.row_at(array.data, row, builder.extract_value(array.shape, 1)), [first])
        integers = ir.VectorType(ir.IntType(32), LANES)
        for at in map(code.number, range(0, WIDTH, LANES)):
            total = builder.load(code.vector_at(builder.gep(source, [at])), align=4)
            if products.dtype != float32:
                total = narrowed(builder, total, integers)
            builder.store(total, code.vector_at(builder.gep(start, [at]), total.type), align=2)
        return context.get_dummy_value()

    return types.void(sums, of_row, products, row, first), write


_add_products: Any = intrinsic(_declare_add_products)
_keep_sums: Any = intrinsic(_declare_keep_sums)


@compiled(fastmath=CONTRACTED)
def multiply_panel(rows: Any, panel: Any, sums: Any, products: Any, first: int) -> None:
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
                    products[row, first + i] = kept(sums[row - start, i], products)
        start = stop


@in_each_format(lambda of: void(of.rows, of.panels, of.rows), nogil=True)
def multiply(rows: Rows, panels: Panels, products: Rows) -> None:
    """Rows (n, in) times the weights in panels, and the bias added: (n, out).

    Panels are (out / WIDTH, 1 + in, WIDTH), biases first. In bfloat16 they are (out / WIDTH, 1 + pairs, WIDTH): after
    biases in float32 the weights of an even input in the lower halves, and those of the next one in the upper halves.
    """
    sums = np.empty((MOST_ROWS, WIDTH), np.float32)
    for index in range(len(panels)):
        multiply_panel(rows, panels[index], sums, products, index * WIDTH)


@in_each_format(lambda of: void(of.row.dtype[:, :, :, ::1], int64[::1], of.rows))
def look_up(weights: Rows, outputs: NDArray[np.int64], rows: Rows) -> None:
    """The weights of some outputs.

    Args:
        weights: (panels, 1 + steps, WIDTH, inputs a step), panels as `multiply` reads them.
        outputs: (n,), each below the number of outputs.
        rows: (n, inputs), written.
    """
    _, _, width, inputs = weights.shape
    for row in range(len(outputs)):
        panel, lane = outputs[row] // width, outputs[row] % width
        for i in range(rows.shape[1]):
            rows[row, i] = weights[panel, 1 + i // inputs, lane, i % inputs]
