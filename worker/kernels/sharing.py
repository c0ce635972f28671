"""Threads that share a forward.

One leads: it goes through the layers, and offers what takes longest as tasks of many units: a product by panels,
attention by heads. Whoever is free takes a share of them. A helper computes in memory of its own and says when it is
done; the leader gathers, and waits for nobody: a share that does not come in time, as its helper has lost its
processor, it computes again, and what the helper has to say of it later is not heard. So a helper may work on what is
long past. All that it reads has to stay, whatever then stands in it.

What they tell each other stands in one array: words, a line of the cache each,
  _TICKET   the number of the task on offer, and how many of its shares are left;
  STATE     whether a forward is ON, helpers may be ASLEEP, or all is ENDED;
  _LAST     the last task's number;
  _DONE     for each share the number of the last task for which it was computed, and by which thread;
and then the last tasks, _NUM_TASKS in turn.
"""

from typing import Any

import numpy as np
from numba import float32, int32, int64, types, void
from numpy.typing import NDArray

from speculation.compiled import compiled
from worker.kernels.attention import attend_head
from worker.kernels.formats import Panels, Rows, Sums, in_each_format, keep
from worker.kernels.memory import (
    array_at,
    copy_row,
    fence,
    floats_at,
    panels_at,
    pause,
    read_word,
    replace_word,
    rows_at,
    write_word,
)
from worker.kernels.products import MOST_ROWS, WIDTH, multiply_panel

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

_read_file: Any = types.ExternalFunction("read", int64(int32, types.voidptr, types.uintp))


@compiled()
def _new_task(control: Any, units: int, width: int, work: int, rows: Any, memory: Any) -> Any:
    """The next task, of units that are columns of so many numbers and take so many products. Its number is written
    before all else, so that who still reads what stood there can see it."""
    number = control[_LAST] + 1
    control[_LAST] = number
    place = _TASKS + number % _NUM_TASKS * _TASK_SIZE
    write_word(control, place, number)
    fence()
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
    return array_at(rows_at(address, like), (count, width))


@compiled()
def _compute(task: Any, unit: int, thread: int, outputs: Any, first: int) -> None:
    """A unit, as columns of outputs from the first one on."""
    if task[_NUM_KEYS] == 0:
        _multiply_unit(task, unit, thread, outputs, first)
    else:
        _attend_unit(task, unit, thread, outputs, first)


@compiled()
def _multiply_unit(task: Any, unit: int, thread: int, products: Any, first: int) -> None:
    rows = array_at(rows_at(task[_INPUTS], products), (task[_ROWS], task[_COLUMNS]))
    panels = array_at(panels_at(task[_DATA], products), (task[_UNITS], task[_DATA_ROWS], WIDTH))
    sums = array_at(floats_at(_own(task, thread)), (MOST_ROWS, WIDTH))
    multiply_panel(rows, panels[unit], sums, products, first)


@compiled()
def _attend_unit(task: Any, unit: int, thread: int, attended: Any, first: int) -> None:
    count, size, most, units = task[_ROWS], task[_WIDTH], task[_MOST], task[_UNITS]
    queries = array_at(rows_at(task[_INPUTS], attended), (count, task[_COLUMNS] // size, size))
    shape = task[_DATA_ROWS], task[_NUM_KEYS], size
    keys, values = array_at(rows_at(task[_DATA], attended), shape), array_at(rows_at(task[_VALUES], attended), shape)
    seen = array_at(rows_at(task[_SEEN], task), (count, most))
    counts = array_at(rows_at(task[_COUNTS], task), (count,))
    mixed = array_at(floats_at(_own(task, thread)), (count, size))
    weights = array_at(floats_at(_own(task, thread) + 4 * count * size), (count, most))
    scale = np.int32(task[_SCALE]).view(np.float32)
    key_head = unit * task[_NUM_KEYS] // units
    attend_head(queries, keys, values, unit, key_head, seen, counts, scale, weights, mixed)
    keep(attended, first, mixed)


@compiled()
def _take(control: Any, number: int) -> Any:
    """A share of a task that nobody else has taken; -1 if there is none."""
    while True:
        ticket = read_word(control, _TICKET)
        if ticket >> _BITS != number or ticket & _STOLEN == 0:
            return -1
        if replace_word(control, _TICKET, ticket, ticket - 1):
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
            copy_row(told, row, outputs, first, min(told.shape[1], outputs.shape[1] - first))


@compiled()
def _doer(control: Any, share: int, number: int, patience: int) -> Any:
    """The thread that has computed a share, once it has; -1 if it does not, and need not any more."""
    place, waited = _DONE + share * _LINE, 0
    while True:
        done = read_word(control, place)
        if done >> _BITS == number:
            return done & _STOLEN
        if waited > patience and replace_word(control, place, done, number << _BITS | _STOLEN):
            return -1
        waited += 1
        pause()


@compiled()
def _lead(control: Any, task: Any, work: int, outputs: Any) -> None:
    """See a task done: its units are columns of outputs."""
    number, shares = task[_NUMBER], task[_SHARES]
    if shares == 1:
        _compute_share(task, 0, outputs)
        return
    write_word(control, _TICKET, number << _BITS | shares)
    while True:
        share = _take(control, number)
        if share < 0:
            break
        _compute_share(task, share, outputs)
        write_word(control, _DONE + share * _LINE, number << _BITS)
    patience = PATIENCE + task[_UNITS] * work // shares // PRODUCTS_A_PAUSE
    for share in range(shares):
        doer = _doer(control, share, number, patience)
        if doer < 0:
            _compute_share(task, share, outputs)
        elif doer > 0:
            _gather_share(task, share, doer, outputs)


@in_each_format(lambda of: void(of.rows, int64[::1], int64, int32), nogil=True)
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
        state = read_word(control, STATE)
        if state == ENDED:
            return
        if state == ASLEEP:
            _read_file(pipe, woken.ctypes, woken.nbytes)
            continue
        number = read_word(control, _TICKET) >> _BITS
        share = _take(control, number)
        if share < 0:
            pause()
            continue
        done = read_word(control, _DONE + share * _LINE)
        place = _TASKS + number % _NUM_TASKS * _TASK_SIZE
        task[:] = control[place : place + _TASK_SIZE]
        fence()
        if done >> _BITS == number or read_word(control, place) != number:
            continue
        for unit in range(_first_unit(task, share), _first_unit(task, share + 1)):
            _compute(task, unit, thread, _told(task, thread, unit, like), 0)
        replace_word(control, _DONE + share * _LINE, done, number << _BITS | thread)


@in_each_format(lambda of: void(of.rows, of.panels, of.rows, int64[::1], float32[:, ::1]), nogil=True)
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


@in_each_format(
    lambda of: void(
        of.rows, of.table, of.table, int64[:, ::1], int64[::1], float32, of.rows, int64[::1], float32[:, ::1]
    ),
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
