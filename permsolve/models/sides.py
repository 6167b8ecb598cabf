"""Which side of its weights a pattern permutes, and what the problem of a group of channels is."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from permsolve.errors import InputError
from permsolve.models.rules.registry import Use
from permsolve.patterns import NM, HiNM, HiNMSolution, Pattern, Permutation
from permsolve.problem import Problem
from permsolve.sources import Source

Blocks = tuple[int, ...]
Matrices = Sequence[torch.Tensor]
#: A name, or of each weight an array or (plain n:m) an `OutputError`.
Saliencies = str | Sequence[Any]


class Side(ABC):
    """The side of its weights that a pattern permutes: their input channels or their output channels.

    Weights that gain are handed over as matrices whose columns are the channels of a group; a line of such a matrix is
    what the group's channels have in common: an output channel (and kernel position) here, an input channel there.
    """

    #: Role of the movements of weights that gain.
    role: ClassVar[str]
    #: What its channels are called, and a unit of them.
    channels: ClassVar[str]
    unit_name: ClassVar[str]
    #: What a line of a weight is called in the problem.
    lines: ClassVar[str]
    #: Whether channels that move the same parameters are blocks of one problem, and not problems of their own.
    merges: ClassVar[bool]

    pattern: Pattern
    #: Consecutive channels that make up a group of the pattern, or a tile.
    unit: int

    @abstractmethod
    def axis(self, use: Use) -> int | None:
        """Return a weight's axis of these channels.

        Parameters
        ----------
        use
            How the weight is read.

        Returns
        -------
        int or None
            None where it has no such axis.
        """

    @abstractmethod
    def fault(self, shape: tuple[int, ...], channels: int) -> str | None:
        """Say why a weight does not gain, whatever its channels may do.

        Parameters
        ----------
        shape
            Shape of the weight.
        channels
            How many channels it has on this side; of a grouped convolution in each group.

        Returns
        -------
        str or None
            The reason.
        """

    @abstractmethod
    def shape(self, channels: int, lines: int) -> tuple[int, int]:
        """Return the shape of a group's problem.

        Parameters
        ----------
        channels
            Channels of the group.
        lines
            Lines of its weights together.

        Returns
        -------
        tuple
            (rows, cols).
        """

    @abstractmethod
    def blocks(self, cells: Blocks, lines: Blocks) -> Blocks | None:
        """Return the blocks of columns of a group's problem.

        Parameters
        ----------
        cells
            Sizes of consecutive blocks of channels that no channel leaves.
        lines
            Lines of each weight, once for each occurrence of the channels in it.

        Returns
        -------
        tuple or None
            Sizes of the blocks.
        """

    @abstractmethod
    def problem(self, matrices: Matrices, blocks: Blocks | None, saliency: Saliencies) -> Problem:
        """Return a group's problem.

        Parameters
        ----------
        matrices
            Its weights, (lines, channels) each.
        blocks
            What `blocks` returned.
        saliency
            A name, or arrays of the matrices' shapes, or of plain n:m the objective of each.

        Returns
        -------
        Problem
            The problem.
        """

    @abstractmethod
    def fingerprint(self, matrices: Matrices) -> str:
        """Return the fingerprint that `problem` would have.

        Parameters
        ----------
        matrices
            As there.

        Returns
        -------
        str
            Hexadecimal sha256.
        """

    @abstractmethod
    def perm(self, solution: Any) -> Permutation:
        """Return how a solution permutes the group's channels.

        Parameters
        ----------
        solution
            A checked solution of the problem.

        Returns
        -------
        numpy.ndarray
            int64 (channels,).
        """


@dataclass(frozen=True)
class Inputs(Side):
    """Of plain n:m: the readers of the channels gain; they are stacked by rows.

    Parameters
    ----------
    pattern
        The pattern.
    """

    role: ClassVar[str] = "consumer"
    channels: ClassVar[str] = "input channels"
    unit_name: ClassVar[str] = "group"
    lines: ClassVar[str] = "rows"
    merges: ClassVar[bool] = True

    pattern: NM

    @property
    def unit(self) -> int:  # type: ignore[override]
        """Channels of a group: m."""
        return self.pattern.m

    def axis(self, use: Use) -> int:
        """Return the axis of input channels."""
        return use.axis

    def fault(self, shape: tuple[int, ...], channels: int) -> str | None:
        """Say whether the channels do not divide into groups."""
        return f"{channels} input channels are not a multiple of {self.unit}" if channels % self.unit else None

    def shape(self, channels: int, lines: int) -> tuple[int, int]:
        """Return lines by channels."""
        return lines, channels

    def blocks(self, cells: Blocks, lines: Blocks) -> Blocks | None:
        """Return the cells: columns are channels."""
        return cells if len(cells) > 1 else None

    def problem(self, matrices: Matrices, blocks: Blocks | None, saliency: Saliencies) -> Problem:
        """Stack the weights by rows."""
        given = saliency if isinstance(saliency, str) else list(saliency)
        return Problem.stack(list(matrices), self.pattern, saliency=given, blocks=blocks)

    def fingerprint(self, matrices: Matrices) -> str:
        """Return the digest of the weights' digests."""
        digests = [Source(matrix).fingerprint() for matrix in matrices]
        return hashlib.sha256(bytes.fromhex("".join(digests))).hexdigest()

    def perm(self, solution: Permutation) -> Permutation:
        """Return the solution."""
        return solution


