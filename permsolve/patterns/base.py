"""What every sparsity pattern knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from permsolve.errors import InputError

if TYPE_CHECKING:
    from permsolve.problem import Problem

Array = npt.NDArray[Any]
Permutation = npt.NDArray[np.int64]
Blocks = tuple[int, ...] | None
Shape = tuple[int, int]


class Pattern(ABC):
    """A sparsity pattern: a frozen dataclass that knows its mask, its score and what a solution of it consists of.

    Subclasses define what follows; everything else (problems, runs, results, documents) is the same for all. Saliencies
    are (rows, cols) with entries >= 0; a shape is (rows, cols).
    """

    #: Name of the kind in documents.
    kind: ClassVar[str]
    #: Whether a solution permutes rows (output channels), too: then the weights are one matrix, and blocks of columns
    #: are no independent problems.
    moves_rows: ClassVar[bool] = True
    #: Names of the arrays of a solution.
    parts: ClassVar[tuple[str, ...]]

    n: int
    m: int

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name, as documents hold them.

        Returns
        -------
        dict
            n, m, and the pattern's own.
        """
        own = {name: getattr(self, name) for name in ("vector", "vector_sparsity") if hasattr(self, name)}
        return {"n": self.n, "m": self.m} | own

    @abstractmethod
    def __str__(self) -> str:
        """Return the notation that `permsolve.patterns.parse` reads."""

    @abstractmethod
    def validate(self, shape: Shape, blocks: Blocks = None) -> None:
        """Check that a matrix divides as the pattern needs.

        Parameters
        ----------
        shape
            (rows, cols).
        blocks
            Sizes of consecutive blocks of columns, each a multiple of m, or None.

        Raises
        ------
        InputError
            If it does not.
        """

    @abstractmethod
    def sample(self, shape: Shape) -> Shape:
        """Return the shape of a corner of a matrix that is enough to compile a method's kernels with.

        Parameters
        ----------
        shape
            (rows, cols) of the matrix.

        Returns
        -------
        tuple
            (rows, cols): four groups, where there are so many, and two tiles.
        """

    @abstractmethod
    def start(self, problem: Problem) -> Any:
        """Return the solution that permutes nothing: the baseline.

        Parameters
        ----------
        problem
            The problem.

        Returns
        -------
        object
            The solution.
        """

    @abstractmethod
    def draw(self, problem: Problem, rng: np.random.Generator) -> Any:
        """Return a solution with uniformly random permutations.

        Parameters
        ----------
        problem
            The problem.
        rng
            Where the random choices come from.

        Returns
        -------
        object
            The solution.
        """

    @abstractmethod
    def check_solution(self, solution: Any, shape: Shape, blocks: Blocks = None) -> Any:
        """Validate a solution and return it with fresh int64 arrays.

        Parameters
        ----------
        solution
            What should be one.
        shape
            (rows, cols).
        blocks
            Sizes of consecutive blocks of columns that no column leaves, or None.

        Returns
        -------
        object
            The solution.

        Raises
        ------
        InputError
            If it is none for such a matrix.
        """

    @abstractmethod
    def score(self, saliency: Array, solution: Any) -> float:
        """Return the saliency kept under a solution: the reference.

        Parameters
        ----------
        saliency
            (rows, cols).
        solution
            A checked solution.

        Returns
        -------
        float
            Sum of the entries that `mask` keeps.
        """

    @abstractmethod
    def mask(self, saliency: Array, solution: Any) -> npt.NDArray[np.bool_]:
        """Return which entries are kept, in the matrix's own order.

        Parameters
        ----------
        saliency
            (rows, cols).
        solution
            A checked solution.

        Returns
        -------
        numpy.ndarray
            bool (rows, cols).
        """

    @abstractmethod
    def rows_bound(self, saliency: Array, blocks: Blocks = None) -> float:
        """Return the sum over rows of as many largest entries as a row keeps, which no solution exceeds.

        Parameters
        ----------
        saliency
            (rows, cols).
        blocks
            Sizes of consecutive blocks of columns, or None.

        Returns
        -------
        float
            The bound.
        """

    @abstractmethod
    def changed(self, new: Any, old: Any) -> npt.NDArray[np.int64]:
        """Return which pieces of the score differ between two solutions; their numbers ascend.

        A score is a sum over pieces (groups of columns, tiles of rows); the core recomputes those that changed.

        Parameters
        ----------
        new, old
            Checked solutions.

        Returns
        -------
        numpy.ndarray
            int64, numbers of pieces.
        """

    @abstractmethod
    def piece_values(
        self, problem: Problem, solution: Any, which: npt.NDArray[np.int64] | None
    ) -> npt.NDArray[np.float64]:
        """Return the values of pieces, in compiled float64 arithmetic.

        Parameters
        ----------
        problem
            The problem.
        solution
            A checked solution.
        which
            Numbers of pieces, or None for all.

        Returns
        -------
        numpy.ndarray
            float64, one value for each piece.
        """

    @abstractmethod
    def permute(self, array: Array, solution: Any) -> Array:
        """Return a matrix with its rows and columns in the solution's order.

        Parameters
        ----------
        array
            At least 2-D; rows on axis 0, columns on axis 1.
        solution
            A checked solution.

        Returns
        -------
        numpy.ndarray
            A copy.
        """

    @abstractmethod
    def unpermute(self, array: Array, solution: Any) -> Array:
        """Undo `permute`.

        Parameters
        ----------
        array
            What `permute` returned.
        solution
            The same solution.

        Returns
        -------
        numpy.ndarray
            A copy in the original order.
        """

    @abstractmethod
    def freeze(self, solution: Any) -> Any:
        """Return a copy of a solution whose arrays cannot be written to.

        Parameters
        ----------
        solution
            A solution.

        Returns
        -------
        object
            The copy.
        """

    @abstractmethod
    def to_lists(self, solution: Any) -> dict[str, Any]:
        """Return a solution as lists of numbers by the names in `parts`.

        Parameters
        ----------
        solution
            A solution.

        Returns
        -------
        dict
            For documents.
        """

    @abstractmethod
    def from_lists(self, lists: Mapping[str, Any]) -> Any:
        """Make a solution of what `to_lists` returned; it is not checked.

        Parameters
        ----------
        lists
            Lists by name.

        Returns
        -------
        object
            The solution.

        Raises
        ------
        InputError
            If the lists are no arrays.
        """


