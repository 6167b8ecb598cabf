"""The objective `OutputError` of a weight, brought to the columns of its group's problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError
from permsolve.models.grouping import Movement
from permsolve.objectives import OutputError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ColumnsError(OutputError):
    """The objective of a matrix whose rows have moments in an order of their own.

    Parameters
    ----------
    numbers
        Which of the moments belongs to each row, int64 (rows,).
    """

    numbers: npt.NDArray[np.int64] = field(kw_only=True)

    def __post_init__(self) -> None:
        """Take the moments as they are: they are parts of valid ones."""

    def moment_of_rows(self, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        """Return the numbers."""
        if shape != (len(self.numbers), self.channels):
            raise InputError(f"the objective is of a matrix of shape {(len(self.numbers), self.channels)}, got {shape}")
        return self.numbers


def columns_error(error: OutputError, move: Movement) -> OutputError:
    """Return the objective of a weight for the matrix of a group's channels (`permsolve.models.group.Group.matrices`).

    Parameters
    ----------
    error
        The objective of the weight with its input channels on axis 1.
    move
        The movement of the weight.

    Returns
    -------
    OutputError
        Of the matrix whose columns are the group's channels.

    Raises
    ------
    InputError
        If the moments do not fit the weight.
    """
    given = error.channel_moments
    sizes = [move.view[axis] for axis in move.axes]
    groups, channels = (1, sizes[0]) if len(sizes) == 1 else (sizes[0], math.prod(sizes[1:]))
    lines = math.prod(move.view) // math.prod(sizes)
    count, rest = divmod(len(given), groups)
    if len(given) == 1:
        count, given = 1, np.broadcast_to(given, (groups, *given.shape[1:]))
    elif rest:
        count = 0
    if error.channels != channels or not count or lines % count:
        raise InputError(
            f"{move.name}: moments of shape {error.channel_moments.shape} do not fit; needed is one matrix of "
            f"{channels} x {channels} for each kernel position"
            + (f" and each of the {groups} groups of the convolution" if groups > 1 else "")
        )
    whole = _side_by_side(given.reshape(groups, count, channels, channels))
    parts = [whole[:, each][:, :, each] for each in move.positions]
    numbers = [np.arange(lines) % count + k * count for k in range(len(parts))]
    return ColumnsError(np.ascontiguousarray(np.concatenate(parts)), numbers=np.concatenate(numbers))


def _side_by_side(moments: Array) -> Array:
    """Return one matrix per kernel position for all groups of a convolution: each group sees only its own channels."""
    groups, count, channels, _ = moments.shape
    if groups == 1:
        return np.asarray(moments[0])
    whole = np.zeros((count, groups, channels, groups, channels))
    for group in range(groups):
        whole[:, group, :, group] = moments[group]
    return whole.reshape(count, groups * channels, groups * channels)
