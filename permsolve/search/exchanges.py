"""What annealing does with two columns that trade places, by objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.error_problem import ErrorProblem
from permsolve.objectives import choices
from permsolve.problem import Problem

Array = npt.NDArray[Any]


class Exchanges(ABC):
    """The kernels of annealing for one problem; both kinds draw the same proposals from a seed."""

    @abstractmethod
    def space(self, width: int, halt: Array) -> Any:
        """Allocate the work space of a window.

        Parameters
        ----------
        width
            Its columns.
        halt
            bool (1,): set from another thread to end a kernel.

        Returns
        -------
        object
            The work space.
        """

    @abstractmethod
    def anneal(
        self, space: Any, order: Array, best: Array, heat: tuple[float, float], count: int, seed: np.uint64, budget: int
    ) -> int:
        """Anneal a window.

        Parameters
        ----------
        space
            Its work space.
        order
            int64, its columns in groups of m; changed to the last state.
        best
            int64, receives the best state.
        heat
            First and last temperature, in units of `Problem.packed`.
        count
            Number of proposals.
        seed
            Seed of the kernel.
        budget
            Work after which it ends, in proposals.

        Returns
        -------
        int
            Number of proposals made.
        """

    @abstractmethod
    def mean_loss(self, space: Any, order: Array, samples: int, seed: np.uint64) -> float:
        """Average what a random exchange costs.

        Parameters
        ----------
        space, order, seed
            As in `anneal`.
        samples
            Number of exchanges.

        Returns
        -------
        float
            In units of `Problem.packed`.
        """


class RetainedExchanges(Exchanges):
    """Exchanges of a sum of largest entries: read off thresholds.

    Parameters
    ----------
    problem
        The problem.
    """

    def __init__(self, problem: Problem) -> None:
        self._packed = problem.packed
        self._n, self._m = problem.pattern.n, problem.pattern.m

    def space(self, width: int, halt: Array) -> Any:
        """Allocate saliency, thresholds and losses."""
        from permsolve.kernels.anneal import make_window

        return make_window(width, self._packed.shape[1], self._n, self._m, halt)

    def anneal(
        self, space: Any, order: Array, best: Array, heat: tuple[float, float], count: int, seed: np.uint64, budget: int
    ) -> int:
        """Run `permsolve.kernels.anneal.anneal_window`."""
        from permsolve.kernels.anneal import anneal_window

        *_, made = anneal_window(space, self._packed, order, best, self._n, self._m, *heat, count, seed, budget)
        return int(made)

    def mean_loss(self, space: Any, order: Array, samples: int, seed: np.uint64) -> float:
        """Run `permsolve.kernels.anneal.mean_loss`."""
        from permsolve.kernels.anneal import mean_loss

        return float(mean_loss(space, self._packed, order, self._n, self._m, samples, seed))


class ErrorExchanges(Exchanges):
    """Exchanges of the output error: two new groups are evaluated.

    Parameters
    ----------
    problem
        The problem.
    """

    def __init__(self, problem: ErrorProblem) -> None:
        from permsolve.kernels.output_error import Given

        self._given = Given(problem.packed, problem.correlations)
        self._m = problem.pattern.m
        self._segments = np.array(problem.packed_segments)
        # Reversed they are in lexicographic order: sets that begin alike are next to each other.
        self._sets = choices(problem.pattern.n, self._m)[::-1].copy()

    def space(self, width: int, halt: Array) -> Any:
        """Allocate columns, correlations and errors."""
        from permsolve.kernels.output_error import make_error_window

        return make_error_window(width, self._segments, self._sets, self._m, halt)

    def anneal(
        self, space: Any, order: Array, best: Array, heat: tuple[float, float], count: int, seed: np.uint64, budget: int
    ) -> int:
        """Run `permsolve.kernels.output_error.anneal_errors`."""
        from permsolve.kernels.output_error import anneal_errors

        *_, made = anneal_errors(space, self._given, order, best, self._m, *heat, count, seed, budget)
        return int(made)

    def mean_loss(self, space: Any, order: Array, samples: int, seed: np.uint64) -> float:
        """Run `permsolve.kernels.output_error.mean_error_loss`."""
        from permsolve.kernels.output_error import mean_error_loss

        return float(mean_error_loss(space, self._given, order, self._m, samples, seed))


def exchanges_of(problem: Problem) -> Exchanges:
    """Return the kernels that a problem is annealed with.

    Parameters
    ----------
    problem
        The problem.

    Returns
    -------
    Exchanges
        Those of its objective.
    """
    return ErrorExchanges(problem) if isinstance(problem, ErrorProblem) else RetainedExchanges(problem)
