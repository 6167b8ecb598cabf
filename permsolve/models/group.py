"""A group: channels that one permutation moves, in every parameter that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from permsolve.errors import InputError, ModelError
from permsolve.models.grouping import Block, Movement
from permsolve.models.tensors import lookup
from permsolve.patterns import NM, Permutation
from permsolve.problem import Problem
from permsolve.result import Result
from permsolve.saliency import NAMES, Saliency, resolve
from permsolve.sources import Source, finite_values

Array = npt.NDArray[Any]


class Consumer(NamedTuple):
    """A weight whose input channels a group permutes."""

    #: Full name of the parameter.
    name: str
    #: Its axis of input channels.
    axis: int
    #: Rows of the stacked problem that come from it.
    rows: int
    #: Numbers of the weight that stand in the columns.
    size: int


@dataclass(eq=False)
class Group:
    """Channels that one permutation moves, in every parameter that holds them.

    Parameters
    ----------
    name
        Name of the first consumer.
    nm
        The pattern.
    blocks
        Sizes of consecutive blocks of channels that no channel leaves.
    movements
        What the permutation does to each parameter, buffer or index.
    result
        The result of the last solve, or None.
    perm
        The permutation: that of ``result``, or the user's own, or None. int64 (cols,).
    """

    name: str
    nm: NM
    blocks: tuple[int, ...]
    movements: tuple[Movement, ...] = field(repr=False)
    result: Result | None = field(default=None, repr=False)
    perm: Permutation | None = field(default=None, repr=False)

    @classmethod
    def of(cls, blocks: list[Block], nm: NM) -> Group:
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
        readers = [move.name for move in movements if move.role == "consumer"]
        sizes = tuple(int(block.classes.size) for block in blocks)
        return cls(readers[0].removesuffix(".weight"), nm, sizes, tuple(movements))

    @property
    def cols(self) -> int:
        """Number of channels."""
        return sum(self.blocks)

    @property
    def rows(self) -> int:
        """Rows of the problem: the consumers stacked."""
        return sum(each.rows for each in self.consumers)

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The weights that gain."""
        found = []
        for move in self._by_role("consumer"):
            inside = int(np.prod([move.view[axis] for axis in move.axes]))
            rows = int(np.prod(move.view)) // inside * move.positions.shape[0]
            found.append(Consumer(move.name, _input_axis(move), rows, rows * self.cols))
        return tuple(found)

    @property
    def producers(self) -> tuple[str, ...]:
        """Weights whose output channels follow."""
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
        """Return the problem of this group: its consumers stacked by rows.

        Parameters
        ----------
        model
            The model, with data.
        saliency
            A name or saliency object for all weights; a mapping from names of weights to arrays of their shape or
            saliency objects; or a function of name and weight, both with input channels on axis 1, to an array.

        Returns
        -------
        Problem
            Its columns are the group's channels.

        Raises
        ------
        InputError
            If the saliency does not fit.
        ModelError
            If the model lacks a parameter, or its shape is another.
        """
        matrices = self.matrices(model)
        blocks = self.blocks if len(self.blocks) > 1 else None
        if isinstance(saliency, str) and saliency in NAMES:
            return Problem.stack(matrices, self.nm, saliency=saliency, blocks=blocks)
        arrays = [self._saliency(model, move, saliency) for move in self._by_role("consumer")]
        return Problem.stack(matrices, self.nm, saliency=arrays, blocks=blocks)

    def matrices(self, model: nn.Module) -> list[torch.Tensor]:
        """Return the weights of every consumer as a matrix whose columns are the group's channels.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        list
            Tensors of shape (rows, cols), in the order of `consumers`.
        """
        return [self._columns(move, effective(model, move)) for move in self._by_role("consumer")]

    def fingerprint(self, model: nn.Module) -> str:
        """Return the fingerprint that the problem of this group has.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        str
            Hexadecimal sha256, as in `Problem.stack`.
        """
        import hashlib

        digest = hashlib.sha256()
        for matrix in self.matrices(model):
            digest.update(bytes.fromhex(Source(matrix).fingerprint()))
        return digest.hexdigest()

    def check_perm(self, perm: npt.ArrayLike) -> Permutation:
        """Validate a permutation of the group's channels.

        Parameters
        ----------
        perm
            Integers of shape (cols,).

        Returns
        -------
        numpy.ndarray
            int64 (cols,), a copy.

        Raises
        ------
        InputError
            If it is no permutation or moves a channel out of its block.
        """
        try:
            checked = self.nm.check_solution(perm, self.cols)
        except InputError as error:
            raise InputError(f"group {self.name!r}: {error}") from error
        block = np.repeat(np.arange(len(self.blocks)), self.blocks)
        if not np.array_equal(block[checked], block):
            raise InputError(f"group {self.name!r}: the permutation moves a channel out of its block {self.blocks}")
        return checked

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

    def _saliency(self, model: nn.Module, move: Movement, saliency: object) -> Array:
        if isinstance(saliency, Mapping):
            if move.name not in saliency:
                raise InputError(f"the saliency has no entry for {move.name!r}, a consumer of group {self.name!r}")
            saliency = saliency[move.name]
        weight = effective(model, move)
        axis = _input_axis(move)
        first = finite_values(weight)
        channels = np.moveaxis(first, axis, 1) if first.ndim > 1 else first
        if callable(saliency) and not isinstance(saliency, Saliency) and not isinstance(saliency, type):
            given = saliency(move.name, channels)
        else:
            _, rule = resolve(saliency)
            given = rule(channels) if isinstance(rule, Saliency) else None
            if given is None:  # an array, in the shape of the weight itself
                return np.asarray(self._columns(move, self._array(move, rule, tuple(first.shape))))
        array = self._array(move, given, tuple(channels.shape))
        return np.asarray(self._columns(move, np.moveaxis(array, 1, axis)))

    def _array(self, move: Movement, given: object, shape: tuple[int, ...]) -> Array:
        array = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
        if array.shape != shape:
            raise InputError(f"the saliency of {move.name!r} has shape {array.shape}, the weight {shape}")
        return array


def _input_axis(move: Movement) -> int:
    """Return the parameter's own axis of input channels."""
    if len(move.axes) == 1:
        return move.axes[0]
    return 1 if move.axes == (0, 2) else 0


def effective(model: nn.Module, move: Movement) -> torch.Tensor:
    """Return a consumer's weight with its masks, without gradient.

    Parameters
    ----------
    model
        The model.
    move
        The consumer.

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
