"""Bounds of blocks, added up to a bound of the whole problem."""

from __future__ import annotations

import math

from permsolve.certificates import Certificate
from permsolve.problem import Problem

#: Largest difference of the exponents of certificates that are joined: beyond it their integers become too large.
_SPREAD = 8


class BlockBounds:
    """The best proved bound of every block, and the best certificate.

    Parameters
    ----------
    problem
        The problem.
    """

    def __init__(self, problem: Problem) -> None:
        spans = [span for span, _ in problem.parts()] if problem.blocks is not None else [slice(0, problem.cols)]
        self._number = {span.start: k for k, span in enumerate(spans)}
        self._problem = problem
        self._values = [math.inf] * len(spans)
        self._kinds = ["rows"] * len(spans)
        self._proofs: list[tuple[float, Certificate] | None] = [None] * len(spans)
        if len(spans) == 1:
            self._values[0] = problem.rows_bound

    def offer(self, span: slice, value: float, certificate: Certificate | None) -> bool:
        """Take a bound on one block.

        Parameters
        ----------
        span
            Columns of the block.
        value
            The bound.
        certificate
            The dual solution that proves it, or None.

        Returns
        -------
        bool
            Whether it is better than what was known.
        """
        k = self._number[span.start]
        proof = self._proofs[k]
        if certificate is not None and (proof is None or value < proof[0]):
            self._proofs[k] = (value, certificate)
        if not value < self._bound_of(k):
            return False
        self._values[k], self._kinds[k] = float(value), "exact" if certificate is None else "lp"
        return True

    def _bound_of(self, k: int) -> float:
        if self._values[k] == math.inf:  # the rows bound of a block is computed where somebody asks for it
            self._values[k] = self._problem.parts()[k][1].rows_bound
        return self._values[k]

    @property
    def kind(self) -> str:
        """What the total rests on: ``"exact"`` if any block's bound does, else ``"lp"`` if all have certificates."""
        if "exact" in self._kinds:
            return "exact"
        return "lp" if "lp" in self._kinds and None not in self._proofs else "rows"

    @property
    def total(self) -> float:
        """The bound of the whole problem, rounded up; infinite while only some blocks have a certificate."""
        if self.kind == "rows":
            return math.inf
        values = [self._bound_of(k) for k in range(len(self._values))]
        return values[0] if len(values) == 1 else math.nextafter(math.fsum(values), math.inf)

    @property
    def certificate(self) -> Certificate | None:
        """The dual solution of all blocks together, or None where one is missing or their units lie too far apart."""
        proofs = [proof[1] for proof in self._proofs if proof is not None]
        if len(proofs) < len(self._proofs):
            return None
        # Duals that are feasible for a coarse rounding up are feasible for a finer one.
        exponent = max(proof.exponent for proof in proofs)
        if exponent - min(proof.exponent for proof in proofs) > _SPREAD:
            return None
        duals = (dual << (exponent - proof.exponent) for proof in proofs for dual in proof.duals)
        return Certificate(exponent, tuple(duals))
