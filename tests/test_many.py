"""Many problems: the same results on every engine, journals, failures, workers that die."""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import rarely

import permsolve
from permsolve import dispatch, stop
from permsolve.errors import FileError, InputError, OptionError, SolverError, UnsupportedProblemError
from permsolve.many_journal import JournalError
from permsolve.solver import Solver, Status
from permsolve.stop import Progress

joblib = pytest.importorskip("joblib")

LIMIT: dict[str, Any] = {"method": "annealing", "stop": stop.MaxIterations(20_000), "display": False}


def matrices(count: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {f"w{k}": rng.standard_normal((12, 32 + 16 * (k % 3))) for k in range(count)}


def same(one: permsolve.SolvedMany, other: permsolve.SolvedMany) -> bool:
    return list(one) == list(other) and all(
        np.array_equal(one[name].perm, other[name].perm)
        and (one[name].score, one[name].seed, one[name].fingerprint)
        == (other[name].score, other[name].seed, other[name].fingerprint)
        for name in one
    )


@dataclass(frozen=True)
class Mortal(Solver):
    """Kills its process at problems of 13 rows, so often; raises at 11 rows.

    Parameters
    ----------
    folder
        Where it counts its deaths.
    deaths
        How often it dies.
    """

    folder: str = ""
    deaths: int = 0

    def warm_up(self, problem: permsolve.Problem) -> None:
        pass

    def __call__(self, problem: permsolve.Problem, run: Any) -> Status:
        if problem.rows == 13:
            died = len(list(Path(self.folder).iterdir()))
            if died < self.deaths:
                (Path(self.folder) / str(died)).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if problem.rows == 11:
            raise ZeroDivisionError("by 11 rows")
        run.offer(run.rng.permutation(problem.cols))
        return Status.COMPLETED


@pytest.fixture(scope="module")
def serial() -> permsolve.SolvedMany:
    return permsolve.solve_many(matrices(), n_jobs=1, **LIMIT)


# -- one answer, whoever works it out ----------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["loky", "threading"])
def test_engines_give_the_same_results(serial: permsolve.SolvedMany, engine: str) -> None:
    with joblib.parallel_config(engine, n_jobs=2):
        assert same(serial, permsolve.solve_many(matrices(), **LIMIT))
    assert all(result.score > result.baseline for result in serial.values())
    assert len({result.seed for result in serial.values()}) == len(serial)


def test_a_result_depends_on_no_other_problem(serial: permsolve.SolvedMany) -> None:
    given = matrices()
    few = permsolve.solve_many({name: given[name] for name in ("w4", "w1")}, n_jobs=1, **LIMIT)
    assert list(few) == ["w4", "w1"]
    for name, result in few.items():
        assert np.array_equal(result.perm, serial[name].perm)
        alone = permsolve.solve(given[name], seed=result.seed, n_jobs=1, **LIMIT)
        assert np.array_equal(alone.perm, result.perm)
    assert permsolve.solve_many(given, n_jobs=1, seed=1, **LIMIT)["w1"].seed != serial["w1"].seed


def test_whatever_stands_for_a_problem(serial: permsolve.SolvedMany) -> None:
    first, second = matrices()["w0"], matrices()["w1"]
    problem = permsolve.Problem.of(first, "1:4", saliency="energy", blocks=[16, 16])
    job = permsolve.Job(lambda: second, *second.shape)
    solved = permsolve.solve_many([first, problem, lambda: problem, job], n_jobs=1, **LIMIT)
    assert list(solved) == ["0", "1", "2", "3"]
    assert [str(result.pattern) for result in solved.values()] == ["2:4", "1:4", "1:4", "2:4"]
    assert (solved["1"].saliency, solved["1"].blocks) == ("energy", (16, 16))
    assert solved["3"].fingerprint == serial["w1"].fingerprint


def test_arguments_for_all_and_threads() -> None:
    given = matrices(2)
    solved = permsolve.solve_many(given, "1:4", saliency="energy", n_jobs=1, threads=2, **LIMIT)
    for name, result in solved.items():
        alone = permsolve.solve(given[name], "1:4", saliency="energy", n_jobs=1, seed=result.seed, **LIMIT)
        assert np.array_equal(alone.perm, result.perm)
        assert (result.saliency, str(result.pattern), result.stopped_by) == ("energy", "1:4", repr(LIMIT["stop"]))


def test_two_workers_begin_with_the_largest() -> None:
    made: list[str] = []

    def job(name: str, rows: int) -> permsolve.Job:
        def make() -> np.ndarray:
            made.append(name)
            time.sleep(0.05)
            return np.ones((rows, 16))

        return permsolve.Job(make, rows, 16)

    jobs = {f"{rows} rows": job(f"{rows} rows", rows) for rows in (3, 30, 1, 20)}
    with joblib.parallel_config("threading"):
        permsolve.solve_many(jobs, method="identity", n_jobs=2, display=False)
    assert set(made[:2]) == {"30 rows", "20 rows"}
    assert made[-1] == "1 rows"
    made.clear()
    permsolve.solve_many(jobs, method="identity", n_jobs=1, display=False)
    assert made == list(jobs)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("rows", [16, 21])
def test_a_problem_arrives_as_it_left(rows: int, large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large saliencies are searched as they are, others scaled: that must not change on the way to a worker."""
    if large:
        monkeypatch.setattr("permsolve.problem._LARGE", 64)
    problem = permsolve.Problem.of(np.random.default_rng(0).random((rows, 32), dtype=np.float32))
    task = dispatch.Task("x", lambda: problem, 1.0, lambda: {"seed": 5})
    order = dispatch._Order(task, dispatch._Stage([task], True, None))
    parcel = pickle.loads(pickle.dumps(order)).open()
    assert (parcel.name, parcel.settings) == ("x", {"seed": 5})
    assert isinstance(parcel.problem, permsolve.Problem)
    assert np.array_equal(parcel.problem.columns, problem.columns)
    assert np.array_equal(parcel.problem.packed, problem.packed) and parcel.problem.scale == problem.scale
    assert (problem.scale == 1.0) == large
    assert parcel.problem.columns.strides == problem.columns.strides and parcel.problem.columns.flags.writeable
    assert (parcel.problem.fingerprint, parcel.problem.shape) == (problem.fingerprint, problem.shape)


@pytest.mark.parametrize(("workers", "most"), [(1, 0), (2, 2)])
def test_problems_are_made_when_needed_and_dropped(workers: int, most: int) -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    found: list[int] = []

    def make() -> permsolve.Problem:
        found.append(sum(each() is not None for each in alive))
        problem = permsolve.Problem.of(np.ones((4, 16)))
        alive.append(weakref.ref(problem.columns))
        return problem

    solved = permsolve.solve_many([make] * 8, method="identity", n_jobs=workers, display=False)
    assert len(solved) == len(found) == 8
    assert max(found) <= most


def test_one_worker_is_this_process_even_on_another_engine() -> None:
    seen: list[int] = []

    def make() -> np.ndarray:
        seen.append(os.getpid())
        return np.ones((2, 8))

    with joblib.parallel_config("loky", n_jobs=1):
        solved = permsolve.solve_many([make], method=Mortal(), display=False)
    assert (len(solved), seen) == (1, [os.getpid()])


# -- failures ----------------------------------------------------------------------------------------------------------


def broken() -> np.ndarray:
    raise OSError("no such tensor")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_does_not_lose_the_others(workers: int) -> None:
    rng = np.random.default_rng(0)
    bad = np.ones((4, 8))
    bad[1, 2] = np.nan
    problems = {
        "good": rng.random((4, 8)),
        "nan": bad,
        "six": np.ones((4, 6)),
        "broken": broken,
        "eleven": rng.random((11, 8)),
    }
    seen: dict[str, str] = {}
    solved = permsolve.solve_many(
        problems,
        method=Mortal(),
        n_jobs=workers,
        display=False,
        callbacks=[lambda name, outcome: seen.update({name: type(outcome).__name__})],
    )
    assert list(solved) == ["good"]
    assert {name: (each.kind, each.error) for name, each in solved.failures.items()} == {
        "nan": ("input", "InputError"),
        "six": ("input", "InputError"),
        "broken": ("input", "OSError"),
        "eleven": ("solver", "ZeroDivisionError"),
    }
    assert seen == {"good": "Result"} | dict.fromkeys(solved.failures, "Failure")
    assert "the first at (1, 2)" in solved.failures["nan"].message
    assert "run.offer" not in solved.failures["eleven"].details.splitlines()[-1]
    assert solved.failures["eleven"].details.splitlines()[-1] == "ZeroDivisionError: by 11 rows"
    with pytest.raises(SolverError, match=r"4 of 5 problems failed: 'nan': InputError: .*'eleven': ZeroDivisionError"):
        solved.raise_failures()
    with pytest.raises(KeyError, match=r"the problem failed: 'broken': OSError: no such tensor"):
        solved["broken"]
    with pytest.raises(InputError, match=r"no problem is called 'x'; there are 'good'"):
        solved["x"]
    assert "nan" not in solved and solved.get("nan") is None
    summary = solved.summary()
    assert summary.startswith("1 of 5 problems solved in ") and "4 failed" in summary and "by 11 rows" in summary


def test_a_method_that_does_not_support_a_problem() -> None:
    options = {"groups": 3}
    solved = permsolve.solve_many(
        [np.ones((2, 8)), np.ones((2, 16))], method="stripe_groups", options=options, n_jobs=1
    )
    assert solved.failures["0"].kind == "unsupported"
    assert isinstance(solved.failures["0"].exception(), UnsupportedProblemError)
    assert list(solved) == ["1"]


def test_what_is_returned_is_frozen_and_can_be_pickled(serial: permsolve.SolvedMany) -> None:
    with pytest.raises(AttributeError):
        serial.runtime = 0  # type: ignore[misc]
    with pytest.raises(TypeError):
        serial.results["x"] = serial["w0"]  # type: ignore[index]
    again = pickle.loads(pickle.dumps(serial))
    assert same(serial, again) and again.runtime == serial.runtime
    serial.raise_failures()


@pytest.mark.parametrize("deaths", [1, 99])
def test_a_worker_that_dies_costs_at_most_its_problem(tmp_path: Path, deaths: int) -> None:
    rng = np.random.default_rng(0)
    problems = {f"w{k}": rng.standard_normal((13 if k == 2 else 8, 16)) for k in range(6)}
    expected = permsolve.solve_many(problems, method=Mortal(), n_jobs=1, display=False)
    solved = permsolve.solve_many(problems, method=Mortal(str(tmp_path), deaths), n_jobs=2, display=False)
    if deaths == 1:
        assert same(expected, solved)
        return
    assert list(solved) == [name for name in problems if name != "w2"]
    assert all(np.array_equal(solved[name].perm, expected[name].perm) for name in solved)
    assert solved.failures["w2"].kind == "worker"
    assert "died 3 times, the last time alone, by SIGKILL" in solved.failures["w2"].message
    assert len(list(tmp_path.iterdir())) == 3


def test_workers_that_always_die_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("permsolve.dispatch.GIVEN_UP", 1)  # each costs a start of two processes
    with pytest.raises(SolverError, match="die whatever they are given"):
        permsolve.solve_many(
            [np.random.default_rng(0).random((13, 8))] * 4, method=Mortal(str(tmp_path), 99), n_jobs=2, display=False
        )


# -- stopping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["sequential", "threading", "loky"])
def test_a_callback_ends_the_call(engine: str) -> None:
    long = LIMIT | {"stop": stop.MaxIterations(300_000)}
    with joblib.parallel_config(engine, n_jobs=1 if engine == "sequential" else 2):
        solved = permsolve.solve_many(matrices(), callbacks=[lambda name, outcome: True], **long)
    assert solved.stopped_by == "callback"
    assert (len(solved), len(solved.unfinished)) == (1, 5)
    with pytest.raises(SolverError, match="5 of 6 problems were not solved"):
        solved.raise_failures()
    with pytest.raises(KeyError, match="stopped by callback before"):
        solved[solved.unfinished[0]]


SCRIPT = """
import sys, json, time, numpy as np, permsolve
from permsolve import stop

workers, journal, iterations, wait = sys.argv[1:]

def note(name, outcome):
    print(name, flush=True)
    time.sleep(float(wait))

rng = np.random.default_rng(0)
problems = {f"w{k}": rng.standard_normal((32, 128)) for k in range(6)}
solved = permsolve.solve_many(
    problems, method="annealing", stop=stop.MaxIterations(int(iterations)), n_jobs=int(workers), journal=journal,
    callbacks=[note],
)
perm = solved["w0"].perm.tolist() if "w0" in solved else None
print(json.dumps([solved.stopped_by, list(solved), list(solved.unfinished), perm]))
"""


@contextmanager
def running(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *words], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("workers", rarely(["1", "2"], ["1"]))
def test_ctrl_c_returns_what_is_finished_and_the_journal_goes_on(tmp_path: Path, workers: str) -> None:
    path = tmp_path / "journal"
    with running(workers, str(path), "8_000_000", "0") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        *_, last = process.communicate(timeout=60)[0].splitlines()
    by, solved, unfinished, _ = json.loads(last)
    assert by == "interrupt" and solved and unfinished
    held = {json.loads(line)["name"] for line in path.read_bytes().splitlines()[1:]}
    assert held <= set(solved) and len(set(solved) - held) <= 1, "only a solve that was cut short is not written down"


@pytest.mark.parametrize("workers", rarely(["1", "2"], ["1"]))
def test_a_killed_run_goes_on_where_it_was(tmp_path: Path, workers: str) -> None:
    path = tmp_path / "journal"
    with running(workers, str(path), "300_000", "60") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    kept = path.read_bytes()
    lines = kept.splitlines()[1:]
    assert len(lines) == 1
    with running(workers, str(path), "300_000", "0") as process:
        *names, last = process.communicate(timeout=60)[0].splitlines()
    done = {json.loads(line)["name"] for line in lines}
    assert sorted(names) == sorted({f"w{k}" for k in range(6)} - done)
    by, solved, unfinished, perm = json.loads(last)
    assert (by, len(solved), unfinished) == (None, 6, [])
    assert path.read_bytes().startswith(kept)
    first = {"w0": np.random.default_rng(0).standard_normal((32, 128))}
    alone = permsolve.solve_many(first, method="annealing", stop=stop.MaxIterations(300_000), n_jobs=1)
    assert alone["w0"].perm.tolist() == perm


# -- journals ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "many.jsonl"
    permsolve.solve_many(matrices(), n_jobs=1, journal=path, **LIMIT)
    return path


def never(name: str, outcome: object) -> None:
    raise AssertionError(f"{name} was solved again")


def test_a_journal_holds_every_result(written: Path, serial: permsolve.SolvedMany) -> None:
    header, *lines = [json.loads(line) for line in written.read_bytes().splitlines()]
    assert (header["schema"], header["settings"]["method"]) == ("permsolve.many/1", "annealing")
    assert [line["name"] for line in lines] == list(serial)
    for line in lines:
        held = permsolve.Result.from_json(json.dumps(line["result"]))
        assert np.array_equal(held.perm, serial[line["name"]].perm)
    again = permsolve.solve_many(matrices(), n_jobs=1, journal=written, callbacks=[never], **LIMIT)
    assert same(serial, again)


@pytest.mark.parametrize("kept", [0, 1, 100, -1], ids=["nothing", "one byte", "a part", "all but the line end"])
def test_a_torn_last_line_is_solved_again(written: Path, serial: permsolve.SolvedMany, kept: int) -> None:
    whole = written.read_bytes()
    *lines, last = whole.splitlines(keepends=True)
    written.write_bytes(b"".join(lines) + last[:kept])
    seen: list[str] = []
    solved = permsolve.solve_many(
        matrices(), n_jobs=1, journal=written, callbacks=[lambda name, _: seen.append(name)], **LIMIT
    )
    assert seen == ["w5"] and same(serial, solved)
    assert len(written.read_bytes().splitlines()) == 7


@pytest.mark.parametrize("kept", [0, 1, 20, 60])
def test_a_torn_header_is_begun_anew(written: Path, kept: int) -> None:
    header, *_ = whole = written.read_bytes().splitlines()
    written.write_bytes(header[:kept])
    permsolve.solve_many(matrices(), n_jobs=1, journal=written, **LIMIT)
    assert written.read_bytes().splitlines()[0] == header
    assert len(written.read_bytes().splitlines()) == len(whole)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 3}, "seed 0 there, 3 now"),
        ({"nm": "1:4"}, "nm 2:4 there, 1:4 now"),
        ({"saliency": "energy"}, "saliency magnitude there, energy now"),
        ({"bound": "lp"}, "bound rows there, lp now"),
        (
            {"stop": stop.MaxIterations(9)},
            r"stop MaxIterations\(iterations=20000\) there, MaxIterations\(iterations=9\)",
        ),
        ({"time_limit": 2.5}, "time_limit None there, 2.5 now"),
        ({"method": "greedy"}, "method annealing there, greedy now"),
        ({"options": {"share": 0.3}}, "options"),
    ],
)
def test_a_journal_of_other_settings_is_refused(written: Path, change: dict[str, Any], said: str) -> None:
    before = written.read_bytes()
    if "options" in change:
        name = next(iter(permsolve.get_solver("annealing")().options))
        change = {"options": {name: 0.123}}
    with pytest.raises(InputError, match=f"other settings .*{said}"):
        permsolve.solve_many(matrices(), n_jobs=1, journal=written, **LIMIT | change)
    assert written.read_bytes() == before


class Doubled:
    """A saliency that calls itself what it is not."""

    name = "magnitude"

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        return np.abs(weights) ** 1.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w | {"w1": w["w1"] + 1}, r"another problem 'w1' \(fingerprint"),
        (lambda w: w | {"w1": w["w1"][:, :32]}, r"another problem 'w1' \(shape"),
        (lambda w: w | {"w1": permsolve.Problem.of(w["w1"], saliency="energy")}, "saliency magnitude there, energy"),
        (lambda w: w | {"w1": permsolve.Problem.of(w["w1"], blocks=[16, 32])}, "blocks None there"),
        (lambda w: w | {"w1": permsolve.Problem.of(w["w1"], saliency=Doubled())}, "unpermuted score"),
        (lambda w: {name: w[name] for name in ("w0", "w2")}, r"a problem 'w1' that is not among .*\(4 such\)"),
    ],
)
def test_a_journal_of_other_problems_is_refused(written: Path, change: Callable[[Any], Any], said: str) -> None:
    before = written.read_bytes()
    with pytest.raises(InputError, match=said):
        permsolve.solve_many(change(matrices()), n_jobs=1, journal=written, **LIMIT)
    assert written.read_bytes() == before


def test_files_that_are_no_journal_are_left_alone(tmp_path: Path, written: Path) -> None:
    for content in (b"a thesis", b"{}\n", b'{"schema": "permsolve.many/2"}\n'):
        other = tmp_path / "other"
        other.write_bytes(content)
        with pytest.raises(FileError, match=r"is no journal of schema 'permsolve.many/1'"):
            permsolve.solve_many(matrices(), journal=other, **LIMIT)
        assert other.read_bytes() == content
    for path, said in ((tmp_path, "cannot be opened"), (tmp_path / "a" / "b", "cannot be opened")):
        with pytest.raises(FileError, match=said):
            permsolve.solve_many(matrices(), journal=path, **LIMIT)
    with pytest.raises(FileError, match="no ordinary file"):
        permsolve.solve_many(matrices(), journal="/dev/full", **LIMIT)
    header, first, *rest = written.read_bytes().splitlines(keepends=True)
    for damage in (b"{}\n", b"[]\n", b"nonsense\n", first.replace(b'"score"', b'"sore"')):
        written.write_bytes(header + first + damage + b"".join(rest))
        with pytest.raises(FileError, match=r"line 3 is damaged .*; delete that line to go on"):
            permsolve.solve_many(matrices(), journal=written, **LIMIT)


def test_two_calls_cannot_write_into_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    def again() -> None:
        permsolve.solve_many([np.ones((2, 8))], method="identity", n_jobs=1, journal=path)

    solved = permsolve.solve_many({"x": again}, method="identity", n_jobs=1, journal=path, display=False)
    assert "another process is writing the journal" in solved.failures["x"].message


def test_failures_are_not_written_down_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    problems: dict[str, Any] = {"good": np.ones((2, 8)), "bad": broken}
    assert list(permsolve.solve_many(problems, method="identity", n_jobs=1, journal=path).failures) == ["bad"]
    assert len(path.read_bytes().splitlines()) == 2
    solved = permsolve.solve_many(problems | {"bad": np.ones((2, 8))}, method="identity", n_jobs=1, journal=path)
    assert list(solved) == ["good", "bad"]


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path, serial: permsolve.SolvedMany) -> None:
    probe, path = tmp_path / "probe", tmp_path / "journal"
    permsolve.solve_many(matrices(), n_jobs=1, journal=probe, **LIMIT)
    lines = probe.read_bytes().splitlines(keepends=True)
    room = len(b"".join(lines[:4])) + len(lines[4]) // 2  # the fourth result tears
    with (
        full_disk(room),
        pytest.raises(JournalError, match=r"cannot be written: .*make room, and the same call") as caught,
    ):
        permsolve.solve_many(matrices(), n_jobs=1, journal=path, **LIMIT)
    held = caught.value.solved
    assert held is not None
    assert list(held) == ["w0", "w1", "w2", "w3"] and held.unfinished == ("w4", "w5")
    assert path.read_bytes().endswith(b"\n") and len(path.read_bytes().splitlines()) == 4
    seen: list[str] = []
    solved = permsolve.solve_many(
        matrices(), n_jobs=1, journal=path, callbacks=[lambda name, _: seen.append(name)], **LIMIT
    )
    assert seen == ["w3", "w4", "w5"] and same(serial, solved)


# -- progress and arguments --------------------------------------------------------------------------------------------


def test_progress_goes_to_the_log_or_to_the_terminal(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = {"good": np.ones((2, 8)), "bad": broken}
    with caplog.at_level("INFO", "permsolve"):
        permsolve.solve_many(problems, method="identity", n_jobs=1, display=False)
    assert [record.getMessage().split(" in ")[0] for record in caplog.records] == [
        "good: efficacy 100.00 %",
        "failed (2 of 2): 'bad': OSError: no such tensor",
    ]
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    permsolve.solve_many(problems, method="identity", n_jobs=1, display=True)
    assert "2/2" in capsys.readouterr().err


def test_a_call_without_problems() -> None:
    solved = permsolve.solve_many({})
    assert (len(solved), solved.stopped_by, solved.summary()[:22]) == (0, None, "0 of 0 problems solved")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"problems": np.ones((2, 4, 8))}, InputError, "problems is a ndarray; it must be a mapping"),
        ({"problems": {1: np.ones((2, 8))}}, InputError, "names of problems are strings, got 1"),
        ({"nm": "4:2"}, InputError, "1 <= n < m"),
        ({"method": "magic"}, InputError, "unknown method 'magic'"),
        ({"options": {"magic": 1}}, OptionError, "magic"),
        ({"saliency": "wanda"}, InputError, "needs activations"),
        ({"bound": "best"}, InputError, "bound"),
        ({"stop": 3}, InputError, "stop = 3 is no criterion"),
        ({"time_limit": -1}, InputError, "time limit"),
        ({"seed": -1}, InputError, "seed = -1"),
        ({"seed": np.random.default_rng(0)}, InputError, "seed must be a whole number"),
        ({"callbacks": [3]}, InputError, r"callbacks = \[3\]"),
        ({"display": 3}, InputError, "display = 3"),
        ({"n_jobs": 0}, InputError, "n_jobs = 0"),
        ({"n_jobs": "all"}, InputError, "n_jobs = 'all'"),
        ({"threads": 0}, InputError, "n_jobs = 0 must be a positive number of threads"),
        ({"blocks": [4, 4]}, InputError, "no argument 'blocks'"),
        ({"initial": [0, 1]}, InputError, "no argument 'initial'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    given = {"problems": [np.ones((2, 8))]} | arguments
    with pytest.raises(error, match=said):
        permsolve.solve_many(**given)


@pytest.mark.parametrize("arguments", [(3, 2, 8), (broken, 0, 8), (broken, 2, 8.5), (broken, True, 8)])
def test_jobs_are_checked(arguments: Any) -> None:
    with pytest.raises(InputError, match="must be a"):
        permsolve.Job(*arguments)


def test_options_that_are_no_plain_values_cannot_be_written_down(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"option folder = .* is no plain value"):
        permsolve.solve_many(
            [np.ones((2, 8))],
            method=Mortal(folder=tmp_path),
            journal=tmp_path / "journal",  # type: ignore[arg-type]
        )
    assert not (tmp_path / "journal").exists()


def test_a_stop_flag_changes_no_schedule() -> None:
    """Solves of this process carry a criterion more; what follows the limits must not notice."""
    seen: list[Progress] = []
    solved = permsolve.solve_many({"x": matrices()["w0"]}, method="annealing", n_jobs=1, display=False)
    alone = permsolve.solve(
        matrices()["w0"], method="annealing", seed=solved["x"].seed, n_jobs=1, callbacks=[seen.append], display=False
    )
    assert seen and np.array_equal(alone.perm, solved["x"].perm) and alone.iterations == solved["x"].iterations


def test_the_example_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.numpy import save_file

    guide = (Path(__file__).parent.parent / "docs" / "guide.md").read_text()
    code = guide.split("## Many matrices")[1].split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    save_file(
        {"a": np.ones((3, 8)), "b": matrices()["w0"], "odd": np.ones((3, 6)), "norm": np.ones(8)}, "model.safetensors"
    )
    exec(code, {"permsolve": permsolve})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.json", "b.json", "model.jsonl", "model.safetensors"]
    assert permsolve.load("b.json").check(matrices()["w0"]) == ()


def test_further_arguments_of_solve_are_passed_on() -> None:
    solved = permsolve.solve_many([matrices()["w0"]], n_jobs=1, device="cpu", **LIMIT)
    assert solved["0"].score > solved["0"].baseline
    solved = permsolve.solve_many([matrices()["w0"]], n_jobs=1, device="abacus", **LIMIT)
    assert "abacus" in solved.failures["0"].message
