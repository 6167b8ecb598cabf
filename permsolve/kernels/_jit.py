"""How every kernel is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

Kernel = Callable[..., Any]

#: Sums may be reordered (that is what lets them run in vector registers) and signed zeros ignored. NaN and inf are
#: refused at the door (`permsolve.problem`), so assuming the absence of NaN is safe for the data.
SEARCH_FLAGS = {"reassoc", "nsz", "nnan", "contract"}


def compiled(function: Kernel) -> Kernel:
    """Compile a search kernel: no GIL, cached on disk where a folder for it can be written.

    Parameters
    ----------
    function
        A function in Numba's subset of Python.

    Returns
    -------
    Callable
        The dispatcher.
    """
    return _jit(function, SEARCH_FLAGS)


def exact(function: Kernel) -> Kernel:
    """Compile a scoring kernel: as `compiled`, but with IEEE arithmetic in source order.

    Parameters
    ----------
    function
        A function in Numba's subset of Python.

    Returns
    -------
    Callable
        The dispatcher.
    """
    return _jit(function, False)


def _jit(function: Kernel, fastmath: bool | set[str]) -> Kernel:
    try:
        return numba.njit(function, cache=True, nogil=True, error_model="numpy", fastmath=fastmath)
    except RuntimeError:  # Numba found no writable folder for its cache: compile anew in every process.
        return numba.njit(function, nogil=True, error_model="numpy", fastmath=fastmath)
