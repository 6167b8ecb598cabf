"""Many problems on a Dask cluster: the same results, and a worker that is killed loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import permsolve
from permsolve import stop

joblib = pytest.importorskip("joblib")
distributed = pytest.importorskip("distributed", reason="needs dask[distributed]")

ANNEALING: dict[str, Any] = {"method": "annealing", "stop": stop.MaxIterations(300_000), "display": False}

KILLER = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from permsolve.solver import Solver, Status

@dataclass(frozen=True)
class Deadly(Solver):
    folder: str = ""

    def warm_up(self, problem):
        pass

    def __call__(self, problem, run):
        if problem.rows == 13:
            (Path(self.folder) / str(len(os.listdir(self.folder)))).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        run.offer(run.rng.permutation(problem.cols))
        return Status.COMPLETED
"""


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two worker processes of one thread each, which a nanny starts again when they die."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


def same(one: permsolve.SolvedMany, other: permsolve.SolvedMany) -> bool:
    return list(one) == list(other) and all(
        np.array_equal(one[name].perm, other[name].perm) and one[name].score == other[name].score for name in one
    )


def test_a_killed_worker_loses_nothing(client: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    problems = {f"w{k}": rng.standard_normal((32, 96 + 16 * (k % 2))) for k in range(10)}
    expected = permsolve.solve_many(problems, n_jobs=1, **ANNEALING)
    pids = list(client.run(os.getpid).values())
    assert len(pids) == 2 and os.getpid() not in pids
    finished: list[str] = []

    def kill(name: str, outcome: object) -> None:
        finished.append(name)
        if len(finished) == 2:  # both workers are at something
            os.kill(pids[0], signal.SIGKILL)

    with joblib.parallel_config("dask"):
        solved = permsolve.solve_many(problems, callbacks=[kill], journal=tmp_path / "journal", **ANNEALING)
    assert same(expected, solved)
    assert sorted(finished) == sorted(problems)
    assert len((tmp_path / "journal").read_bytes().splitlines()) == 1 + len(problems)


def test_a_problem_that_kills_every_worker_fails_alone(client: Any, tmp_path: Path) -> None:
    """Left to Dask and joblib, the call would wait for ever."""
    (tmp_path / "deadly.py").write_text(KILLER)
    (tmp_path / "deaths").mkdir()
    client.wait_for_workers(2, timeout=30)
    client.upload_file(str(tmp_path / "deadly.py"))  # workers that start later get it, too
    import deadly  # type: ignore[import-not-found]

    rng = np.random.default_rng(0)
    problems = {f"w{k}": rng.standard_normal((13 if k == 1 else 8, 16)) for k in range(4)}
    with joblib.parallel_config("dask"):
        solved = permsolve.solve_many(problems, method=deadly.Deadly(str(tmp_path / "deaths")), display=False)
    assert list(solved) == ["w0", "w2", "w3"]
    assert solved.failures["w1"].kind == "worker"
    assert "died 3 times" in solved.failures["w1"].message
    assert len(os.listdir(tmp_path / "deaths")) == 3


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_matrices_of_some_size_travel(client: Any) -> None:
    client.wait_for_workers(2, timeout=30)
    problems = [np.random.default_rng(k).standard_normal((1024, 2048)) for k in range(2)]
    expected = permsolve.solve_many(problems, method="identity", n_jobs=1, display=False)
    with joblib.parallel_config("dask"):
        solved = permsolve.solve_many(problems, method="identity", display=False)
    assert same(expected, solved) and solved["0"].fingerprint == expected["0"].fingerprint
