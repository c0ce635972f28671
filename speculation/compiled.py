"""Functions over small arrays are compiled, by Numba: NumPy and torch take microseconds a call, however small they are.

They are compiled when their module is imported, for the types they name and no others, so that no request ever waits
for it. Code is kept beside the module or in the user's cache (NUMBA_CACHE_DIR overrides both); where neither can be
written to, every process compiles its own.

Numba keeps code by the file that a function stands in, and does not look into others; here it is kept by all modules
of that file's folder. So a function calls compiled ones of its own folder only.
"""

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from llvmlite import binding
from numba.core import caching

Function = TypeVar("Function", bound=Callable[..., Any])

EXACT: frozenset[str] = frozenset()
"""Of what a compiler may do for speed with numbers that are not whole: nothing."""

_logger = logging.getLogger(__name__)


class _BySource:
    """A place of Numba's for code, with a folder for every source and processor.

    The source is that of all modules beside the function's, too: what it calls of theirs becomes part of its code.

    Numba notes that code is kept before it writes that code, over what an earlier source left under the same name: who
    reads in between, or ever after where the writer was killed in between, is given the earlier code as the new one.
    In a folder of its own there is none to be given, and what is not found is compiled.
    """

    _py_file: str

    def get_cache_path(self) -> str:
        place: Any = super()
        processor = f"{binding.get_host_cpu_name()} {binding.get_host_cpu_features().flatten()}"
        source = place.get_source_stamp() + _digest_of_modules(Path(self._py_file).parent)
        key = hashlib.sha256(source + processor.encode()).hexdigest()[:16]
        return str(Path(place.get_cache_path(), f"{Path(self._py_file).stem}-{key}"))


@functools.cache  # as they were when the first function was compiled: later than that, what is read is not what runs
def _digest_of_modules(folder: Path) -> bytes:
    """Of the names and contents of all modules in a folder."""
    digest = hashlib.sha256()
    for module in sorted(folder.glob("*.py")):
        digest.update(module.name.encode() + hashlib.sha256(module.read_bytes()).digest())
    return digest.digest()


class Provided(_BySource, caching.UserProvidedCacheLocator):
    """In NUMBA_CACHE_DIR."""


class BesideTheModule(_BySource, caching.InTreeCacheLocator):
    """In the module's __pycache__."""


class OfTheUser(_BySource, caching.UserWideCacheLocator):
    """In the user's cache."""


_PLACES = (Provided, BesideTheModule, OfTheUser)
_settings: Any = numba.config
_settings.CACHE_LOCATOR_CLASSES = ",".join(f"{__name__}.{place.__name__}" for place in _PLACES)


def compiled(*signature: Any, fastmath: frozenset[str] = EXACT, nogil: bool = False) -> Callable[[Function], Function]:
    """The function compiled for arguments of these types; it divides by zero as NumPy does.

    Args:
        signature: In Numba's words; none for a function that only compiled ones of its folder call.
        fastmath: What LLVM may do with sums and products, by its names. A function without any inherits its caller's.
        nogil: Whether other threads may run meanwhile: for what takes longer than letting go and asking again.
    """
    compiler: Any = numba.njit  # its annotations know no signature that is left out
    options: dict[str, Any] = {"error_model": "numpy", "nogil": nogil} | (
        {"fastmath": set(fastmath)} if fastmath else {}
    )

    def compile_function(function: Function) -> Function:
        try:
            return cast(Function, compiler(*signature, cache=True, **options)(function))
        except (OSError, RuntimeError) as error:  # there is no place to keep it
            _logger.debug("compiled anew at every start: %s", error)
            return cast(Function, compiler(*signature, **options)(function))

    return compile_function


def compile_also(function: Callable[..., Any], signature: Any) -> None:
    """Compile it for arguments of other types, too, which most programs have no use for."""
    dispatcher: Any = function
    dispatcher.disable_compile(False)
    try:
        dispatcher.compile(signature)
    except OSError as error:
        _logger.debug("compiled anew at every start: %s", error)
    dispatcher.disable_compile()
