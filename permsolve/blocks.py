"""Bounds of blocks, added up to a bound of the whole problem."""

from __future__ import annotations

import math
from fractions import Fraction

from permsolve.certificates import Certificate
from permsolve.problem import Problem

#: Two bounds are the same up to this share: one may be rounded up, the other summed.
_ROUNDING = 1e-12


class BlockBounds:
    """The best proved bound of every block, and the best certificate.

    Parameters
    ----------
    problem
        The problem.
    """

    def __init__(self, problem: Problem) -> None:
        spans = [span for span, _ in problem.parts()]
        self._number = {span.start: k for k, span in enumerate(spans)}
        self._problem = problem
        self._values = [math.inf] * len(spans)
        self._kinds = ["rows"] * len(spans)
        self._proofs: list[tuple[float, Certificate] | None] = [None] * len(spans)
        if len(spans) == 1:
            self._values[0] = problem.rows_bound

    def offer(self, first: int, value: float, certificate: Certificate | None) -> None:
        """Take a bound on one block.

        Parameters
        ----------
        first
            First column of the block.
        value
            The bound.
        certificate
            The dual solution that proves it, or None.
        """
        k = self._number[first]
        proof = self._proofs[k]
        if certificate is not None and (proof is None or value < proof[0]):
            self._proofs[k] = (value, certificate)
        kind = "exact" if certificate is None else "lp"
        known = self._bound_of(k)
        if value < known:
            self._values[k], self._kinds[k] = float(value), kind
        elif self._kinds[k] == "rows" and value <= known * (1 + _ROUNDING):
            self._kinds[k] = kind  # the rows bound of the block, confirmed

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
        if self.kind == "lp":
            return self._joined()[1]
        values = [self._bound_of(k) for k in range(len(self._values))]
        return values[0] if len(values) == 1 else math.nextafter(math.fsum(values), math.inf)

    @property
    def certificate(self) -> Certificate | None:
        """The dual solution of all blocks together, or None where one is missing."""
        return None if None in self._proofs else self._joined()[0]

    def _joined(self) -> tuple[Certificate, float]:
        """Join the certificates of all blocks, in the coarsest of their units, and add up what they prove."""
        proofs = [proof for proof in self._proofs if proof is not None]
        if len(proofs) == 1:
            return proofs[0][1], proofs[0][0]
        exponent = min(certificate.exponent for _, certificate in proofs)
        terms, m = self._problem.terms * self._problem.rows, self._problem.pattern.m
        duals: list[int] = []
        values: list[float] = []
        for value, certificate in proofs:
            finer = certificate.exponent - exponent
            # In the coarse unit each of a group's terms may round up by one more.
            extra = -(-terms // m) if finer else 0
            coarse = [-(-dual >> finer) + extra for dual in certificate.duals]
            duals += coarse
            loss = Fraction(sum(coarse) * 2**finer - sum(certificate.duals)) * Fraction(2) ** -certificate.exponent
            values += [value, math.nextafter(float(loss), math.inf) if loss else 0.0]
        return Certificate(exponent, tuple(duals)), math.nextafter(math.fsum(values), math.inf)
