"""Random numbers in kernels: SplitMix64 (Steele, Lea and Flood, 2014). Add `GOLDEN` to the state, then `mix` it."""

from __future__ import annotations

import numpy as np

from permsolve.kernels._jit import compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


@compiled
def mix(z):
    """Return 64 random bits.

    Parameters
    ----------
    z
        uint64, a state.

    Returns
    -------
    uint64
        The bits.
    """
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))
