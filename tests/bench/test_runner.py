"""Runs in processes of their own: what goes wrong in one leaves the others alone, and a killed bench goes on."""

import os
import signal
import subprocess
import sys
import time

import benches
import pytest

from permsolve import registry
from permsolve.bench import machine, runner
from permsolve.bench.journal import RUNS, read_runs, read_settings
from permsolve.bench.records import solution_of
from permsolve.errors import InputError


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """Install methods that go wrong as a third party would: by an entry point."""
    site = tmp_path / "site"
    site.mkdir()
    benches.install_misbehaving(site)
    monkeypatch.syspath_prepend(site)
    registry._loaders.cache_clear()
    yield
    registry._loaders.cache_clear()
    sys.modules.pop("misbehaving", None)


def outcomes(records):
    return {record.task.method: (record.outcome, record.reason) for record in records}


@pytest.mark.parametrize("nm", ["hinm(4, 0.5, 2:4)", "4:2:8", "transposable(2:4)"])
def test_solutions_of_every_pattern_come_back_and_other_methods_are_no_failures(tmp_path, nm):
    (source,) = benches.matrices(tmp_path, ["one"], nm=nm)
    settings = benches.settings((source,), methods=("random", "ria"))
    records = {record.task.method: record for record in runner.run(settings, tmp_path / "out")}
    assert records["ria"].outcome == "unsupported"
    assert f"does not search patterns like {nm}" in records["ria"].reason
    problem = source.problem()
    answer = records["random"].answer
    assert set(answer.solution) == set(problem.pattern.parts)
    assert answer.score == problem.score(solution_of(problem, answer.solution)) > problem.baseline
    assert {record.task.method: record for record in read_runs(tmp_path / "out", settings)} == records


def test_a_bench_records_every_run_with_its_own_score(tmp_path):
    sources = benches.matrices(tmp_path)
    settings = benches.settings(sources, methods=("identity", "random"), seeds=2)
    heard = []
    records = runner.run(settings, tmp_path / "out", notify=heard.append)
    assert {record.task for record in records} == set(settings.tasks())
    assert heard[0] == 0
    assert heard[-1] == settings.count()
    for record in records:
        problem = {source.name: source for source in sources}[record.task.instance].problem()
        assert record.outcome == "ok"
        assert record.answer.score == problem.score(solution_of(problem, record.answer.solution))
        assert record.answer.trace[0] == (0.0, pytest.approx(problem.baseline))
    seeds = {str(record.answer.solution) for record in records if record.task.method == "random"}
    assert len(seeds) == 4, "two instances with two seeds each"


def test_whatever_a_method_does_the_other_runs_are_made(tmp_path, misbehaving):
    methods = ("exits", "aborts", "hangs", "raises", "refuses", "chatters", "inspects", "identity")
    settings = benches.settings(benches.matrices(tmp_path, ["one"]), methods=methods)
    # The grace also covers the start of the process: long enough for a busy machine, short enough for a test.
    found = outcomes(runner.run(settings, tmp_path / "out", grace=10.0))
    assert found["exits"] == ("failed", "the process ended with exit code 3: last words")
    assert found["aborts"][1].startswith("the process was killed by SIGABRT")
    assert found["hangs"] == ("failed", "no answer 10 s after its limit of 0.05 s; it was killed")
    assert found["raises"][0] == "failed"
    assert found["raises"][1].startswith("RuntimeError: out of ideas (misbehaving.py, line ")
    assert found["refuses"][0] == "unsupported"
    assert found["refuses"][1].endswith("it is Saturday")
    assert found["chatters"] == ("ok", None)
    assert found["inspects"] == ("ok", None), "one core, one thread"
    assert found["identity"] == ("ok", None)


def test_finished_runs_are_not_made_again_and_failed_ones_are_finished(tmp_path, misbehaving):
    settings = benches.settings(benches.matrices(tmp_path), methods=("raises", "identity"))
    first = runner.run(settings, tmp_path / "out")
    before = (tmp_path / "out" / RUNS).read_bytes()
    heard = []
    assert runner.run(settings, tmp_path / "out", notify=heard.append) == first
    assert heard == [4]
    assert (tmp_path / "out" / RUNS).read_bytes() == before


def test_a_method_of_another_package_that_was_changed_makes_another_bench(tmp_path, misbehaving):
    before = machine.code(["identity", "raises"])
    assert before == machine.code(["raises"]), "which of the package's own methods run makes no difference"
    file = tmp_path / "site" / "misbehaving.py"
    file.write_text(file.read_text().replace("out of ideas", "full of ideas"))
    assert machine.code(["raises"]) != before
    assert machine.code(["identity"]) != before


def test_more_runs_at_a_time_than_cores_are_refused_before_anything_is_written(tmp_path):
    settings = benches.settings(benches.matrices(tmp_path), jobs=len(machine.cores()) + 1)
    with pytest.raises(InputError, match="need as many cores"):
        runner.run(settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()


BENCH = """
import sys
from pathlib import Path
from permsolve.bench import plan, runner
folder = Path(sys.argv[1])
sources = plan.file_sources([folder / "one.npy", folder / "two.npy"], "2:4", "magnitude")
settings = plan.make_settings(sources, methods=("random", "identity"), limits=(0.2,), seeds=10, jobs=1)
runner.run(settings, folder / "out")
"""


def lines(folder):
    try:
        return (folder / "out" / RUNS).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def test_a_killed_bench_goes_on_without_repeating_a_run(tmp_path):
    benches.matrices(tmp_path)
    command = [sys.executable, "-c", BENCH, str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while lines(tmp_path) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = children(process.pid)
    process.kill()
    process.wait()
    settings = read_settings(tmp_path / "out")
    before = (tmp_path / "out" / RUNS).read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    finished = read_runs(tmp_path / "out", settings)
    assert 5 <= len(finished) < settings.count()
    assert workers
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers)), "a worker outlived its bench"

    subprocess.run(command, check=True, timeout=120)
    assert (tmp_path / "out" / RUNS).read_bytes().startswith(before)
    assert lines(tmp_path) == settings.count()
    assert {record.task for record in read_runs(tmp_path / "out", settings)} == set(settings.tasks())


def children(pid):
    """Return the processes that a process has started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def alive(pid):
    """Return whether a process still runs; one that nobody has waited for yet does not."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_an_interrupted_bench_keeps_what_is_finished(tmp_path):
    benches.matrices(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", BENCH, str(tmp_path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while lines(tmp_path) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert len(read_runs(tmp_path / "out", read_settings(tmp_path / "out"))) >= 2
