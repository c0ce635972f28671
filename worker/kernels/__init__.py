"""What decoder layers compute and what a verdict rests on, compiled by numba: torch's calls cost as much as the sums
of a small forward.

Each row is computed by itself in a fixed order, and attention reads the keys that a token sees in the order of its
text, so that a row's bits do not depend on the other rows of a forward.

Arrays keep numbers as the model does: float32, or bfloat16 as uint16, the upper halves of float32. Sums are made in
float32, and what they come to is rounded where transformers' layers round it.

    layer.py         decoder layers: norms, the gate, and all that follows here
    sharing.py       threads that share a forward: tasks, who takes them, who gathers; products and attention by them
    memory.py        what such threads read and write at once
    attention.py     keys and values: where they go, who sees them, a head's attention
    products.py      rows times weights in panels
    vectors.py       code of vectors, written for LLVM
    formats.py       numbers in float32 and bfloat16, and functions compiled for both
    arithmetic.py    what a compiler may do with sums; the exponential
    processor.py     the width of its registers, and what it can multiply
    verdict.py       best tokens, margins and chances of rows of logits
"""

from worker.kernels.attention import place, see
from worker.kernels.formats import compile_for_bfloat16, keep
from worker.kernels.layer import add, decode, gate, normalise, normalise_heads
from worker.kernels.processor import LANES, MULTIPLIES_BFLOAT16
from worker.kernels.products import MOST_ROWS, WIDTH, look_up, multiply
from worker.kernels.sharing import ASLEEP, CONTROL_SIZE, ENDED, ON, STATE, assist, attend, multiply_together
from worker.kernels.verdict import weigh

__all__ = [
    "ASLEEP",
    "CONTROL_SIZE",
    "ENDED",
    "LANES",
    "MOST_ROWS",
    "MULTIPLIES_BFLOAT16",
    "ON",
    "STATE",
    "WIDTH",
    "add",
    "assist",
    "attend",
    "compile_for_bfloat16",
    "decode",
    "gate",
    "keep",
    "look_up",
    "multiply",
    "multiply_together",
    "normalise",
    "normalise_heads",
    "place",
    "see",
    "weigh",
]
