"""The contract suite itself: it passes good methods and catches bad ones, saying which rule they broke."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from helpers import brute_force, slow_score

import permsolve
from permsolve import NM, Problem, Solver, Status, _contract, _contract_cases
from permsolve.errors import InputError, OptionError, SolverError, UnknownMethodError
from permsolve.run import Run
from permsolve.testing import PATTERNS, RULES, ContractError, Skipped, Subject, check_solver


@dataclass(frozen=True)
class Good(Solver):
    """Draw permutations, offer them, ask whether to go on.

    Parameters
    ----------
    samples
        How many.
    """

    source: ClassVar[str] = "these tests"
    unit: ClassVar[str] = "one permutation"

    samples: int = 20

    def __call__(self, problem: Problem, run: Run) -> Status:
        for _ in range(self.samples):
            run.offer(self.draw(problem, run))
            if not run.proceed(1):
                return Status.STOPPED
        return self.end(problem, run)

    def draw(self, problem: Problem, run: Run) -> Any:
        return run.rng.permutation(problem.cols)

    def end(self, problem: Problem, run: Run) -> Status:
        return Status.COMPLETED


@dataclass(frozen=True)
class OffersNoPermutation(Good):
    """Puts one column in twice."""

    def draw(self, problem: Problem, run: Run) -> Any:
        perm = run.rng.permutation(problem.cols)
        perm[0] = perm[1]
        return perm


@dataclass(frozen=True)
class LeavesItsBlock(Good):
    """Offers a permutation of all columns, whatever block it is given."""

    def draw(self, problem: Problem, run: Run) -> Any:
        return run.rng.permutation(run._core.problem.cols)


@dataclass(frozen=True)
class WritesToTheProblem(Good):
    """Sorts its input in place."""

    def draw(self, problem: Problem, run: Run) -> Any:
        problem.columns.sort(axis=1)
        problem.columns[0] += 1
        return super().draw(problem, run)


@dataclass(frozen=True)
class WritesToThePackedCopy(Good):
    """Normalises the search kernels' copy in place."""

    def draw(self, problem: Problem, run: Run) -> Any:
        problem.packed[:] *= 0.5
        return super().draw(problem, run)


@dataclass(frozen=True)
class IgnoresTheLimit(Good):
    """Counts its iterations and never looks at the answer."""

    def __call__(self, problem: Problem, run: Run) -> Status:
        for _ in range(self.samples):
            run.offer(self.draw(problem, run))
            run.proceed(1)
        return Status.COMPLETED


@dataclass(frozen=True)
class IgnoresTheClock(Good):
    """Takes a second before it asks for the first time."""

    def draw(self, problem: Problem, run: Run) -> Any:
        if run.timed:
            time.sleep(1.0)
        return super().draw(problem, run)


@dataclass(frozen=True)
class DrawsFromTheGlobalGenerator(Good):
    """Uses numpy.random."""

    def draw(self, problem: Problem, run: Run) -> Any:
        return np.random.permutation(problem.cols)  # noqa: NPY002


@dataclass(frozen=True)
class SeedsTheGlobalGenerator(Good):
    """Is reproducible at everybody else's cost."""

    def draw(self, problem: Problem, run: Run) -> Any:
        random.seed(int(run.rng.integers(100)))
        perm = list(range(problem.cols))
        random.shuffle(perm)
        return perm


@dataclass(frozen=True)
class DrawsFromAGeneratorOfItsOwn(Good):
    """Takes its seed from the machine."""

    def draw(self, problem: Problem, run: Run) -> Any:
        return np.random.default_rng().permutation(problem.cols)


@dataclass(frozen=True)
class DependsOnThreads(Good):
    """Searches elsewhere where there are more threads."""

    def draw(self, problem: Problem, run: Run) -> Any:
        return np.roll(super().draw(problem, run), run.n_jobs)


@dataclass(frozen=True)
class ClaimsAFalseBound(Good):
    """Takes what it found for the best there is."""

    def end(self, problem: Problem, run: Run) -> Status:
        run.offer_bound(problem.score(run.best))
        return Status.OPTIMAL


@dataclass(frozen=True)
class ReturnsNoStatus(Good):
    """Returns nothing."""

    def __call__(self, problem: Problem, run: Run) -> Status:
        return None  # type: ignore[return-value]


@dataclass(frozen=True)
class DividesByZero(Good):
    """Scales by a sum that may be zero."""

    def draw(self, problem: Problem, run: Run) -> Any:
        share = problem.columns.sum(axis=1) / problem.columns.max(axis=1)
        return np.argsort(np.nan_to_num(share))


@dataclass(frozen=True)
class HasAnOptionThatIsNoPlainValue(Good):
    """Takes a list.

    Parameters
    ----------
    weights
        Cannot be hashed, written or compared.
    """

    weights: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class HidesAnOption(Good):
    """Says nothing about it."""

    secret: int = 0


