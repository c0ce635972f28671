"""Formulas over small arrays are compiled, by Numba: NumPy takes a microsecond or more a call, however small they are.

They are compiled when their module is imported, for the types they name and no others, so that no request ever waits
for it. Code is kept beside the module or in the user's cache (NUMBA_CACHE_DIR overrides both); where neither can be
written to, every process compiles its own.

Numba keeps code by the file that a formula stands in, and does not look into others: a formula calls compiled ones of
its own module only.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

Formula = TypeVar("Formula", bound=Callable[..., Any])


def compiled(signature: str) -> Callable[[Formula], Formula]:
    """The formula compiled for arguments of these types; it divides by zero as NumPy does."""

    def compile_formula(formula: Formula) -> Formula:
        try:
            return cast(Formula, numba.njit(signature, error_model="numpy", cache=True)(formula))
        except (OSError, RuntimeError):  # there is no place to keep it
            return cast(Formula, numba.njit(signature, error_model="numpy")(formula))

    return compile_formula
