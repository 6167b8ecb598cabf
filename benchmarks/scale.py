"""Problems of the size of language models: the gain kernel, search quality, memory, a 7B model; a scaling plot.

Run ``python benchmarks/scale.py [--only kernel search tall model growth] [--full]``. Every search runs in a process of
its own, whose peak memory is read at the end. References (RIA's allocation and assignments to convergence) take many
minutes on wide matrices; they are kept in the results file and computed only where it lacks them. ``--full`` also
runs the long rows (5 and 10 minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import RESULTS, Row, record

OUT = RESULTS / "scale.json"
#: Rows of the memory-mapped matrix made at a time.
CHUNK = 2048


def synthetic(rows: int, cols: int, seed: int = 0) -> Any:
    """Return the absolute values of normal entries times lognormal column and row scales (sigma 0.5), float32."""
    stream = np.random.default_rng(seed)
    matrix = stream.standard_normal((rows, cols))
    matrix *= np.exp(0.5 * stream.standard_normal(cols))
    matrix *= np.exp(0.5 * stream.standard_normal((rows, 1)))
    return np.abs(matrix).astype(np.float32)


def mapped(path: Path, rows: int, cols: int) -> None:
    """Write such a matrix as float16, a few rows at a time."""
    stream = np.random.default_rng(0)
    columns = np.exp(0.5 * stream.standard_normal(cols))
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, cols))
    for start in range(0, rows, CHUNK):
        block = stream.standard_normal((CHUNK, cols)) * columns
        out[start : start + CHUNK] = block * np.exp(0.5 * stream.standard_normal((CHUNK, 1)))
    out.flush()


def converged_ria(problem: Any) -> tuple[Any, int]:
    """Run RIA's allocation and slot assignments until none of the slots changes anything.

    It is the method ``ria`` with our assignment in place of scipy's, which takes 15 to 20 s for each of the dozens of
    assignments over 2,752 groups.
    """
    from permsolve.kernels.lap import assign
    from permsolve.kernels.slots import make_block, make_stretch, slot_gains
    from permsolve.search.start import allocate

    n, m = problem.pattern.n, problem.pattern.m
    members = allocate(problem).reshape(-1, m)
    groups, halt = np.arange(problem.groups), np.zeros(1, dtype=np.bool_)
    block, stretch = make_block(problem.groups), make_stretch(problem.groups, n)
    prices = np.zeros((m, problem.groups), dtype=np.float32)
    steps, idle, slot = 0, 0, 0
    while idle < m:
        block.slots[:] = slot
        block.names[:] = members[:, slot]
        slot_gains(stretch, block, problem.packed, members, groups, 0, problem.groups, n, m, False, halt)
        np.negative(block.gain, out=block.cost)
        block.assignment.prices[:] = prices[slot] if steps >= m else block.cost.mean(axis=0)
        assign(block.cost, problem.groups, block.assignment, True)
        chosen = block.assignment.column
        better = block.gain[groups, chosen].sum(dtype=np.float64) > np.trace(block.gain, dtype=np.float64) * (1 + 1e-6)
        if better:
            members[:, slot] = block.names[chosen]
            prices[slot] = block.assignment.prices[chosen]
        idle = 0 if better else idle + 1
        steps, slot = steps + 1, (slot + 1) % m
    return members.ravel(), steps


# One search, in a process of its own.


def solve_one(task: Row) -> Row:
    """Solve what a task describes and say how it went."""
    import permsolve

    matrix = np.load(task["file"], mmap_mode="r") if "file" in task else synthetic(task["rows"], task["cols"])
    if task.get("converge"):
        return _converge(matrix)
    start = time.perf_counter()
    result = permsolve.solve(
        matrix,
        method=task.get("method", "auto"),
        options=task.get("options"),
        time_limit=task.get("seconds"),
        blocks=task.get("blocks"),
        n_jobs=task.get("n_jobs", 2),
    )
    wall = time.perf_counter() - start
    reached = [
        next((point.time for point in result.trace if point.score >= score), None) for score in task.get("targets", [])
    ]
    return {
        "efficacy": result.efficacy,
        "score": result.score,
        "baseline": result.baseline,
        "rows bound": result.rows_bound,
        "runtime, s": result.runtime,
        "wall, s": wall,
        "targets reached after, s": reached,
        "peak memory, GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "iterations": result.iterations,
    }


def _converge(matrix: Any) -> Row:
    import permsolve

    problem = permsolve.Problem.of(matrix)
    start = time.perf_counter()
    order, steps = converged_ria(problem)
    runtime, score = time.perf_counter() - start, problem.score(order)
    return {
        "efficacy": 100 * (score - problem.baseline) / (problem.rows_bound - problem.baseline),
        "score": score,
        "baseline": problem.baseline,
        "rows bound": problem.rows_bound,
        "runtime, s": runtime,
        "iterations": steps,
    }


def apart(task: Row) -> Row:
    """Run `solve_one` in a fresh process."""
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: Row = json.loads(done.stdout.splitlines()[-1])
    return answer


def reference(name: str, task: Row) -> Row:
    """Return a reference run, from the results file where it is known."""
    known = json.loads(OUT.read_text()).get("references", {}).get("rows", []) if OUT.exists() else []
    for row in known:
        if row["reference"] == name:
            return dict(row)
    row = {"reference": name, **apart(task)}
    record(OUT, "references", [*known, row])
    return row


# Sections.


def kernel() -> list[Row]:
    """Measure terms per second of the gain kernel beside the same core's vector peak, on one and on two cores."""
    from concurrent.futures import ThreadPoolExecutor

    from permsolve._arrays import aligned
    from permsolve.kernels._jit import compiled
    from permsolve.kernels.gain import gain_matrix
    from permsolve.kernels.groups import State
    from permsolve.kernels.vector import LANES, peak_chains

    @compiled
    def peak(length: int) -> float:
        return peak_chains(length)  # type: ignore[no-any-return]

    cols = rows = 4096
    stream = np.random.default_rng(0)
    saliency, thresholds = aligned((cols, rows)), aligned((cols, rows))
    saliency[:], thresholds[:] = (stream.random((cols, rows), dtype=np.float32) for _ in range(2))
    state = State(saliency, thresholds, np.empty(0, dtype=np.float32), np.empty((0, 0), dtype=np.float32))
    everything, length = np.arange(cols), 20_000_000
    out = np.empty((cols, cols), dtype=np.float32)
    peak(1)
    gain_matrix(lambda f, items: [f(x) for x in items], 1, state, everything[:64], everything[:64], out[:64, :64])
    found = []
    for jobs in (1, 2):
        with ThreadPoolExecutor(jobs) as pool:

            def apply(function: Any, items: Any, pool: ThreadPoolExecutor = pool) -> list[Any]:
                return list(pool.map(function, items))

            pairs = []
            for _ in range(5):
                start = time.perf_counter()
                gain_matrix(apply, jobs, state, everything, everything, out)
                middle = time.perf_counter()
                list(pool.map(peak, [length] * jobs))
                end = time.perf_counter()
                pairs.append((cols * cols * rows / (middle - start), jobs * length * 16 * LANES / (end - middle)))
        found.append(
            {
                "case": f"gain kernel {cols} columns x {rows} rows, {jobs} core{'s' * (jobs > 1)}",
                "billion terms/s": median(a for a, _ in pairs) / 1e9,
                "vector peak": median(b for _, b in pairs) / 1e9,
                "share of the peak, %": 100 * median(a / b for a, b in pairs),
                "goal, %": 60,
            }
        )
    return found