@dataclass(frozen=True)
class SaysNothing(Good):
    another: int = 0


@dataclass(frozen=True)
class SaysNotWhereItComesFrom(Good):
    """Names no source."""

    source: ClassVar[str] = ""


class NoDataclass(Good):
    """Lacks the decorator."""


@dataclass(frozen=True)
class AnswersNo(Good):
    """Answers False where a reason is asked for."""

    def supports(self, problem: Problem) -> str | None:
        return None if problem.groups > 1 else False  # type: ignore[return-value]


@dataclass(frozen=True)
class FallsOverOneRow(Good):
    """Indexes the second row."""

    def draw(self, problem: Problem, run: Run) -> Any:
        assert problem.columns[:, 1].size
        return super().draw(problem, run)


@dataclass(frozen=True)
class WorksWellWithoutItsBlocksOnly(Good):
    """Is lost when it is called more than once with columns of its own."""

    def draw(self, problem: Problem, run: Run) -> Any:
        return super().draw(problem, run) + (problem.cols < run._core.problem.cols)


@dataclass(frozen=True)
class NeverEnds(Good):
    """Goes on until it is told to stop."""

    def __call__(self, problem: Problem, run: Run) -> Status:
        while run.proceed(1):
            run.offer(self.draw(problem, run))
        return Status.STOPPED


BAD = [
    (OffersNoPermutation(), "permutation_score_and_bound", "must occur exactly once"),
    (LeavesItsBlock(), "columns_stay_in_their_blocks", "shape (80,) for 32 columns"),
    (WritesToTheProblem(), "permutation_score_and_bound", "the problem must not be changed"),
    (WritesToThePackedCopy(), "input_is_not_modified", "problem.packed changed"),
    (IgnoresTheLimit(), "nothing_follows_a_stop", "iterations were done after run.proceed"),
    (IgnoresTheClock(), "stops_in_time", "ask run.proceed"),
    (DrawsFromTheGlobalGenerator(), "same_seed_same_permutation", "run.rng"),
    (SeedsTheGlobalGenerator(), "no_global_random_state", "changed"),
    (DrawsFromAGeneratorOfItsOwn(), "same_seed_same_permutation", "run.rng"),
    (DependsOnThreads(), "same_seed_same_permutation", "n_jobs=2"),
    (ClaimsAFalseBound(samples=1), "bounds_are_true", "optimum"),
    (ReturnsNoStatus(), "permutation_score_and_bound", "must return a Status"),
    (DividesByZero(), "every_kind_of_matrix", "RuntimeWarning"),
    (HasAnOptionThatIsNoPlainValue(), "describes_itself", "hash"),
    (HidesAnOption(), "describes_itself", "option secret"),
    (SaysNothing(), "describes_itself", "no docstring"),
    (SaysNotWhereItComesFrom(), "describes_itself", "source"),
    (NoDataclass(), "describes_itself", "@dataclass"),
    (AnswersNo(), "blocks_of_one_group", "must be None or a reason"),
    (FallsOverOneRow(), "every_kind_of_matrix on one row", "IndexError"),
    (WorksWellWithoutItsBlocksOnly(), "columns_stay_in_their_blocks", "exactly once"),
]


@pytest.mark.parametrize(("solver", "rule", "how"), BAD, ids=[type(solver).__name__ for solver, *_ in BAD])
def test_a_bad_method_is_caught_and_told_what_it_broke(solver: Solver, rule: str, how: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_solver(solver, patterns=("2:4", "1:16"))
    assert f"{type(solver).__name__} breaks the rule {rule}" in str(caught.value)
    assert how in str(caught.value)


def test_a_method_that_never_ends_is_stopped_and_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "patience", type(Subject.patience)(0.2))
    with pytest.raises(ContractError, match="ends_by_itself on 2:4"):
        check_solver(NeverEnds(), patterns=["2:4"])


def test_the_message_names_rule_and_pattern_and_the_error_is_of_the_family() -> None:
    with pytest.raises(ContractError, match=r"columns_stay_in_their_blocks on 1:2 \(Permute the columns") as caught:
        check_solver(LeavesItsBlock(), patterns=["1:2"])
    assert isinstance(caught.value, SolverError)
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value.__cause__, SolverError)


def test_a_good_method_passes_every_rule() -> None:
    report = check_solver(Good(), patterns=("2:4", "1:2"))
    assert report.method == "Good"
    reasons = {reason for _, reason in report.skipped}
    assert all("it does not search patterns like" in reason for reason in reasons), reasons
    assert set(report.passed) | {skipped for skipped, _ in report.skipped} == {
        f"{rule.name} on {on}" if on else rule.name
        for rule in RULES
        for on in (("2:4", "1:2") if rule.on is None else rule.on)
    }
    assert report.summary().startswith(f"Good: {len(report.passed)} checks passed, 3 skipped")


