"""The result of a solve."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve import saliency as saliencies
from permsolve._arrays import channels_back, is_tensor
from permsolve.certificates import Certificate, prove
from permsolve.errors import CertificateError, InputError
from permsolve.patterns import NM, Permutation
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

    #: The pattern's solution; for plain n:m the permutation, int64 (cols,), not writable.
    solution: Permutation
    #: The sparsity pattern.
    pattern: NM
    #: Saliency kept under the solution, by the NumPy reference scorer.
    score: float
    #: Saliency kept without permutation.
    baseline: float
    #: Sum over rows of the cols * n / m largest entries: a bound that no permutation need reach.
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
        """The permutation: ``matrix[:, perm]`` is the permuted matrix. int64 (cols,)."""
        return self.solution

    @cached_property
    def inverse(self) -> Permutation:
        """The inverse permutation: ``permuted[:, inverse]`` is the matrix again. int64 (cols,)."""
        inverse = np.empty_like(self.solution)
        inverse[self.solution] = np.arange(self.solution.shape[0])
        inverse.flags.writeable = False
        return inverse

    @property
    def efficacy(self) -> float:
        """Share of the way from baseline to rows bound, per cent."""
        return efficacy(self.score, self.baseline, self.rows_bound)

    @property
    def gap(self) -> float:
        """Relative distance to the proved bound, (bound - score) / bound."""
        return gap(self.score, self.bound)

    def apply(self, matrix: Any) -> Any:
        """Permute the input channels (axis 1) of an array or tensor.

        Parameters
        ----------
        matrix
            NumPy array, torch tensor or array-like with as many input channels as the problem's matrix.

        Returns
        -------
        numpy.ndarray or torch.Tensor
            A permuted copy, of the kind and dtype that was given.

        Raises
        ------
        InputError
            If axis 1 has another length.
        """
        array: Any = matrix if is_tensor(matrix) else np.asarray(matrix)
        self._check_channels(tuple(array.shape))
        if is_tensor(array):
            import torch

            return array.index_select(1, torch.as_tensor(self.perm.copy(), device=array.device))
        return np.take(array, self.perm, axis=1)

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
        return channels_back(self.pattern.mask(problem.saliency, self.solution), problem.shape)

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
        if self.solution.shape[0] != shape[1]:
            return (f"solution: it is of {self.solution.shape[0]} columns, the matrix has {shape[1]}",)
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
            problem.check_perm(self.solution)
        except InputError as error:
            return (*faults, f"solution: {error}")
        for name, value in (
            ("score", problem.score(self.solution)),
            ("baseline", problem.baseline),
            ("rows_bound", problem.rows_bound),
        ):
            claimed = getattr(self, name)
            if not np.isclose(claimed, value, rtol=1e-9, atol=0.0):
                faults.append(f"{name}: recomputed {value!r}, the result says {claimed!r}")
        if self.bound_kind == "rows" and self.bound != self.rows_bound:
            faults.append(f"bound: kind is rows, but {self.bound!r} is not the rows bound {self.rows_bound!r}")
        if self.bound > problem.rows_bound * (1 + 1e-9):
            faults.append(f"bound: {self.bound!r} exceeds the rows bound {problem.rows_bound!r}, which is proved")
        if not self.bound >= problem.score(self.solution) * (1 - 1e-9):
            faults.append(f"bound: {self.bound!r} is not a bound on the recomputed score")
        if self.status is Status.OPTIMAL and self.gap > 1e-9:
            faults.append(f"status: optimal is claimed with a gap of {self.gap:.3g}")
        return (*faults, *self._check_proof(problem))

    def _check_proof(self, problem: Problem) -> list[str]:
        """Prove the certificate anew and hold it against the bound."""
        if self.certificate is None:
            return ["bound: kind is lp, but there is no certificate that proves it"] if self.bound_kind == "lp" else []
        try:
            proved = prove(problem, self.certificate, n_jobs=os.cpu_count() or 1)
        except CertificateError as error:
            return [f"certificate: {error}"]
        if self.bound_kind == "lp" and proved > self.bound * (1 + 1e-12):  # blocks are rounded up one by one
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
        solution = np.array(self.solution, dtype=np.int64)
        solution.flags.writeable = False
        object.__setattr__(self, "solution", solution)

    def _check_channels(self, shape: tuple[int, ...]) -> None:
        cols = self.solution.shape[0]
        if len(shape) < 2 or shape[1] != cols:
            raise InputError(f"the permutation is of {cols} input channels (axis 1), the array has shape {shape}")

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
