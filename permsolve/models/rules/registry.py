"""The table of rules and what a rule is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from permsolve.models.algebra import Algebra
from permsolve.models.spaces import Ints, Labels
from permsolve.models.values import Value, axis_of

Rule = Callable[["Call"], Any]

_RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class Use:
    """A contraction that reads a parameter.

    Parameters
    ----------
    name
        Name of the parameter.
    axis
        The parameter's axis of input channels.
    output
        Its axis of output channels, or None.
    masks
        Buffers the parameter is multiplied with first.
    where
        What reads it, for people.
    """

    name: str
    axis: int
    output: int | None
    masks: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class Grouped:
    """The weights of a grouped convolution, whose input channels move within each group on their own.

    Parameters
    ----------
    view
        Shape of the weights with the groups on an axis of their own, the first.
    inputs, outputs
        Labels of (groups, inputs of a group) and (groups, outputs of a group).
    axes
        Axes of the view that ``inputs`` and ``outputs`` lie on beside the first.
    """

    view: tuple[int, ...]
    inputs: Labels
    outputs: Labels
    axes: tuple[int, int]


@dataclass
class Call:
    """An operator with its arguments by name; tensors are `Value`.

    Parameters
    ----------
    name
        Name of the operator without its overload, such as ``"aten.linear"``.
    args
        Arguments by the names of the operator's schema.
    shapes
        Shape of the result, or of every tensor of the result.
    algebra
        How demands are made.
    where
        What to call this operator in a reason.
    uses
        Where contractions record the parameters they read.
    grouped
        Weights of grouped convolutions by name of the parameter.
    known
        Returns the values of an integer argument that is constant, given its name, or None.
    first_only
        Whether of several results only the first is used.
    """

    name: str
    args: dict[str, Any]
    shapes: Any
    algebra: Algebra
    where: str
    uses: list[Use]
    grouped: dict[str, Grouped]
    known: Callable[[str], Ints | None]
    first_only: bool = True

    def __getitem__(self, name: str) -> Any:
        """Return an argument."""
        return self.args[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return an argument that some overloads lack.

        Parameters
        ----------
        name, default
            Its name; what to return where it is missing.

        Returns
        -------
        object
            The argument.
        """
        return self.args.get(name, default)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the only, or first, tensor of the result."""
        first: tuple[int, ...] = self.shapes[0] if isinstance(self.shapes, list) else self.shapes
        return first

    def axis(self, name: str, rank: int) -> int:
        """Return an argument that names an axis, not negative.

        Parameters
        ----------
        name
            Name of the argument.
        rank
            Number of axes.

        Returns
        -------
        int
            The axis.
        """
        return axis_of(int(self.args[name]), rank)

    def tensors(self) -> list[Value]:
        """Return all tensors among the arguments.

        Returns
        -------
        list
            In order; lists of tensors are unfolded.
        """
        found = []
        for value in self.args.values():
            found += [each for each in (value if isinstance(value, (list, tuple)) else [value])]
        return [each for each in found if isinstance(each, Value)]

    def rest(self, first: Value) -> Any:
        """Return the first result with fixed tensors for the others.

        Parameters
        ----------
        first
            The first tensor of the result.

        Returns
        -------
        object
            One value, or a list where the operator returns several tensors.
        """
        if not isinstance(self.shapes, list):
            return first
        if not self.first_only:
            return NotImplemented
        return [first, *(None if shape is None else Value(shape) for shape in self.shapes[1:])]


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators.

    Parameters
    ----------
    names
        Names without ``aten.`` and without overload.

    Returns
    -------
    Callable
        The decorator.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            if f"aten.{name}" in _RULES:
                raise RuntimeError(f"two rules for aten.{name}")
            _RULES[f"aten.{name}"] = function
        return function

    return register


def rule_of(name: str) -> Rule | None:
    """Return the rule of an operator.

    Parameters
    ----------
    name
        Its name, such as ``"aten.linear"``.

    Returns
    -------
    Callable or None
        The rule; None where nothing is known about the operator.
    """
    return _RULES.get(name)


def span(start: int, stop: int, step: int = 1) -> Ints:
    """Return whole numbers as an array of positions.

    Parameters
    ----------
    start, stop, step
        As in `range`.

    Returns
    -------
    numpy.ndarray
        The numbers.
    """
    return np.arange(start, stop, step, dtype=np.int64)
