"""The result of a solve."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve import saliency as saliencies
from permsolve._arrays import channels_back, is_tensor
from permsolve.certificates import Certificate, prove
from permsolve.errors import CertificateError, InputError
from permsolve.patterns import Pattern, Permutation
from permsolve.problem import Problem
from permsolve.run import TracePoint, gap
from permsolve.scoring import efficacy
from permsolve.solver import Status

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Result:
    """A permutation, what it scores, and how it was found. It holds no copy of the matrix and can be pickled.

    Scores are float64 sums in units of the saliency.
    """

    #: The pattern's solution, not writable: for plain n:m the permutation, int64 (cols,); for others a `HiNMSolution`,
    #: a `VNMSolution` or a `TransposableSolution`.
    solution: Any
    #: The sparsity pattern.
    pattern: Pattern
    #: Saliency kept under the solution, by the reference scorer.
    score: float
    #: Saliency kept without permutation.
    baseline: float
    #: Sum over rows of as many largest entries as a row keeps: a bound that no solution need reach.
    rows_bound: float
    #: Best proved upper bound on the score.
    bound: float
    #: What proves ``bound``: ``"rows"``, ``"lp"`` or ``"exact"``.
    bound_kind: str
    #: How the solve ended.
    status: Status
    #: The criterion that ended it, ``"interrupt"``, ``"callback"``, or None where the method ended by itself.
    stopped_by: str | None
    #: Name of the method.
    method: str
    #: The method's options and their values.
    options: dict[str, Any]
    #: The seed, or None where a generator was passed.
    seed: int | None
    #: Iterations done, in the method's own unit.
    iterations: int
    #: Seconds of preparation: validation, layout, compilation.
    setup_time: float
    #: Seconds of the solver itself.
    runtime: float
    #: The anytime curve: time, score and bound at each change of either.
    trace: tuple[TracePoint, ...]
    #: Name of the saliency.
    saliency: str
    #: Sizes of consecutive blocks that no column left, or None.
    blocks: tuple[int, ...] | None
    #: Shape of the weights.
    shape: tuple[int, ...]
    #: Name of the weights' dtype.
    dtype: str
    #: sha256 of the weights' C-order little-endian bytes.
    fingerprint: str
    #: Dual solution that proves the LP bound, where one was computed. Where ``bound_kind`` is "lp" it proves ``bound``.
    certificate: Certificate | None = None

    @property
    def perm(self) -> Permutation:
        """The permutation: ``matrix[:, perm]`` is the permuted matrix. int64 (cols,).

        Raises
        ------
        InputError
            If the pattern permutes rows, too.
        """
        if self.pattern.moves_rows:
            raise InputError(
                f"a solution of {self.pattern} is no single permutation; "
                f"use result.solution.{', result.solution.'.join(self.pattern.parts)}"
            )
        perm: Permutation = self.solution
        return perm

    @cached_property
    def inverse(self) -> Permutation:
        """The inverse permutation: ``permuted[:, inverse]`` is the matrix again. int64 (cols,)."""
        inverse = np.empty_like(self.perm)
        inverse[self.perm] = np.arange(self.perm.shape[0])
        inverse.flags.writeable = False
        return inverse

    @property
    def efficacy(self) -> float:
        """Share of the way from baseline to rows bound, per cent."""
        return efficacy(self.score, self.baseline, self.rows_bound)

    @property
    def gap(self) -> float:
        """Relative distance to the proved bound, (bound - score) / bound; of errors (bound - score) / abs(score)."""
        return gap(self.score, self.bound)

    def apply(self, matrix: Any) -> Any:
        """Permute an array or tensor: the input channels (axis 1), and the rows (axis 0) where the pattern moves them.

        Parameters
        ----------
        matrix
            NumPy array, torch tensor or array-like with as many channels as the problem's matrix.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            A permuted copy, of the kind and dtype that was given. For HiNM each tile of rows has an order of its own:
            the columns that it keeps come first, in their order, then the others.

        Raises
        ------
        InputError
            If an axis has another length.
        """
        return self._moved(matrix, self.pattern.permute)

    def undo(self, permuted: Any) -> Any:
        """Undo `apply`.

        Parameters
        ----------
        permuted
            What `apply` returned.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            A copy in the original order.

        Raises
        ------
        InputError
            If an axis has another length.
        """
        return self._moved(permuted, self.pattern.unpermute)

    def _moved(self, matrix: Any, move: Callable[[Array, Any], Array]) -> Any:
        array: Any = matrix if is_tensor(matrix) else np.asarray(matrix)
        self._check_channels(tuple(array.shape))
        if not is_tensor(array):
            return move(array, self.solution)
        import torch

        # Permuting positions and not the tensor itself keeps every dtype, device and gradient.
        rows, cols = array.shape[:2]
        at = torch.as_tensor(move(np.arange(rows * cols).reshape(rows, cols), self.solution), device=array.device)
        return array.flatten(0, 1)[at.flatten()].reshape(array.shape)

    def mask(self, matrix: Any, saliency: object = None) -> npt.NDArray[np.bool_]:
        """Return which weights the pattern keeps under this permutation, in the matrix's own order and shape.

        Parameters
        ----------
        matrix
            Weights with as many input channels as the problem's matrix.
        saliency
            What the weights are ranked by, as in `permsolve.solve`; by default the saliency of the solve, which must
            then be one known by name.

        Returns
        -------
        numpy.ndarray
            bool, of the weights' shape. ``matrix * mask`` is the pruned matrix in its original channel order, and
            ``result.apply(matrix * mask)`` is exactly n:m.

        Raises
        ------
        InputError
            If axis 1 has another length, or the solve's saliency is not known by name.
        """
        problem = self._problem(matrix, saliency, blocks=None)
        return channels_back(problem.mask(self.solution), problem.shape)

    def check(self, matrix: Any, saliency: object = None) -> tuple[str, ...]:
        """Recompute everything this result claims about a matrix.

        Parameters
        ----------
        matrix
            The weights the result was made for, or a `Problem` (of stacked matrices, for example).
        saliency
            As in `mask`.

        Returns
        -------
        tuple
            One sentence for each disagreement; empty if all is well. A bound of kind "lp" is proved anew by its
            certificate, in integers and over all groups; what a bound of kind "exact" adds to that rests on the word of
            the search that found it, and is checked only for not lying below the score.

        Raises
        ------
        InputError
            If the matrix cannot be used, or the solve's saliency is not known by name.
        """
        problem = matrix if isinstance(matrix, Problem) else None
        shape = _shape(matrix) if problem is None else problem.shape
        if shape != self.shape:
            return (f"the matrix has shape {shape}, the result was made for {self.shape}",)
        if problem is None:
            problem = self._problem(matrix, saliency, blocks=self.blocks)
        faults = []
        if problem.pattern != self.pattern:
            faults.append(f"pattern: the problem has {problem.pattern}, the result says {self.pattern}")
        if problem.blocks != self.blocks:
            faults.append(f"blocks: the problem has {problem.blocks}, the result says {self.blocks}")
        if saliency is None and problem.saliency_name != self.saliency:
            faults.append(f"saliency: the problem has {problem.saliency_name}, the result says {self.saliency}")
        if problem.fingerprint != self.fingerprint:
            faults.append(
                f"fingerprint: the matrix has {problem.fingerprint[:16]}..., the result was made for "
                f"{self.fingerprint[:16]}...: another matrix"
            )
        if problem.dtype != self.dtype:
            faults.append(f"dtype: the matrix has {problem.dtype}, the result says {self.dtype}")
        try:
            problem.check_solution(self.solution)
        except InputError as error:
            return (*faults, f"solution: {error}")
        for name, value in (
            ("score", problem.score(self.solution)),
            ("baseline", problem.baseline),
            ("rows_bound", problem.rows_bound),
        ):
            claimed = getattr(self, name)
            if not np.isclose(claimed, value, rtol=1e-9, atol=problem.rounding):
                faults.append(f"{name}: recomputed {value!r}, the result says {claimed!r}")
        if self.bound_kind == "rows" and self.bound != self.rows_bound:
            faults.append(f"bound: kind is rows, but {self.bound!r} is not the rows bound {self.rows_bound!r}")
        if self.bound > problem.rows_bound * (1 + 1e-9):
            faults.append(f"bound: {self.bound!r} exceeds the rows bound {problem.rows_bound!r}, which is proved")
        score = problem.score(self.solution)
        if not self.bound >= score - 1e-9 * abs(score) - problem.rounding:
            faults.append(f"bound: {self.bound!r} is not a bound on the recomputed score")
        if self.status is Status.OPTIMAL and self.gap > 1e-9:
            faults.append(f"status: optimal is claimed with a gap of {self.gap:.3g}")
        if self.bound_kind != "rows" and self.pattern.moves_rows:
            faults.append(f"bound: kind {self.bound_kind} is claimed, but nothing proves bounds of {self.pattern} yet")
        return (*faults, *self._check_proof(problem))

    def _check_proof(self, problem: Problem) -> list[str]:
        """Prove the certificate anew and hold it against the bound."""
        if self.certificate is None:
            return ["bound: kind is lp, but there is no certificate that proves it"] if self.bound_kind == "lp" else []
        try:
            proved = prove(problem, self.certificate, n_jobs=os.cpu_count() or 1)
        except CertificateError as error:
            return [f"certificate: {error}"]
        rounding = 1e-12 * abs(self.bound)  # blocks are rounded up one by one
        if self.bound_kind == "lp" and proved > self.bound + rounding:
            return [f"bound: the certificate proves {proved!r}, the result says {self.bound!r}"]
        if self.bound_kind != "lp" and proved < self.bound:
            return [f"bound: the certificate proves {proved!r}, which is better than {self.bound!r}"]
        return []

    def summary(self) -> str:
        """Return a few lines for people.

        Returns
        -------
        str
            The summary.
        """
        stopped = f" by {self.stopped_by}" if self.stopped_by else ""
        lines = [
            f"{self.pattern} of {' x '.join(map(str, self.shape))} {self.dtype}, saliency {self.saliency}",
            f"method      {self.method}: {self.status.value}{stopped} after {self.runtime:.2f} s "
            f"({self.iterations:,} iterations; setup {self.setup_time:.2f} s)",
            f"score       {self.score:.6g}  (unpermuted {self.baseline:.6g}, rows bound {self.rows_bound:.6g})",
            f"efficacy    {self.efficacy:.2f} %",
            f"bound       {self.bound:.6g} ({self.bound_kind}), gap {100 * self.gap:.3g} %",
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the result as a JSON document of schema ``permsolve.permutation/1``.

        Returns
        -------
        str
            The document; the same result always gives the same text.
        """
        from permsolve.documents import dump

        return dump(self)

    @staticmethod
    def from_json(text: str) -> Result:
        """Read a JSON document.

        Parameters
        ----------
        text
            The document.

        Returns
        -------
        Result
            The result.

        Raises
        ------
        DocumentError
            If it does not follow the schema, or its permutation is no bijection.
        """
        from permsolve.documents import parse

        return parse(text)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the fields, not what is derived from them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the fields; copies of arrays come back writable."""
        self.__dict__.update(state)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Make the solution read-only: results are shared, and a changed one would lie about its score."""
        object.__setattr__(self, "solution", self.pattern.freeze(self.solution))

    def _check_channels(self, shape: tuple[int, ...]) -> None:
        cols = self.shape[1]
        if len(shape) < 2 or shape[1] != cols:
            raise InputError(f"the permutation is of {cols} input channels (axis 1), the array has shape {shape}")
        if self.pattern.moves_rows and shape[0] != self.shape[0]:
            raise InputError(f"the solution permutes {self.shape[0]} rows (axis 0), the array has shape {shape}")

    def _problem(self, matrix: Any, saliency: object, blocks: tuple[int, ...] | None) -> Problem:
        self._check_channels(_shape(matrix))
        if saliency is None:
            if self.saliency not in saliencies.NAMES:
                raise InputError(
                    f"this result was made with saliency {self.saliency!r}, not known by name; pass saliency=..."
                )
            saliency = self.saliency
        return Problem.of(matrix, self.pattern, saliency=saliency, blocks=blocks)


def _shape(matrix: Any) -> tuple[int, ...]:
    return tuple(matrix.shape) if hasattr(matrix, "shape") else np.asarray(matrix).shape