@dataclass(frozen=True)
class Outputs(Side):
    """Of HiNM: the makers of the channels gain; they stand side by side, and each keeps columns of its own.

    Rows are the channels. A tile names the columns that it keeps by index, so that columns need no order.

    Parameters
    ----------
    pattern
        The pattern.
    """

    role: ClassVar[str] = "maker"
    channels: ClassVar[str] = "output channels"
    unit_name: ClassVar[str] = "tile"
    lines: ClassVar[str] = "columns"
    merges: ClassVar[bool] = False

    pattern: HiNM

    @property
    def unit(self) -> int:  # type: ignore[override]
        """Channels of a tile."""
        return self.pattern.vector

    def axis(self, use: Use) -> int | None:
        """Return the axis of output channels."""
        return use.output

    def fault(self, shape: tuple[int, ...], channels: int) -> str | None:
        """Say whether the weight is no matrix of whole tiles that keep anything."""
        if len(shape) != 2:
            return f"it has {len(shape)} axes, not two: only matrices are cut into tiles, convolutions are not"
        if channels % self.unit:
            return f"{channels} output channels are not a multiple of vector = {self.unit}"
        width = shape[0] * shape[1] // channels
        if width % self.pattern.m:
            return f"{width} input channels are not a multiple of {self.pattern.m}"
        if not self.pattern.kept(width):
            return f"a tile would keep less than one group of {self.pattern.m} of its {width} input channels"
        return None

    def shape(self, channels: int, lines: int) -> tuple[int, int]:
        """Return channels by lines."""
        return channels, lines

    def blocks(self, cells: Blocks, lines: Blocks) -> Blocks | None:
        """Return the lines of every weight: each keeps its own share."""
        return lines if len(lines) > 1 else None

    def problem(self, matrices: Matrices, blocks: Blocks | None, saliency: Saliencies) -> Problem:
        """Put the weights side by side."""
        given = saliency if isinstance(saliency, str) else np.concatenate(saliency).T
        return Problem.of(_side_by_side(matrices), self.pattern, saliency=given, blocks=blocks)

    def fingerprint(self, matrices: Matrices) -> str:
        """Return the digest of the weights side by side."""
        return Source(_side_by_side(matrices)).fingerprint()

    def perm(self, solution: HiNMSolution) -> Permutation:
        """Return the order of the rows."""
        return solution.rows


def side_of(pattern: Pattern) -> Side:
    """Return the side that a pattern permutes.

    Parameters
    ----------
    pattern
        The pattern.

    Returns
    -------
    Side
        The side.

    Raises
    ------
    InputError
        If it permutes both.
    """
    if isinstance(pattern, NM):
        return Inputs(pattern)
    if isinstance(pattern, HiNM):
        return Outputs(pattern)
    raise InputError(
        f"{pattern} permutes rows and columns, so that the row order of one layer decides the column order of the next "
        f"and layers are no problems of their own; plans take n:m and HiNM: solve single matrices with permsolve.solve"
    )


def _side_by_side(matrices: Matrices) -> torch.Tensor:
    return torch.cat([matrix.cpu() for matrix in matrices]).T