@dataclass(frozen=True, eq=False)
class Solution:
    """Arrays that make up a solution: int64, not writable."""

    def __post_init__(self) -> None:
        """Copy the arrays, so that nobody can change them."""
        for field in fields(self):
            object.__setattr__(self, field.name, _frozen(field.name, getattr(self, field.name)))

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the arrays; copies of arrays come back writable."""
        self.__dict__.update(state)
        self.__post_init__()

    def __eq__(self, other: object) -> bool:
        """Return whether all arrays are equal."""
        if type(other) is not type(self):
            return NotImplemented
        return all(np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))

    __hash__ = None  # type: ignore[assignment]


class Hierarchical(Pattern):
    """A pattern whose solution is a `Solution`: what all those that move rows have in common."""

    #: The class of its solutions.
    solution_type: ClassVar[type[Solution]]

    def freeze(self, solution: Any) -> Any:
        """Return the solution: its arrays cannot be written to."""
        return solution

    def permute(self, array: Array, solution: Any) -> Array:
        """Return rows and columns in their order, where all tiles share one order of the columns."""
        permuted: Array = array[solution.rows][:, solution.columns]
        return permuted

    def unpermute(self, array: Array, solution: Any) -> Array:
        """Undo `permute`."""
        whole = np.empty_like(array)
        whole[np.ix_(solution.rows, solution.columns)] = array
        return whole

    def to_lists(self, solution: Any) -> dict[str, Any]:
        """Return the solution as lists of numbers."""
        return {name: getattr(solution, name).tolist() for name in self.parts}

    def from_lists(self, lists: Mapping[str, Any]) -> Any:
        """Make a solution of lists."""
        return self.solution_type(**{name: lists[name] for name in self.parts})

    def _own(self, solution: Any) -> None:
        if not isinstance(solution, self.solution_type):
            wanted = self.solution_type.__name__
            raise InputError(
                f"a solution of {self} is a {wanted} with the arrays {', '.join(self.parts)}, got "
                f"{type(solution).__name__}: was it made for another pattern?"
            )


def check_permutation(values: npt.ArrayLike, size: int, what: str) -> Permutation:
    """Validate a permutation.

    Parameters
    ----------
    values
        What should be one.
    size
        Of how many.
    what
        Of what, in plural.

    Returns
    -------
    numpy.ndarray
        int64 (size,), a copy.

    Raises
    ------
    InputError
        If it is not a permutation of ``0 .. size - 1``.
    """
    try:
        perm = np.asarray(values)
    except ValueError as error:
        raise InputError(f"not a permutation of {size} {what}: {error}") from error
    if perm.shape != (size,) or perm.dtype.kind not in "iu":
        raise InputError(
            f"a permutation of {size} {what} is an integer array of shape ({size},), "
            f"got {perm.dtype} of shape {perm.shape}"
        )
    perm = perm.astype(np.int64)
    if not np.array_equal(np.sort(perm), np.arange(size)):
        raise InputError(f"not a permutation of {what}: each of 0 .. {size - 1} must occur exactly once")
    return perm


def check_tiles(rows: int, vector: int) -> None:
    """Raise unless rows divide into tiles.

    Parameters
    ----------
    rows
        Number of rows.
    vector
        Rows of a tile.

    Raises
    ------
    InputError
        Saying what to do.
    """
    if rows % vector:
        raise InputError(
            f"{rows} rows (output channels) do not divide into tiles of vector = {vector}; "
            f"pad the matrix with zero rows to {-(-rows // vector) * vector} or choose a vector that divides {rows}"
        )


def check_in_blocks(perm: Permutation, blocks: Blocks) -> None:
    """Raise unless no column leaves its block.

    Parameters
    ----------
    perm
        Permutation of the columns.
    blocks
        Sizes of consecutive blocks, or None.

    Raises
    ------
    InputError
        Naming the first column that does.
    """
    if blocks is None:
        return
    block = np.repeat(np.arange(len(blocks)), blocks)
    if not np.array_equal(block[perm], block):
        where = int(np.flatnonzero(block[perm] != block)[0])
        raise InputError(f"the permutation moves column {int(perm[where])} out of its block")


def random_columns(cols: int, blocks: Blocks, rng: np.random.Generator) -> Permutation:
    """Return a random permutation of columns that leaves each in its block.

    Parameters
    ----------
    cols
        Number of columns.
    blocks
        Sizes of consecutive blocks, or None.
    rng
        Where it comes from.

    Returns
    -------
    numpy.ndarray
        int64 (cols,).
    """
    ends = np.cumsum((cols,) if blocks is None else blocks)
    starts = np.concatenate([[0], ends[:-1]])
    pairs = zip(starts.tolist(), ends.tolist(), strict=True)
    return np.concatenate([start + rng.permutation(end - start) for start, end in pairs]).astype(np.int64)


def whole_numbers(pattern: str, given: Sequence[tuple[str, object]], usage: str) -> list[int]:
    """Return parameters of a pattern as whole numbers of at least 1.

    Parameters
    ----------
    pattern
        Name of the pattern.
    given
        Names and values.
    usage
        An example of what is right.

    Returns
    -------
    list
        The numbers.

    Raises
    ------
    InputError
        Naming the first that is not.
    """
    for name, value in given:
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise InputError(f"{pattern}: {name} = {value!r} must be a whole number of at least 1; write {usage}")
    return [int(value) for _, value in given]  # type: ignore[call-overload]


def _frozen(name: str, values: Any) -> Permutation:
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} of a solution is no array of whole numbers: {error}") from error
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} of a solution must be an array of whole numbers, got {array.dtype}")
    array = array.astype(np.int64)
    array.flags.writeable = False
    return array
