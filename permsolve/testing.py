"""The contract that every method keeps, for those who write one: `check_solver`.

It needs no test framework. The package's own methods are checked by the same rules (``tests/test_contract.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from permsolve._contract import RULES, Broken, Rule, Skipped
from permsolve._contract_cases import DIVISIONS, MATRICES, Array, fitted, height, small_shape, uniform, width
from permsolve._solve import solve
from permsolve.errors import InputError, SolverError
from permsolve.patterns import Pattern, parse
from permsolve.problem import Problem
from permsolve.registry import make_solver
from permsolve.result import Result
from permsolve.solver import Solver, check_whole
from permsolve.stop import Criterion, MaxIterations, Progress

__all__ = ["PATTERNS", "RULES", "ContractError", "Report", "Rule", "Skipped", "Subject", "check_solver"]

#: The patterns that methods are checked on by default.
PATTERNS: tuple[str, ...] = (
    *("1:2", "1:4", "2:4", "3:4", "2:8", "4:8", "8:16", "1:16"),
    *("hinm(4, 0.5, 2:4)", "hinm(3, 0.3, 1:2)", "4:2:8", "2:1:5", "transposable(2:4)", "transposable(1:3)"),
)


class ContractError(SolverError, AssertionError):
    """A method broke a rule of the contract; the message says which, on what, and how."""


@dataclass(frozen=True)
class Report:
    """What `check_solver` checked, all of it kept."""

    #: The method.
    method: str
    #: The rules kept, each with what it was checked on: ``"stops_in_time on 2:4"``.
    passed: tuple[str, ...]
    #: What could not be checked, and why.
    skipped: tuple[tuple[str, str], ...]

    def summary(self) -> str:
        """Return a few lines for people.

        Returns
        -------
        str
            Counts, and every reason for which something was not checked.
        """
        reasons: dict[str, int] = {}
        for _, reason in self.skipped:
            reasons[reason] = reasons.get(reason, 0) + 1
        lines = [f"{self.method}: {len(self.passed)} checks passed, {len(self.skipped)} skipped"]
        return "\n".join([*lines, *(f"  {count} skipped: {reason}" for reason, count in reasons.items())])


@dataclass(frozen=True)
class _Patience(Criterion):
    """Stop what does not end, without being a time limit that schedules would follow."""

    seconds: float = 30.0

    def __call__(self, progress: Progress) -> bool:
        """Return whether enough is enough."""
        return progress.elapsed >= self.seconds


class Subject:
    """A method that is being checked, and the results that several rules look at.

    Parameters
    ----------
    solver
        The method: a name or an instance.
    patterns
        Patterns to check it on, as strings.
    cols
        Columns of most matrices, or the next number that divides into at least two groups.
    iterations
        Iterations that pass in milliseconds on that many columns, in the method's own unit.
    wide_iterations
        Iterations that pass in a fraction of a second on 288 columns and 700 rows.
    seed
        Seed of the solves.

    Raises
    ------
    ContractError
        If it supports none of the patterns.
    """

    patience = _Patience()

    def __init__(
        self,
        solver: Solver | str,
        *,
        patterns: Sequence[str] = PATTERNS,
        cols: int = 32,
        iterations: int = 8,
        wide_iterations: int = 3,
        seed: int = 0,
    ) -> None:
        if not isinstance(solver, (str, Solver)):
            raise InputError(f"solver = {solver!r} must be the name of a method or an instance, such as MyMethod()")
        check_whole("cols", cols, least=1)
        check_whole("iterations", iterations, least=1)
        check_whole("wide_iterations", wide_iterations, least=1)
        self.solver = make_solver(solver)[1]
        self.method = solver if isinstance(solver, str) else type(solver).__name__
        self.patterns = tuple(str(parse(pattern)) for pattern in patterns)
        self.cols, self.iterations, self.wide_iterations, self.seed = cols, iterations, wide_iterations, seed
        self._solved: dict[str, Result] = {}
        self._small: dict[str, list[tuple[Array, Result]]] = {}
        reasons = {pattern: self.solver.refusal(Problem.of(self.matrix(pattern), pattern)) for pattern in self.patterns}
        good = sorted((pattern for pattern, why in reasons.items() if why is None), key=lambda each: each != "2:4")
        if not good:
            raise ContractError(
                f"{self.method} supports none of the patterns on {cols} columns: {reasons}; "
                f"check it on patterns=... and cols=... that it supports"
            )
        #: The pattern of rules that are not about patterns: 2:4 where it is supported.
        self.pattern = parse(good[0])

    def matrix(self, nm: str | Pattern) -> Array:
        """Return the common matrix of a pattern.

        Parameters
        ----------
        nm
            The pattern.

        Returns
        -------
        numpy.ndarray
            float64, 17 rows and `cols` columns, or more where they do not divide.
        """
        pattern = parse(nm)
        return uniform(height(17, pattern), width(self.cols, pattern.m))

    def supported(self, problem: Problem) -> None:
        """Raise `Skipped` where the method says that it cannot solve a problem.

        Parameters
        ----------
        problem
            The problem.

        Raises
        ------
        Skipped
            With the method's reason.
        Broken
            If its answer is neither None nor a reason.
        """
        for _, part in problem.parts():
            reason = self.solver.refusal(part)
            if reason is not None:
                if not isinstance(reason, str) or not reason:
                    raise Broken(f"supports() answered {reason!r}; it must be None or a reason")
                raise Skipped(reason)

    def odd(self, kind: str) -> Array:
        """Return a matrix of a kind that needs care.

        Parameters
        ----------
        kind
            One of `permsolve._contract_cases.MATRICES`.

        Returns
        -------
        numpy.ndarray
            Three quarters of `cols` columns, or the next number that divides into groups of `pattern`.
        """
        return fitted(MATRICES[kind](width(self.cols * 3 // 4, self.pattern.m)), self.pattern)

    def solve(self, matrix: Any, nm: str | Pattern, **more: Any) -> Result:
        """Solve with a few iterations.

        Parameters
        ----------
        matrix
            The weights or a `Problem`.
        nm
            The pattern.
        more
            Further arguments of `permsolve.solve`.

        Returns
        -------
        Result
            The result.

        Raises
        ------
        Skipped
            If the method does not support the problem.
        """
        problem = matrix if isinstance(matrix, Problem) else Problem.of(matrix, nm, blocks=more.get("blocks"))
        self.supported(problem)
        stop = more.pop("stop", MaxIterations(self.iterations))
        stop = self.patience if stop is None else stop | self.patience
        return solve(matrix, nm, method=self.solver, stop=stop, display=False, **more)

    def solved(self, nm: str) -> Result:
        """Return the result on the common matrix; solved once for all rules.

        Parameters
        ----------
        nm
            The pattern.

        Returns
        -------
        Result
            The result.
        """
        if nm not in self._solved:
            self._solved[nm] = self.solve(self.matrix(nm), nm, seed=self.seed, n_jobs=1)
        return self._solved[nm]

    def small(self, nm: str) -> list[tuple[Array, Result]]:
        """Return matrices of a few columns and the results on them without any limit; solved once for all rules.

        Parameters
        ----------
        nm
            The pattern.

        Returns
        -------
        list
            Pairs of saliency and result.

        Raises
        ------
        Skipped
            If there are too many ways to divide the columns for their optimum to be known.
        """
        if nm not in self._small:
            shape = small_shape(parse(nm))
            if shape is None:
                raise Skipped(f"two groups of {nm} can be divided in more than {DIVISIONS:,} ways")
            saliency = uniform(*shape)
            pair = (saliency, (saliency * 4).round())
            self._small[nm] = [(each, self.solve(each, nm, stop=None, seed=self.seed)) for each in pair]
        return self._small[nm]

    def cases(self) -> list[tuple[Rule, str]]:
        """Return every rule with everything that it is to be checked on.

        Returns
        -------
        list
            Pairs for `check`.
        """
        return [(rule, on) for rule in RULES for on in (self.patterns if rule.on is None else rule.on)]

    def check(self, rule: Rule, on: str) -> None:
        """Check one rule.

        Parameters
        ----------
        rule
            The rule.
        on
            What it is checked on.

        Raises
        ------
        ContractError
            If it is broken.
        Skipped
            If it cannot be checked.
        """
        try:
            with warnings.catch_warnings():
                # A NaN or an overflow inside a method is a fault even where the outcome happens to be right.
                warnings.simplefilter("error", RuntimeWarning)
                rule.function(self, on)
        except Skipped:
            raise
        except Exception as error:
            how = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
            raise ContractError(f"{self.method} breaks the rule {case(rule, on)} ({rule.text}): {how}") from error


def case(rule: Rule, on: str) -> str:
    """Return the name of a check.

    Parameters
    ----------
    rule
        The rule.
    on
        What it is checked on.

    Returns
    -------
    str
        For example ``"stops_in_time on 2:4"``.
    """
    return f"{rule.name} on {on}" if on else rule.name


def check_solver(
    solver: Solver | str,
    *,
    patterns: Sequence[str] = PATTERNS,
    cols: int = 32,
    iterations: int = 8,
    wide_iterations: int = 3,
    seed: int = 0,
) -> Report:
    """Check that a method keeps the contract, on every kind of problem that it supports.

    Parameters
    ----------
    solver
        The method: an instance, or the name of a registered method.
    patterns
        Patterns to check it on.
    cols
        Columns of most matrices, or the next number that divides into at least two groups; fewer for a method that
        supports only small problems.
    iterations
        A number of iterations, in the method's own unit, that passes in milliseconds on that many columns: enough to
        find something, so that what depends on the seed shows.
    wide_iterations
        The same for a fraction of a second on 288 columns and 700 rows.
    seed
        Seed of the solves.

    Returns
    -------
    Report
        What was checked, and what could not be, and why.

    Raises
    ------
    ContractError
        At the first rule that is broken.
    InputError
        If an argument does not fit, or there is no such method.
    """
    subject = Subject(
        solver, patterns=patterns, cols=cols, iterations=iterations, wide_iterations=wide_iterations, seed=seed
    )
    passed, skipped = [], []
    for rule, on in subject.cases():
        try:
            subject.check(rule, on)
        except Skipped as reason:
            skipped.append((case(rule, on), str(reason)))
        else:
            passed.append(case(rule, on))
    return Report(subject.method, tuple(passed), tuple(skipped))
