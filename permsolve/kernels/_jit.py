"""How every search kernel is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])

#: Sums may be reordered (that is what lets them run in vector registers) and signed zeros ignored. NaN and inf are
#: refused at the door (`permsolve.problem`), so assuming their absence is safe for the data.
SEARCH_FLAGS = {"reassoc", "nsz", "nnan", "contract"}


def compiled(function: F) -> F:
    """Compile a search kernel: no GIL, cached on disk where a folder for it can be written.

    Parameters
    ----------
    function
        A function in Numba's subset of Python.

    Returns
    -------
    F
        The dispatcher, typed as the function it replaces.
    """
    return _jit(function, fastmath=SEARCH_FLAGS)


def exact(function: F) -> F:
    """Compile a scoring kernel: as `compiled`, but with IEEE arithmetic in source order.

    Parameters
    ----------
    function
        A function in Numba's subset of Python.

    Returns
    -------
    F
        The dispatcher, typed as the function it replaces.
    """
    return _jit(function, fastmath=False)


def _jit(function: F, *, fastmath: object) -> F:
    options = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return cast(F, numba.njit(cache=True, **options)(function))
    except RuntimeError:  # Numba found no writable folder for its cache: compile anew in every process.
        return cast(F, numba.njit(**options)(function))
