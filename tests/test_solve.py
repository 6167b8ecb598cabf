"""`permsolve.solve`: its arguments, and what it makes of them."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers import pattern_of, uniform

import permsolve
from permsolve import NM, Problem, Status, _solve
from permsolve.errors import InputError, OptionError, PermsolveError, UnknownMethodError, UnsupportedProblemError
from permsolve.solvers.annealing import Annealing
from permsolve.solvers.assignment import Assignment
from permsolve.solvers.random import Random
from permsolve.stop import MaxIterations, MaxRuntime, Progress

MATRIX = uniform(16, 32)
FEW = MaxIterations(20)


def nan_matrix() -> np.ndarray:
    matrix = MATRIX.copy()
    matrix[3, 7] = np.nan
    return matrix


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"matrix": nan_matrix()}, InputError, "(3, 7)"),
        ({"matrix": MATRIX[:, :30]}, InputError, "30 columns"),
        ({"matrix": MATRIX[0]}, InputError, "1 axes"),
        ({"matrix": "W"}, InputError, "str"),
        ({"nm": (4, 4)}, InputError, "4:4"),
        ({"nm": (0, 4)}, InputError, "0:4"),
        ({"nm": "2/4"}, InputError, "'2/4'"),
        ({"nm": (2.0, 4)}, InputError, "2.0"),
        ({"nm": (True, 4)}, InputError, "True"),
        ({"blocks": (16, 8)}, InputError, "24"),
        ({"blocks": (30, 2)}, InputError, "30"),
        ({"saliency": "wanda"}, InputError, "activations"),
        ({"saliency": "size"}, InputError, "'size'"),
        ({"saliency": np.ones((2, 2))}, InputError, "(2, 2)"),
        ({"time_limit": -1}, InputError, "-1"),
        ({"time_limit": math.nan}, InputError, "nan"),
        ({"time_limit": math.inf}, InputError, "inf"),
        ({"time_limit": "1"}, InputError, "'1'"),
        ({"time_limit": True}, InputError, "True"),
        ({"stop": 5}, InputError, "5"),
        ({"stop": MaxRuntime}, InputError, "MaxRuntime"),
        ({"stop": (MaxIterations(1), MaxRuntime(1))}, InputError, "MaxIterations"),
        ({"seed": -1}, InputError, "-1"),
        ({"seed": 1.0}, InputError, "1.0"),
        ({"seed": True}, InputError, "True"),
        ({"seed": None}, InputError, "None"),
        ({"seed": "0"}, InputError, "'0'"),
        ({"seed": np.random.RandomState(0)}, InputError, "RandomState"),
        ({"n_jobs": 0}, InputError, "0"),
        ({"n_jobs": -1}, InputError, "-1"),
        ({"n_jobs": 1.5}, InputError, "1.5"),
        ({"n_jobs": True}, InputError, "True"),
        ({"n_jobs": "2"}, InputError, "'2'"),
        ({"initial": np.arange(31)}, InputError, "(31,)"),
        ({"initial": np.zeros(32, dtype=int)}, InputError, "exactly once"),
        ({"initial": np.arange(32.0)}, InputError, "float64"),
        ({"initial": "identity"}, InputError, "()"),
        ({"initial": [[1], [2, 3]]}, InputError, "permutation"),
        ({"initial": np.roll(np.arange(32), 1), "blocks": (16, 16)}, InputError, "block"),
        ({"method": "simulated annealing"}, UnknownMethodError, "'simulated annealing'"),
        ({"method": ""}, UnknownMethodError, "annealing"),
        ({"method": None}, UnknownMethodError, "None"),
        ({"method": ["random"]}, UnknownMethodError, "random"),
        ({"method": Annealing}, OptionError, "Annealing()"),
        ({"options": {"temperature": 1}}, OptionError, "'temperature'"),
        ({"options": {"samples": 0}}, OptionError, "samples = 0"),
        ({"options": {"samples": 1.5}}, OptionError, "samples = 1.5"),
        ({"options": {"samples": True}}, OptionError, "samples = True"),
        ({"options": {"samples": "9"}}, OptionError, "samples = '9'"),
        ({"options": "samples"}, InputError, "options"),
        ({"options": {1: 2}}, OptionError, "1"),
        ({"method": Random(), "options": {"samples": 9}}, OptionError, "instance"),
        ({"method": "stripe_groups", "nm": "8:16"}, UnsupportedProblemError, "stripe_groups"),
        ({"method": "stripe_groups", "options": {"groups": 3}, "blocks": (8, 24)}, UnsupportedProblemError, "2"),
        ({"display": "yes"}, InputError, "'yes'"),
        ({"callbacks": (5,)}, InputError, "callbacks"),
        ({"callbacks": print}, InputError, "callbacks"),
    ],
)
def test_arguments_that_do_not_fit_are_named(change: dict[str, Any], error: type, named: str) -> None:
    arguments = {"matrix": MATRIX, "method": "random", **change}
    with pytest.raises(error, match=re.escape(named)) as caught:
        permsolve.solve(**arguments)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, PermsolveError)


def test_an_unknown_option_names_the_valid_ones() -> None:
    with pytest.raises(OptionError, match="its options: start, end, reheats"):
        permsolve.solve(MATRIX, method="annealing", options={"t0": 1})
    with pytest.raises(OptionError, match="its options: none"):
        permsolve.solve(MATRIX, method="identity", options={"t0": 1})


def test_an_unknown_method_names_the_known_ones() -> None:
    with pytest.raises(UnknownMethodError, match=", ".join(permsolve.methods())):
        permsolve.solve(MATRIX, method="magic")


def test_a_problem_carries_its_own_pattern_saliency_and_blocks() -> None:
    problem = Problem.of(MATRIX, (1, 4), saliency="energy", blocks=(16, 16))
    result = permsolve.solve(problem, method="random", stop=FEW)
    assert (str(result.pattern), result.saliency, result.blocks) == ("1:4", "energy", (16, 16))
    assert result.check(MATRIX) == ()
    with pytest.raises(InputError, match="blocks"):
        permsolve.solve(problem, blocks=(16, 16))


def test_a_method_by_name_with_options_is_the_instance() -> None:
    by_name = permsolve.solve(MATRIX, method="random", options={"samples": 7})
    by_instance = permsolve.solve(MATRIX, method=Random(samples=7))
    assert by_name.options == by_instance.options == {"samples": 7}
    assert by_name.method == by_instance.method == "random"
    assert by_name.iterations == by_instance.iterations == 7
    assert by_name.perm.tolist() == by_instance.perm.tolist()


def test_seeds() -> None:
    runs = {seed: permsolve.solve(MATRIX, method="random", stop=FEW, seed=seed) for seed in (0, 1, np.int64(2))}
    assert len({tuple(run.perm) for run in runs.values()}) == 3
    assert [run.seed for run in runs.values()] == [0, 1, 2]
    assert all(type(run.seed) is int for run in runs.values())


def test_a_generator_is_the_seed_and_moves_on() -> None:
    generator = np.random.default_rng(1)
    first = permsolve.solve(MATRIX, method="random", stop=FEW, seed=generator)
    second = permsolve.solve(MATRIX, method="random", stop=FEW, seed=generator)
    assert first.perm.tolist() == permsolve.solve(MATRIX, method="random", stop=FEW, seed=1).perm.tolist()
    assert first.perm.tolist() != second.perm.tolist()
    assert first.seed is None


@pytest.mark.parametrize(("variable", "most"), [("1", 1), ("2", 2), ("0", None), ("many", None), ("", None)])
def test_threads_by_default(monkeypatch: pytest.MonkeyPatch, variable: str, most: int | None) -> None:
    """All cores of this process, or fewer where the environment says so."""
    monkeypatch.setenv("NUMBA_NUM_THREADS", variable)
    cores = len(os.sched_getaffinity(0))
    assert _solve.threads(None) == (cores if most is None else min(cores, most))
    assert _solve.threads(7) == 7


def test_a_convolution_is_the_problem_of_its_matrix() -> None:
    weights = np.random.RandomState(1).standard_normal((6, 32, 3, 3)).astype(np.float32)
    matrix = np.moveaxis(weights, 1, -1).reshape(-1, 32)
    conv, flat = (permsolve.solve(w, method="annealing", stop=MaxIterations(5000)) for w in (weights, matrix))
    assert conv.perm.tolist() == flat.perm.tolist()
    assert conv.score == flat.score
    assert conv.shape == (6, 32, 3, 3)
    mask = conv.mask(weights)
    assert mask.shape == weights.shape
    np.testing.assert_array_equal(np.moveaxis(mask, 1, -1).reshape(-1, 32), flat.mask(matrix))


def test_a_stack_is_the_problem_of_the_concatenation() -> None:
    pieces = [MATRIX, uniform(3, 32, seed=2)]
    runs = [
        permsolve.solve(problem, method="annealing", stop=MaxIterations(5000))
        for problem in (Problem.stack(pieces), Problem.of(np.concatenate(pieces)))
    ]
    assert runs[0].perm.tolist() == runs[1].perm.tolist()
    assert runs[0].score == runs[1].score
    assert runs[0].check(Problem.stack(pieces)) == ()


def test_time_limit_and_stop_join() -> None:
    by_count = permsolve.solve(MATRIX, method="random", stop=MaxIterations(3), time_limit=20)
    assert (by_count.iterations, by_count.stopped_by) == (3, "MaxIterations(iterations=3)")
    by_time = permsolve.solve(MATRIX, method="random", stop=MaxIterations(10**9), time_limit=0)
    assert by_time.stopped_by == "MaxRuntime(seconds=0)"


def test_a_bad_initial_permutation_is_not_the_answer() -> None:
    """What is returned is never worse than no permutation at all, wherever the search starts."""
    good = Problem.of(MATRIX[:, permsolve.solve(MATRIX, method="annealing", stop=MaxIterations(20_000)).perm])
    bad = np.random.RandomState(1).permutation(32)
    assert good.score(bad) < good.baseline
    assert permsolve.solve(good, method="identity", initial=bad).score == good.baseline


def test_an_initial_permutation_is_kept_where_nothing_is_better() -> None:
    best = permsolve.solve(MATRIX, method="annealing", stop=MaxIterations(20_000))
    kept = permsolve.solve(MATRIX, method="identity", initial=best.perm)
    assert kept.perm.tolist() == best.perm.tolist()
    assert kept.score == best.score
    assert kept.baseline == best.baseline


def test_callbacks_see_every_improvement_in_order() -> None:
    seen: list[Progress] = []
    result = permsolve.solve(MATRIX, method="random", stop=MaxIterations(300), callbacks=[seen.append])
    scores = [progress.score for progress in seen]
    assert scores == sorted(set(scores)) == [point.score for point in result.trace[1:]]
    assert scores[-1] == pytest.approx(result.score, rel=1e-12)
    for progress in seen:
        assert 0 <= progress.gap <= 1
        assert progress.stalled_iterations == 0


def test_a_callback_that_answers_true_ends_the_solve() -> None:
    calls: list[Progress] = []
    result = permsolve.solve(
        MATRIX, method="random", options={"samples": 10**6}, callbacks=[lambda p: calls.append(p) or len(calls) == 2]
    )
    assert len(calls) == 2
    assert result.stopped_by == "callback"
    assert result.status is Status.STOPPED
    assert result.score == pytest.approx(calls[-1].score, rel=1e-12)


def interrupted(matrix: np.ndarray, **more: Any) -> tuple[permsolve.Result, list[float]]:
    """Solve with a callback that interrupts at the first improvement; return what it saw, too."""
    seen: list[float] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress.score)
        raise KeyboardInterrupt

    try:
        return permsolve.solve(matrix, callbacks=[interrupt], **more), seen
    except KeyboardInterrupt:  # pytest itself would stop at one
        pytest.fail("the interrupt came out of solve")


@pytest.mark.parametrize("method", [name for name in permsolve.methods() if name != "identity"])
def test_an_interrupt_returns_the_best_so_far(method: str) -> None:
    result, seen = interrupted(MATRIX, nm=pattern_of(method), method=method)
    assert result.stopped_by == "interrupt"
    assert result.status is Status.STOPPED
    assert [result.score] == pytest.approx(seen, rel=1e-12)
    assert result.score > result.baseline
    assert permsolve.Result.from_json(result.to_json()).stopped_by == "interrupt"


def test_an_interrupt_while_the_initial_permutation_is_offered() -> None:
    """The initial permutation is the first improvement: an interrupt there is an interrupt of the solve."""
    best = permsolve.solve(MATRIX, method="annealing", stop=MaxIterations(20_000)).perm
    result, _ = interrupted(MATRIX, method="random", initial=best)
    assert result.stopped_by == "interrupt"
    assert result.perm.tolist() == best.tolist()


def test_an_error_in_a_callback_is_the_callers() -> None:
    with pytest.raises(ZeroDivisionError):
        permsolve.solve(MATRIX, method="random", callbacks=[lambda progress: 1 / 0])


def test_preparation_is_not_part_of_the_runtime() -> None:
    result = permsolve.solve(MATRIX, method="random", time_limit=0.05, options={"samples": 10**9})
    assert result.setup_time > 0
    assert result.runtime >= 0.05
    assert result.trace[-1].time <= result.runtime


def test_what_a_method_may_come_to_need_is_compiled_before_its_clock_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow problem must not make `auto` believe that a wide one has nothing left to compile."""
    warmed: list[int] = []
    monkeypatch.setattr(_solve, "_warmed", set())
    monkeypatch.setattr(Assignment, "warm_up", lambda self, problem: warmed.append(problem.cols))
    for cols in (64, 512):
        permsolve.solve(uniform(4, cols), method="auto", time_limit=0.02)
    assert warmed == [512]


