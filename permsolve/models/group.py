"""A group: channels that one permutation moves, in every parameter that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from permsolve.errors import InputError, ModelError
from permsolve.models.grouping import Block, Movement
from permsolve.models.objective import columns_error
from permsolve.models.sides import Side, side_of
from permsolve.models.tensors import lookup
from permsolve.objectives import OutputError
from permsolve.patterns import Pattern, Permutation
from permsolve.problem import Problem
from permsolve.result import Result
from permsolve.saliency import NAMES, Saliency, resolve
from permsolve.sources import finite_values

Array = npt.NDArray[Any]


class Gainer(NamedTuple):
    """A weight that gains by a group's permutation: a consumer for plain n:m, a maker for HiNM."""

    #: Full name of the parameter.
    name: str
    #: Its axis of input channels.
    axis: int
    #: Lines of the problem that come from it: rows for plain n:m, columns for HiNM.
    lines: int
    #: Numbers of the weight that stand in the group's channels.
    size: int


@dataclass(eq=False)
class Group:
    """Channels that one permutation moves, in every parameter that holds them.

    For plain n:m the channels are the columns of the group's problem, for HiNM they are its rows.

    Parameters
    ----------
    name
        Name of the first weight that gains.
    nm
        The pattern.
    blocks
        Sizes of consecutive blocks of channels that no channel leaves.
    movements
        What the permutation does to each parameter, buffer or index.
    result
        The result of the last solve, or None.
    solution
        The pattern's solution: that of ``result``, or the user's own, or None.
    """

    name: str
    nm: Pattern
    blocks: tuple[int, ...]
    movements: tuple[Movement, ...] = field(repr=False)
    result: Result | None = field(default=None, repr=False)
    solution: Any = field(default=None, repr=False)

    @classmethod
    def of(cls, blocks: list[Block], nm: Pattern) -> Group:
        """Make a group of blocks that move the same parameters.

        Parameters
        ----------
        blocks
            The blocks.
        nm
            The pattern.

        Returns
        -------
        Group
            The group, not solved.
        """
        movements = []
        for parts in zip(*(block.movements for block in blocks), strict=True):
            first = parts[0]
            positions = np.concatenate([part.positions for part in parts], axis=1)
            movements.append(Movement(first.name, first.role, first.view, first.axes, positions, first.masks))
        sizes = tuple(int(block.classes.size) for block in blocks)
        group = cls("", nm, sizes, tuple(movements))
        group.name = group.gainers[0].name.removesuffix(".weight")
        return group

    @property
    def side(self) -> Side:
        """The side of its weights that the pattern permutes."""
        return side_of(self.nm)

    @property
    def perm(self) -> Permutation | None:
        """How the channels are permuted, int64 (channels,): slot s holds what slot perm[s] held. None if not solved."""
        return None if self.solution is None else self.side.perm(self.solution)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return sum(self.blocks)

    @property
    def lines(self) -> tuple[int, ...]:
        """Lines of each weight that gains, once for each occurrence of the channels in it."""
        return tuple(int(each) for move in self.gaining for each in [_lines(move)] * move.positions.shape[0])

    @property
    def rows(self) -> int:
        """Rows of the problem."""
        return self.side.shape(self.channels, sum(self.lines))[0]

    @property
    def cols(self) -> int:
        """Columns of the problem."""
        return self.side.shape(self.channels, sum(self.lines))[1]

    @property
    def gaining(self) -> list[Movement]:
        """The movements of the weights that gain."""
        return self._by_role(self.side.role)

    @property
    def gainers(self) -> tuple[Gainer, ...]:
        """The weights that gain: `consumers` or `makers`."""
        found = []
        for move in self.gaining:
            lines = _lines(move) * move.positions.shape[0]
            found.append(Gainer(move.name, input_axis(move), lines, lines * self.channels))
        return tuple(found)

    @property
    def consumers(self) -> tuple[Gainer, ...]:
        """The weights whose input channels the group permutes, and that gain."""
        return self.gainers if self.side.role == "consumer" else ()

    @property
    def makers(self) -> tuple[Gainer, ...]:
        """The weights whose output channels the group permutes, and that gain."""
        return self.gainers if self.side.role == "maker" else ()

    @property
    def producers(self) -> tuple[str, ...]:
        """Weights whose output channels follow without a gain."""
        return tuple(dict.fromkeys(move.name for move in self._by_role("producer")))

    @property
    def followers(self) -> tuple[str, ...]:
        """Everything else that follows: biases, norms, statistics, embeddings, masks, weights that do not gain."""
        names = [move.name for role in ("follower", "carried") for move in self._by_role(role)]
        return tuple(dict.fromkeys(names))

    @property
    def indices(self) -> tuple[str, ...]:
        """Modules that are given an index after them."""
        return tuple(move.name for move in self._by_role("index"))

    def problem(self, model: nn.Module, saliency: object = "magnitude") -> Problem:
        """Return the problem of this group: its consumers stacked by rows, or its makers side by side.

        Parameters
        ----------
        model
            The model, with data.
        saliency
            A name or saliency object for all weights; a mapping from names of weights to arrays of their shape or
            saliency objects; or a function of name and weight, both with input channels on axis 1, to an array. The
            objective `permsolve.saliency.OutputError` is such an object, and may be what the function returns.

        Returns
        -------
        Problem
            Its columns, or rows, are the group's channels.

        Raises
        ------
        InputError
            If the saliency does not fit.
        ModelError
            If the model lacks a parameter, or its shape is another.
        """
        matrices, blocks = self.matrices(model), self._blocks()
        if isinstance(saliency, str) and saliency in NAMES:
            return self.side.problem(matrices, blocks, saliency)
        rankings = [self._saliency(model, move, saliency) for move in self.gaining]
        return self.side.problem(matrices, blocks, rankings)

    def matrices(self, model: nn.Module) -> list[torch.Tensor]:
        """Return every weight that gains as a matrix whose columns are the group's channels.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        list
            Tensors of shape (lines, channels), in the order of `gainers`.
        """
        return [self._columns(move, effective(model, move)) for move in self.gaining]

    def fingerprint(self, model: nn.Module) -> str:
        """Return the fingerprint that the problem of this group has.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        str
            Hexadecimal sha256.
        """
        return self.side.fingerprint(self.matrices(model))

    def check_solution(self, solution: Any) -> Any:
        """Validate a solution for this group.

        Parameters
        ----------
        solution
            Of plain n:m a permutation of the channels, integers of shape (channels,); of HiNM a
            `permsolve.patterns.HiNMSolution`.

        Returns
        -------
        object
            A copy.

        Raises
        ------
        InputError
            If it is none for this group's problem.
        """
        try:
            return self.nm.check_solution(solution, (self.rows, self.cols), self._blocks())
        except InputError as error:
            raise InputError(f"group {self.name!r}: {error}") from error

    def _blocks(self) -> tuple[int, ...] | None:
        return self.side.blocks(self.blocks, self.lines)

    def _by_role(self, role: str) -> list[Movement]:
        return [move for move in self.movements if move.role == role]

    def _columns(self, move: Movement, weight: Any) -> Any:
        """Arrange a weight, or its saliency, in the columns of the problem."""
        rest = [axis for axis in range(len(move.view)) if axis not in move.axes]
        flat = weight.reshape(move.view)
        flat = flat.permute(*rest, *move.axes) if isinstance(flat, torch.Tensor) else flat.transpose(*rest, *move.axes)
        flat = flat.reshape(-1, int(np.prod([move.view[axis] for axis in move.axes])))
        if isinstance(flat, torch.Tensor):
            positions = torch.as_tensor(move.positions, device=flat.device)
            return torch.cat([flat.index_select(1, each) for each in positions])
        return np.concatenate([flat[:, each] for each in move.positions])

    def _saliency(self, model: nn.Module, move: Movement, saliency: object) -> Array | OutputError:
        if isinstance(saliency, Mapping):
            if move.name not in saliency:
                raise InputError(f"the saliency has no entry for {move.name!r}, which gains in group {self.name!r}")
            saliency = saliency[move.name]
        weight = effective(model, move)
        axis = input_axis(move)
        first = finite_values(weight)
        channels = np.moveaxis(first, axis, 1) if first.ndim > 1 else first
        if callable(saliency) and not isinstance(saliency, Saliency) and not isinstance(saliency, type):
            given = saliency(move.name, channels)
            if isinstance(given, OutputError):
                return self._error(move, given)
        elif isinstance(saliency, OutputError):
            return self._error(move, saliency)
        else:
            _, rule = resolve(saliency)
            given = rule(channels) if isinstance(rule, Saliency) else None
            if given is None:  # an array, in the shape of the weight itself
                return np.asarray(self._columns(move, self._array(move, rule, tuple(first.shape))))
        array = self._array(move, given, tuple(channels.shape))
        return np.asarray(self._columns(move, np.moveaxis(array, 1, axis)))

    def _error(self, move: Movement, error: OutputError) -> OutputError:
        if self.side.role != "consumer":
            raise InputError(f"the objective 'output_error' is for plain n:m such as '2:4', not for {self.nm}")
        return columns_error(error, move)

    def _array(self, move: Movement, given: object, shape: tuple[int, ...]) -> Array:
        array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
        if array.shape != shape:
            raise InputError(f"the saliency of {move.name!r} has shape {array.shape}, the weight {shape}")
        return array


def input_axis(move: Movement) -> int:
    """Return the parameter's own axis of input channels.

    Parameters
    ----------
    move
        The movement of a weight that gains.

    Returns
    -------
    int
        The axis.
    """
    if move.role == "maker":  # a matrix: the other axis
        return 1 - move.axes[0]
    if len(move.axes) == 1:
        return move.axes[0]
    return 1 if move.axes == (0, 2) else 0


def _lines(move: Movement) -> int:
    """Return how many entries one channel has in one of its occurrences."""
    return math.prod(move.view) // math.prod(move.view[axis] for axis in move.axes)


def effective(model: nn.Module, move: Movement) -> torch.Tensor:
    """Return a weight that gains with its masks, without gradient.

    Parameters
    ----------
    model
        The model.
    move
        Its movement.

    Returns
    -------
    torch.Tensor
        The parameter itself where it has no mask.

    Raises
    ------
    ModelError
        If it has no data.
    """
    weight = lookup(model, move.name, move.view).detach()
    if weight.is_meta:
        raise ModelError(f"{move.name} is on the meta device and has no data: load the weights first")
    for name in move.masks:
        weight = weight * lookup(model, name, move.view)
    return weight