def test_a_registered_method_is_checked_by_name() -> None:
    report = check_solver("random", patterns=["2:4"])
    assert report.method == "random"
    assert "stops_in_time on 2:4" in report.passed


@dataclass(frozen=True)
class PairsOnly(Good):
    """Solves groups of two, with up to 64 columns."""

    def supports(self, problem: Problem) -> str | None:
        if problem.pattern.m != 2:
            return "only groups of two"
        return None if problem.cols <= 300 else "only up to 300 columns"


def test_what_is_not_supported_is_skipped_with_the_reason() -> None:
    report = check_solver(PairsOnly())
    assert ("permutation_score_and_bound on 2:4", "only groups of two") in report.skipped
    assert "permutation_score_and_bound on 1:2" in report.passed
    assert "every_kind_of_matrix on float16" in report.passed
    assert "skipped: only groups of two" in report.summary()


def test_a_method_that_supports_none_of_the_patterns_is_told_so() -> None:
    with pytest.raises(ContractError, match=r"none of the patterns.*only groups of two"):
        check_solver(PairsOnly(), patterns=["2:4", "1:4"])


@dataclass(frozen=True)
class NarrowOnly(Good):
    """Solves a dozen columns."""

    def supports(self, problem: Problem) -> str | None:
        return None if problem.cols <= 12 else "more than 12 columns"


def test_a_method_for_small_problems_is_checked_on_them() -> None:
    report = check_solver(NarrowOnly(), patterns=["2:4", "1:2"], cols=12)
    assert {"every_kind_of_matrix on huge", "same_seed_same_permutation on 1:2"} <= set(report.passed)
    assert ("stops_in_time on 2:4", "more than 12 columns") in report.skipped
    with pytest.raises(ContractError, match="more than 12 columns"):
        check_solver(NarrowOnly())


def test_patterns_that_do_not_divide_powers_of_two() -> None:
    report = check_solver(Good(), patterns=["2:5", "1:3", "2:7"])
    assert "columns_stay_in_their_blocks on 2:5" in report.passed
    assert "bounds_are_true on 1:3" in report.passed


@pytest.mark.parametrize(
    ("solver", "more", "error", "message"),
    [
        ("magic", {}, UnknownMethodError, "unknown method 'magic'"),
        (Good, {}, InputError, r"such as MyMethod\(\)"),
        (Good(), {"patterns": ["4:2"]}, InputError, "1 <= n < m"),
        (Good(), {"iterations": 0}, OptionError, "iterations = 0"),
    ],
)
def test_arguments_that_cannot_be_used(solver: Any, more: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        check_solver(solver, **more)
    assert not isinstance(caught.value, ContractError)


def test_checking_leaves_the_global_generators_alone() -> None:
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = random.random(), np.random.rand()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    check_solver(Good(), patterns=["2:4"])
    assert (random.random(), np.random.rand()) == expected  # noqa: NPY002


def test_two_groups_of_sixteen_are_too_many_to_try() -> None:
    with pytest.raises(Skipped, match="10,000"):
        Subject(Good()).small("8:16")


@pytest.mark.parametrize(("nm", "cols"), [("1:2", 10), ("2:4", 12), ("2:3", 9), ("4:8", 16), ("2:5", 10)])
def test_small_problems_are_as_wide_as_can_be_tried(nm: str, cols: int) -> None:
    assert _contract_cases.small_width(NM.parse(nm)) == cols


@pytest.mark.parametrize(("nm", "cols"), [("1:2", 8), ("2:4", 8), ("1:3", 9)])
def test_the_suite_agrees_with_the_tests_about_scores_and_optima(nm: str, cols: int) -> None:
    matrix, pattern = _contract_cases.uniform(4, cols), NM.parse(nm)
    perm = np.random.default_rng(0).permutation(cols)
    assert _contract_cases.slow_score(matrix, perm, pattern) == slow_score(matrix, perm, pattern.n, pattern.m)
    best = brute_force(matrix, pattern.n, pattern.m)
    assert _contract_cases.optimum(matrix, pattern) == pytest.approx(best, rel=1e-12)


def test_every_rule_says_what_a_method_must_do() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES) >= 20
    for rule in RULES:
        assert rule.text
        assert "\n" not in rule.text
    assert set(PATTERNS) >= {"1:2", "2:4", "8:16"}
    assert _contract.RULES is RULES


def test_checking_needs_no_test_framework() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from permsolve.testing import check_solver\n"
        "print(check_solver('identity', patterns=['2:4']).summary())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "checks passed" in done.stdout


def test_the_public_name() -> None:
    assert permsolve.testing.check_solver is check_solver
