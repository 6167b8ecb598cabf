"""Work space that begins where vector registers like it."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled

#: float32 of a cache line.
_LINE = 16


@compiled
def scratch(size):
    """Return uninitialised float32 work space that begins at a cache line; for kernels.

    Parameters
    ----------
    size
        Number of entries.

    Returns
    -------
    numpy.ndarray
        The array, flat.
    """
    raw = np.empty(size + _LINE, dtype=np.float32)
    first = -(raw.ctypes.data // 4) % _LINE
    return raw[first : first + size]
