"""Abstract tensors of the analysis."""

from __future__ import annotations

from dataclasses import dataclass

from permsolve.models.spaces import Labels


@dataclass(frozen=True)
class Factor:
    """Labels and the axes of a tensor that they lie on.

    Parameters
    ----------
    labels
        One atom for every combination of positions on the axes.
    axes
        Axis of the tensor for each axis of the labels.
    """

    labels: Labels
    axes: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """A parameter or buffer that a tensor is, up to order of axes and masks.

    Parameters
    ----------
    name
        Its full name.
    axes
        Axis of the parameter for each axis of the tensor.
    masks
        Names of buffers it was multiplied with, in the same shape.
    buffer
        Whether it is a buffer.
    """

    name: str
    axes: tuple[int, ...]
    masks: tuple[str, ...] = ()
    buffer: bool = False


@dataclass(frozen=True)
class Value:
    """A tensor of the traced graph.

    An axis is *labelled* (it lies in a factor), *uniform* (all entries along it are equal) or *fixed*: no permutation
    moves it. Axes of length 1 are none of these.

    Parameters
    ----------
    shape
        Its shape.
    factors
        Labels on disjoint sets of axes.
    uniform
        Axes along which all entries are equal.
    constant
        Whether it depends on parameters and constants only.
    leaf
        The parameter it is, if it is one.
    """

    shape: tuple[int, ...]
    factors: tuple[Factor, ...] = ()
    uniform: frozenset[int] = frozenset()
    constant: bool = False
    leaf: Leaf | None = None

    def plain(self) -> Value:
        """Return the same tensor with every axis fixed and no origin.

        Returns
        -------
        Value
            It has no factors.
        """
        return Value(self.shape, constant=self.constant)


def axis_of(axis: int, rank: int) -> int:
    """Return a non-negative axis.

    Parameters
    ----------
    axis, rank
        Axis, perhaps negative, and number of axes.

    Returns
    -------
    int
        The axis.
    """
    return axis + rank if axis < 0 else axis