def test_progress_goes_to_the_logger_where_nobody_watches(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from permsolve import display

    monkeypatch.setattr(display, "_LOG_EVERY", 0.01)
    with caplog.at_level(logging.INFO, logger="permsolve"):
        permsolve.solve(MATRIX, method="random", time_limit=0.3, options={"samples": 10**9}, display=False)
    assert any("random" in record.getMessage() and "score" in record.getMessage() for record in caplog.records)
    assert capsys.readouterr() == ("", "")


def test_progress_is_shown_on_standard_error_where_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "140")):
        monkeypatch.setenv(name, value)
    permsolve.solve(MATRIX, method="random", time_limit=0.3, options={"samples": 10**9}, display=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    for word in ("random", "efficacy", "score", "gap"):
        assert word in captured.err


INTERRUPTED = """
import sys, numpy, permsolve
def started(progress):
    print("started", flush=True)
matrix = numpy.random.RandomState(1).rand(200, 512)
result = permsolve.solve(matrix, method=sys.argv[1], n_jobs=2, time_limit=60, callbacks=[started],
                         options={"samples": 10**9} if sys.argv[1] == "random" else None)
print(result.stopped_by, result.runtime < 50, result.check(matrix), result.score > result.baseline)
"""


@pytest.mark.parametrize("method", ["annealing", "assignment", "random", "auto"])
def test_control_c_ends_a_solve_cleanly(method: str) -> None:
    """Also while threads are at work."""
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, method], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert err == ""
    assert out.splitlines()[-1] == "interrupt True () True"
    assert process.returncode == 0


@pytest.mark.parametrize("more", [{"nm": (1, 4)}, {"saliency": "energy"}, {"blocks": (16, 16)}], ids=str)
def test_a_problem_is_not_silently_solved_as_another(more: dict[str, Any]) -> None:
    """What a `Problem` carries cannot be overridden: it would be ignored."""
    with pytest.raises(InputError, match=f"already carries its {next(iter(more))}"):
        permsolve.solve(Problem.of(MATRIX), method="identity", **more)
    assert permsolve.solve(Problem.of(MATRIX, "1:4"), method="identity").pattern == NM(1, 4)