#: Rows, columns, seconds, efficacy asked for or points above RIA's converged result.
SEARCHES: list[tuple[int, int, float, float | None, float | None]] = [
    (2048, 2048, 15, 34.5, None),
    (2048, 2048, 60, 35.5, None),
    (4096, 4096, 60, None, 0.0),
    (4096, 4096, 300, None, 1.0),
    (11008, 4096, 120, None, 0.0),
    (11008, 4096, 600, None, 1.0),
    (4096, 11008, 120, None, 0.0),
    (4096, 11008, 600, None, 1.0),
]


def search(full: bool) -> list[Row]:
    """Compare what `auto` finds in the time given, on two cores, with what RIA converges to."""
    found = []
    for rows, cols, seconds, goal, above in SEARCHES:
        if seconds > 120 and not full:
            continue
        name, size = f"RIA to convergence, {rows} x {cols}", {"rows": rows, "cols": cols}
        if cols <= 4096:
            converged = reference(name, {**size, "method": "ria", "options": {"sweeps": 100}, "n_jobs": 1})
        else:
            converged = reference(f"{name}, our assignment code", {**size, "converge": True})
        target = goal if above is None else converged["efficacy"] + above
        room = converged["rows bound"] - converged["baseline"]
        points = (target, converged["efficacy"] + 1)
        scores = [converged["baseline"] + point / 100 * room for point in points]
        run = apart({"rows": rows, "cols": cols, "seconds": seconds, "targets": scores})
        found.append(
            {
                "case": f"{rows} rows x {cols} columns, {seconds} s",
                "RIA converged": converged["efficacy"],
                "it took, s": converged["runtime, s"],
                "goal": target,
                "efficacy": run["efficacy"],
                "goal reached after, s": run["targets reached after, s"][0],
                "RIA + 1 reached after, s": run["targets reached after, s"][1],
                "peak memory, GB": run["peak memory, GB"],
            }
        )
    return found


