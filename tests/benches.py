"""Small benches for tests: matrices in files, runs made in this process, and methods that misbehave."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from permsolve.bench import plan
from permsolve.bench.records import Answer, Record, Settings, Source, Task

#: A package with methods that go wrong in every way a process can, installed by its metadata alone.
MISBEHAVING = """
import os, signal, sys, time
from dataclasses import dataclass
from permsolve import Solver, Status

@dataclass(frozen=True)
class _Direct(Solver):
    def warm_up(self, problem):
        pass

class Exits(_Direct):
    def __call__(self, problem, run):
        print("last words", file=sys.stderr, flush=True)
        os._exit(3)

class Aborts(_Direct):
    def __call__(self, problem, run):
        os.abort()

class Hangs(_Direct):
    def __call__(self, problem, run):
        time.sleep(1000)

class Raises(_Direct):
    def __call__(self, problem, run):
        raise RuntimeError("out of ideas")

class Refuses(_Direct):
    def supports(self, problem):
        return "it is Saturday"
    def __call__(self, problem, run):
        raise AssertionError("never called")

class Chatters(_Direct):
    def __call__(self, problem, run):
        print('{"task": "no answer"}', flush=True)
        os.write(1, b"nor is this\\n")
        run.offer(run.rng.permutation(problem.cols))
        return Status.COMPLETED

class Inspects(_Direct):
    def __call__(self, problem, run):
        assert len(os.sched_getaffinity(0)) == 1
        assert run.n_jobs == 1
        assert os.environ["OMP_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"
        return Status.COMPLETED
"""
_METHODS = ("exits", "aborts", "hangs", "raises", "refuses", "chatters", "inspects")


def install_misbehaving(site: Path) -> None:
    """Put the package where Python finds it: a module, and the metadata that pip would have written."""
    (site / "misbehaving.py").write_text(MISBEHAVING)
    metadata = site / "misbehaving-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving\nVersion: 1.0\n")
    points = [f"{name} = misbehaving:{name.capitalize()}" for name in _METHODS]
    (metadata / "entry_points.txt").write_text("\n".join(["[permsolve.solvers]", *points, ""]))


def matrices(
    folder: Path, names: Iterable[str] = ("one", "two"), shape: tuple[int, int] = (8, 16), nm: str = "2:4"
) -> tuple[Source, ...]:
    """Write random matrices, one per name, and return them as instances."""
    files = []
    for k, name in enumerate(names):
        files.append(folder / f"{name}.npy")
        np.save(files[-1], np.random.default_rng(k).random(shape))
    return plan.file_sources(files, nm, "magnitude")


def settings(
    sources: Sequence[Source],
    methods: Sequence[str] = ("identity", "ria"),
    limits: Sequence[float] = (0.05,),
    seeds: int = 1,
    jobs: int = 1,
) -> Settings:
    """Return the settings of a small bench."""
    return plan.make_settings(sources, methods=methods, limits=limits, seeds=seeds, jobs=jobs)


def task(method: str, instance: str = "one", seed: int = 0, limit: float = 1.0) -> Task:
    """Return a run to make."""
    return Task(method=method, instance=instance, seed=seed, limit=limit)


def record(task: Task, source: Source, found: Any, time: float = 0.5, **changes: object) -> Record:
    """Return the record of a run that found a solution at a time; its figures are true unless changed."""
    problem = source.problem()
    solution = problem.check_solution(np.array(found) if isinstance(found, Sequence) else found)
    score = problem.score(solution)
    fields: dict[str, object] = {
        "solution": problem.pattern.to_lists(solution),
        "score": score,
        "bound": problem.rows_bound,
        "bound_kind": "rows",
        "status": "completed",
        "iterations": 1,
        "setup_time": 0.0,
        "runtime": time,
        "trace": ((0.0, problem.baseline), (time, score)),
    }
    return Record(task=task, outcome="ok", reason=None, answer=Answer(**{**fields, **changes}))


def failure(task: Task, outcome: str = "failed", reason: str = "it broke") -> Record:
    """Return the record of a run without an answer."""
    return Record.model_validate({"task": task, "outcome": outcome, "reason": reason, "answer": None})
