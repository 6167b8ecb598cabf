"""Certificates of upper bounds, and their proof in integer arithmetic.

A certificate is a feasible dual solution of the set partitioning problem. Let q be the saliency rounded up to multiples
of ``2**-exponent``, each row clipped at its (n + 1)-th largest entry (what exceeds it is kept whatever the grouping and
counts separately, as the *excess*). If integers y satisfy ``sum of y over G >= value of G under q`` for *every* group G
of m columns, then no permutation scores more than ``2**-exponent * sum(y) + excess``: every permutation is a set of
disjoint groups that cover all columns.

For the objective `permsolve.objectives.OutputError` there is nothing to clip and no excess. The terms of an error, the
squares ``w_a^2 H_aa`` and the products ``2 w_a w_b H_ab`` of a row, are rounded *down* to multiples of
``2**-exponent``: each is computed in float64, a quarter of a unit is taken away for the rounding of that, and what is
left is rounded down; a product that is zero stays zero, and no square falls below it. The value of a group is minus the
sum over rows of the least error of the sets that may be pruned, at least 0.

`prove` verifies exactly this, for all groups, in integers. It shares no code with the search for bounds: neither the
rounding nor the enumeration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from permsolve.error_problem import ErrorProblem
from permsolve.errors import CertificateError, InputError
from permsolve.objectives import choices
from permsolve.problem import Problem

Array = npt.NDArray[Any]

#: Sums of integers stay below this: a factor of two within int64.
_MOST = 2**62
#: Squares of output errors stay below this: computed in float64, neither they nor products are off by an eighth.
_MOST_SQUARE = 2.0**47
#: Looks at all groups with a smallest member: takes the duals, the member, and where to put a group that violates them.
Look = Callable[[Array, int, Array], object]
#: Exponents a certificate may have; float64 numbers range from 2**-1074 to 2**1024.
_EXPONENTS = range(-1100, 1200)


@dataclass(frozen=True)
class Certificate:
    """A feasible dual solution in integers: what proves an upper bound on the score of every permutation.

    Parameters
    ----------
    exponent
        The saliency is rounded up to multiples of ``2**-exponent``.
    duals
        One integer for each column, in the same unit.

    Raises
    ------
    CertificateError
        If these are not integers.
    """

    exponent: int
    duals: tuple[int, ...]

    def __post_init__(self) -> None:
        """Validate the types; what the numbers prove is for `prove` to say."""
        whole = [self.exponent, *self.duals]
        if any(isinstance(value, bool) or not isinstance(value, (int, np.integer)) for value in whole):
            raise CertificateError("a certificate is an integer exponent and one integer per column")
        if int(self.exponent) not in _EXPONENTS:
            raise CertificateError(f"the certificate's exponent {self.exponent} is out of range")
        object.__setattr__(self, "exponent", int(self.exponent))
        object.__setattr__(self, "duals", tuple(int(value) for value in self.duals))

    def to_dict(self) -> dict[str, Any]:
        """Return the certificate as plain data.

        Returns
        -------
        dict
            ``exponent`` and ``duals``.
        """
        return {"exponent": self.exponent, "duals": list(self.duals)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Certificate:
        """Make a certificate of plain data.

        Parameters
        ----------
        data
            What `to_dict` returned.

        Returns
        -------
        Certificate
            The certificate.

        Raises
        ------
        CertificateError
            If a field is missing, unknown or of the wrong type.
        """
        if not isinstance(data, Mapping) or set(data) != {"exponent", "duals"} or not isinstance(data["duals"], list):
            raise CertificateError("a certificate has exactly the fields 'exponent' and 'duals', a list")
        return cls(data["exponent"], tuple(data["duals"]))


def prove(
    problem: Problem,
    certificate: Certificate,
    *,
    n_jobs: int = 1,
    progress: Callable[[float], object] | None = None,
) -> float:
    """Prove the bound of a certificate by looking at every group of m columns.

    This takes ``C(cols, m) * rows`` steps of about half a nanosecond: milliseconds at 64 columns, a second at 128, a
    minute at 512 columns of 64 rows.

    Parameters
    ----------
    problem
        The problem.
    certificate
        The certificate.
    n_jobs
        Number of threads.
    progress
        Called with the share of the groups seen, in [0, 1].

    Returns
    -------
    float
        The bound, rounded up: no permutation scores more.

    Raises
    ------
    CertificateError
        If a group is worth more than its duals, or the numbers are too large for exact arithmetic.
    """
    if len(certificate.duals) != problem.cols:
        raise CertificateError(f"the certificate has {len(certificate.duals)} duals for {problem.cols} columns")
    excess: list[float] = []
    parts = problem.parts()
    work = [math.comb(part.cols, part.pattern.m) for _, part in parts]
    for k, (span, part) in enumerate(parts):
        done, share = sum(work[:k]) / sum(work), work[k] / sum(work)

        def report(inner: float, done: float = done, share: float = share) -> None:
            if progress is not None:
                progress(done + share * inner)

        if isinstance(part, ErrorProblem):
            look = _violation_of_errors(part, certificate.exponent)
        else:
            look = _violation(part, certificate.exponent, excess)
        _check_part(part, look, certificate.duals[span], span.start, n_jobs, report)
    total = Fraction(sum(certificate.duals)) * Fraction(2) ** -certificate.exponent
    # fsum is the exact sum, rounded once.
    return _round_up(total + Fraction(math.nextafter(math.fsum(excess), math.inf) if excess else 0.0))


def _quantise(problem: Problem, exponent: int, excess: list[float]) -> Array:
    """Return the clipped saliency in units of 2**-exponent, rounded up, int64 (cols, rows); collect the excess."""
    n = problem.pattern.n
    saliency = problem.columns.astype(np.float64)
    clip = np.sort(saliency, axis=0)[-(n + 1)]
    above = saliency > clip
    excess.extend(saliency[above].tolist())
    excess.extend((-np.broadcast_to(clip, saliency.shape)[above]).tolist())
    clipped = np.minimum(saliency, clip)
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(clipped, exponent)
    if not (scaled.max() * n * problem.rows < _MOST):
        raise CertificateError(f"the certificate's exponent {exponent} is too large for this matrix")
    quantised = np.ceil(scaled).astype(np.int64)
    # ldexp rounds where the result is subnormal: never let a positive entry count as nothing.
    return np.where((quantised == 0) & (clipped > 0), 1, quantised)


def _violation(problem: Problem, exponent: int, excess: list[float]) -> Look:
    """Return what looks for a group that is worth more than its duals; collect the excess."""
    from permsolve.kernels.certify import first_violation

    quantised = _quantise(problem, exponent, excess)
    n, m = problem.pattern.n, problem.pattern.m
    return lambda prices, first, worst: first_violation(quantised, prices, first, n, m, worst)


def _violation_of_errors(problem: ErrorProblem, exponent: int) -> Look:
    """Return the same for output errors."""
    from permsolve.kernels.certify import first_error_violation

    weights = problem.columns.astype(np.float64)
    shift = -math.frexp(float(np.abs(weights).max()))[1]
    weights = np.ldexp(weights, shift)
    moments = np.ldexp(problem.moments, exponent - 2 * shift)
    own = np.diagonal(moments, axis1=1, axis2=2)
    largest = max(float((weights[:, rows] ** 2 * own[k][:, None]).max()) for k, (_, rows) in enumerate(problem.spans()))
    n, m = problem.pattern.n, problem.pattern.m
    # Products are at most twice the largest square, moments being positive semidefinite up to rounding.
    if not largest < _MOST_SQUARE:
        raise CertificateError(f"the certificate's exponent {exponent} is too large for these weights and moments")
    segments, sets = np.array(problem.segments), choices(n, m).copy()
    return lambda prices, first, worst: first_error_violation(weights, moments, segments, prices, first, sets, m, worst)


def _check_part(
    problem: Problem,
    look: Look,
    duals: Sequence[int],
    offset: int,
    n_jobs: int,
    report: Callable[[float], None],
) -> None:
    m = problem.pattern.m
    if max(abs(value) for value in duals) >= _MOST // m:
        raise CertificateError("the certificate's duals are too large for exact arithmetic")
    prices = np.array(duals, dtype=np.int64)
    firsts = range(problem.cols - m + 1)

    def work(first: int) -> Array:
        worst = np.zeros(m, dtype=np.int64)
        worst[0] = -1
        look(prices, first, worst)
        return worst

    counts = [math.comb(problem.cols - 1 - first, m - 1) for first in firsts]
    seen = 0
    with ThreadPoolExecutor(n_jobs) as pool:
        for first, worst in zip(firsts, pool.map(work, firsts), strict=True):
            if worst[0] >= 0:
                pool.shutdown(wait=False, cancel_futures=True)
                group = [int(column) + offset for column in worst]
                raise CertificateError(f"the certificate proves nothing: columns {group} are worth more than it says")
            seen += counts[first]
            report(seen / sum(counts))


def _round_up(value: Fraction) -> float:
    """Return the smallest float64 that is not below a number."""
    try:
        nearest = float(value)
    except OverflowError:
        raise CertificateError("the certificate's bound is larger than any float64: it proves nothing") from None
    return nearest if Fraction(nearest) >= value else math.nextafter(nearest, math.inf)


def check_claim(problem: Problem, certificate: Certificate, claimed: float, *, n_jobs: int = 1) -> None:
    """Verify that a certificate proves a claimed bound.

    Parameters
    ----------
    problem
        The problem.
    certificate
        The certificate.
    claimed
        The bound it is said to prove.
    n_jobs
        Number of threads.

    Raises
    ------
    CertificateError
        If it proves no bound, or a larger one.
    """
    if not isinstance(certificate, Certificate):
        raise InputError(f"{certificate!r} is no Certificate")
    proved = prove(problem, certificate, n_jobs=n_jobs)
    if proved > claimed:
        raise CertificateError(f"the certificate proves the bound {proved!r}, not {claimed!r}")