def tall(folder: Path) -> list[Row]:
    """Solve 65,536 rows x 4,096 columns from a float16 memory-map of 512 MB."""
    rows, cols = 65536, 4096
    file = folder / "tall.npy"
    mapped(file, rows, cols)
    sweep = reference(f"RIA, one sweep, {rows} x {cols}", {"file": str(file), "method": "ria"})
    run = apart({"file": str(file), "seconds": 200, "targets": [sweep["score"]]})
    return [
        {
            "case": f"{rows} rows x {cols} columns, float16 memory-map",
            "RIA, one sweep": sweep["efficacy"],
            "efficacy": run["efficacy"],
            "goal reached after, s": run["targets reached after, s"][0],
            "whole call, s": run["wall, s"],
            "peak memory, GB": run["peak memory, GB"],
            "goal": "RIA's in 300 s, 2 GB",
        }
    ]


#: Problems of a layer of a 7B model: rows, columns, blocks.
LAYER: dict[str, tuple[int, int, list[int] | None]] = {
    "o, by heads": (4096, 4096, [128] * 32),
    "down": (4096, 11008, None),
    "gate and up": (22016, 4096, None),
    "q, k and v": (12288, 4096, None),
}


def model(seconds: float) -> list[Row]:
    """Solve two layers of a 7B-shaped model through `solve_many`, two workers; the other 30 by proportion."""
    import permsolve

    names = {f"layer {k}, {name}": (k, *shape) for k in range(2) for name, shape in LAYER.items()}

    def make(layer: int, rows: int, cols: int, blocks: list[int] | None) -> Any:
        return permsolve.Problem.of(synthetic(rows, cols, seed=layer), blocks=blocks)

    jobs = {
        name: permsolve.Job(lambda spec=spec: make(*spec), rows=spec[1], cols=spec[2]) for name, spec in names.items()
    }
    start = time.perf_counter()
    solved = permsolve.solve_many(jobs, time_limit=seconds, n_jobs=2)
    wall = time.perf_counter() - start
    solved.raise_failures()
    found = [
        {"case": name, "efficacy": result.efficacy, "runtime, s": result.runtime, "whole plan, hours": None}
        for name, result in solved.items()
    ]
    found.append(
        {
            "case": "two layers; 32 by proportion",
            "efficacy": None,
            "runtime, s": wall,
            "whole plan, hours": 16 * wall / 3600,
        }
    )
    return found


def growth(picture: Path) -> list[Row]:
    """Time a round of assignments against columns and rows, beside the model ``groups * block * rows / speed``."""
    import permsolve
    from permsolve.run import Run
    from permsolve.search.deals import Deals

    found = []
    sizes = [(1024, cols) for cols in (256, 512, 1024, 2048, 4096, 8192)]
    sizes += [(rows, 1024) for rows in (256, 512, 2048, 4096, 8192, 16384)]
    for rows, cols in sizes:
        problem = permsolve.Problem.of(synthetic(rows, cols))
        run = Run(problem, stop=None, rng=np.random.default_rng(0), n_jobs=1)
        deals = Deals(problem, run, np.arange(cols), 512)
        for _ in range(10):
            deals.round(0.0)
        times = []
        for _ in range(9):
            start = time.perf_counter()
            deals.round(0.0)
            times.append(time.perf_counter() - start)
        terms = problem.groups * min(512, problem.groups) * rows
        found.append({"rows": rows, "columns": cols, "round, ms": 1e3 * median(times), "million terms": terms / 1e6})
    _plot(found, picture)
    return found


def _plot(rows: list[Row], picture: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    speed = median(row["million terms"] / row["round, ms"] for row in rows)
    for k, (key, other, name) in enumerate(
        (("columns", "rows", "columns, 1024 rows"), ("rows", "columns", "rows, 1024 columns"))
    ):
        axes = figure.add_subplot(1, 2, k + 1)
        chosen = sorted((row for row in rows if row[other] == 1024), key=lambda row: row[key])
        x = [row[key] for row in chosen]
        axes.loglog(x, [row["round, ms"] for row in chosen], "o", label="measured")
        axes.loglog(x, [row["million terms"] / speed for row in chosen], "-", label=f"terms at {speed:.1f} billion/s")
        axes.set_xticks(x, labels=[str(size) for size in x], rotation=45)
        axes.minorticks_off()
        axes.set_xlabel(name)
        axes.set_ylabel("a round on one core, ms")
        axes.grid(True, which="both", alpha=0.3)
        axes.legend()
    figure.suptitle("One round of assignments: every group refills a slot, in blocks of up to 512 groups")
    figure.savefig(picture, dpi=110)


def main() -> None:
    """Run the sections and write the results."""
    sections = ("kernel", "growth", "search", "tall", "model")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--full", action="store_true", help="also the rows of 5 and 10 minutes")
    parser.add_argument("--model-seconds", type=float, default=60.0, help="time for each matrix of the 7B set")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        print(json.dumps(solve_one(json.loads(options.task))))
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        work = {
            "kernel": kernel,
            "growth": lambda: growth(RESULTS / "scale.png"),
            "search": lambda: search(options.full),
            "tall": lambda: tall(Path(folder)),
            "model": lambda: model(options.model_seconds),
        }
        for section in options.only:
            record(OUT, section, work[section]())


if __name__ == "__main__":
    main()
