"""The weights of a calibration and their sums: what belongs to which weight, in which shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.errors import ModelError
from permsolve.models.grouping import Movement
from permsolve.models.tensors import index_of
from permsolve.patterns import Permutation

Array = npt.NDArray[Any]
Float = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Site:
    """A weight of a model, and the sum that its inputs are added up in.

    Parameters
    ----------
    path
        Path of the weight.
    names
        All its names.
    shape
        Its shape.
    axis
        Axis of its input channels.
    groups
        Groups of a grouped convolution, else 1.
    total
        Number of the sum; weights that read the same tensors have one in common.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    axis: int
    groups: int
    total: int

    @property
    def cols(self) -> int:
        """Input channels of a group."""
        return self.shape[0] // self.groups if self.axis == 0 else self.shape[1]

    @property
    def positions(self) -> int:
        """Positions of the kernel; 1 for a linear layer."""
        return math.prod(self.shape[2:])

    @property
    def channels(self) -> int:
        """Input channels of all groups."""
        return self.groups * self.cols

    @property
    def features(self) -> int:
        """What a row holds: input channels of a group times positions of the kernel."""
        return self.cols * self.positions


@dataclass(frozen=True, eq=False)
class Total:
    """Sums over rows of input.

    Parameters
    ----------
    count
        Number of rows.
    values
        float64. With covariance X^T X, (groups, features, features); without, the squares of every channel averaged
        over kernel positions, (channels,).
    """

    count: int
    values: Float


def input_order(site: Site, move: Movement, perm: Permutation) -> Ints | None:
    """Return which channel each input channel of a weight comes from.

    Parameters
    ----------
    site
        The weight.
    move
        What a plan does to it.
    perm
        The permutation of the group.

    Returns
    -------
    numpy.ndarray or None
        int64 (channels,), or None if its input channels stay where they are.

    Raises
    ------
    ModelError
        If the plan is for another model.
    """
    if move.role in ("index", "pointed"):
        return None
    grouped = (0, 2) if site.axis == 1 else (0, 1)  # of the views (groups, k, c, ...) and (groups, c, k, ...)
    if move.axes not in ((site.axis,), grouped):
        return None
    index = index_of(move, perm)
    if site.groups > 1 and move.axes == (1,):  # all groups alike
        index = (np.arange(site.groups)[:, None] * site.cols + index).reshape(-1)
    if index.size != site.channels:
        raise ModelError(
            f"the plan is for another model: it moves {index.size} input channels of {move.name}, the calibration has "
            f"{site.channels}"
        )
    return index


def column_sums(channels: Array, groups: int) -> Float:
    """Return the sum of the magnitudes of each input channel of a weight.

    Parameters
    ----------
    channels
        The weight with its input channels in axis 1, outputs group by group in axis 0.
    groups
        Groups of a grouped convolution, else 1.

    Returns
    -------
    numpy.ndarray
        float64 (channels of all groups,).
    """
    parts = np.abs(channels).reshape(groups, -1, channels.shape[1], math.prod(channels.shape[2:]))
    return np.asarray(parts.sum(axis=(1, 3), dtype=np.float64).reshape(-1))


def needed_bytes(sites: Sequence[Site], covariance: bool) -> int:
    """Return the size of all sums.

    Parameters
    ----------
    sites
        The weights.
    covariance
        Whether second moments are summed, or only squares.

    Returns
    -------
    int
        Bytes.
    """
    one = {site.total: site for site in sites}.values()
    return 8 * sum(site.groups * site.features**2 if covariance else site.channels for site in one)


def sum_shape(site: Site, covariance: bool) -> tuple[int, ...]:
    """Return the shape of a weight's sum.

    Parameters
    ----------
    site
        The weight.
    covariance
        Whether second moments are summed, or only squares.

    Returns
    -------
    tuple
        The shape.
    """
    return (site.groups, site.features, site.features) if covariance else (site.channels,)
