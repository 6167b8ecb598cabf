"""Balanced k-means: clusters of equal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.kernels.balanced import assign_balanced

#: Most rounds of assigning points and moving centres.
ROUNDS = 20


def balanced_clusters(
    points: npt.NDArray[Any],
    size: int,
    rng: np.random.Generator,
    *,
    rounds: int = ROUNDS,
    halt: npt.NDArray[np.bool_] | None = None,
) -> npt.NDArray[np.int64]:
    """Divide points into clusters of equal size (Malinen and Fränti, S+SSPR 2014).

    Centres start at random points. Then, in turn, points are assigned to clusters at least total squared distance,
    every cluster having as many places as its size, and centres move to the means of their points. No round makes the
    total worse; it ends when one changes nothing.

    Parameters
    ----------
    points
        (points, dimensions).
    size
        Points of a cluster; it divides their number.
    rng
        Where the first centres come from.
    rounds
        Most rounds.
    halt
        bool (1,): set from another thread to end early; what is returned is then worthless.

    Returns
    -------
    numpy.ndarray
        int64 (clusters, size): numbers of points, ascending in every cluster.
    """
    count = len(points) // size
    centres = points[rng.choice(len(points), count, replace=False)]
    clusters, prices = np.empty((count, size), dtype=np.int64), np.empty(count)
    halt = np.zeros(1, dtype=np.bool_) if halt is None else halt
    before: npt.NDArray[np.int64] | None = None
    for _ in range(rounds):
        assign_balanced(_squared_distances(points, centres), clusters, prices, halt)
        clusters.sort(axis=1)
        if (before is not None and np.array_equal(clusters, before)) or halt[0]:
            break
        before = clusters.copy()
        centres = points[clusters].mean(axis=1)
    return clusters


def _squared_distances(points: npt.NDArray[Any], centres: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the squared distances up to a constant for each point, which no assignment depends on."""
    norms = np.einsum("ij,ij->i", centres, centres, dtype=np.float64)
    distances: npt.NDArray[np.float64] = norms - 2.0 * (points @ centres.T).astype(np.float64)
    return distances
