"""The figures of the solver core: prints the tables that the README quotes and writes them as JSON with the machine.

Run it on a quiet machine: ``python benchmarks/core.py [--matrices FOLDER] [--only SECTION ...]``. Solves on one core
use one thread; set NUMBA_NUM_THREADS=1 and pin the process (``taskset -c 0``) for everything but the section on real
matrices. Times are the solver's own run time: compilation is apart. Sections:

faithful    the published greedy methods against their published figures, and against the peer's CPU path
synthetic   efficacy of `auto` under a time limit on seeded uniform matrices, one core
optimal     25 small matrices with known optima, 0.1 s each, one core
speed       annealing proposals per second over the default schedule, and terms per second of the gain matrix, one core
cold        import and command-line start, and the first solve with an empty cache of compiled code
real        efficacy of `auto` in 10 s of all cores on a folder of matrices with an index.json of reference figures
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from common import RESULTS, Row, record

import permsolve
from permsolve.instances import generators

SEEDS = range(5)


def synthetic() -> list[Row]:
    """Efficacy under time limits, median over seeds 0..4."""
    goals = [
        (128, 64, 0.05, 37.7),
        (128, 64, 1.0, 39.0),
        (128, 64, 5.0, 39.25),
        (64, 128, 1.0, 56.7),
        (64, 128, 10.0, 57.9),
    ]
    rows = []
    for height, width, limit, goal in goals:
        matrix = generators.uniform(height, width, seed=1)
        runs = [permsolve.solve(matrix, time_limit=limit, seed=seed, n_jobs=1) for seed in SEEDS]
        rows.append(
            {
                "matrix": f"uniform {height}x{width}, seed 1",
                "seconds": limit,
                "goal": goal,
                "median": median(run.efficacy for run in runs),
                "worst": min(run.efficacy for run in runs),
                "best": max(run.efficacy for run in runs),
                "runtime": median(run.runtime for run in runs),
            }
        )
    return rows


def optimal() -> list[Row]:
    """25 matrices of 32x16: the mean of the proved optima is 56.87."""
    per_seed = []
    for seed in SEEDS:
        runs = [
            permsolve.solve(generators.uniform(32, 16, seed=k), time_limit=0.1, seed=seed, n_jobs=1) for k in range(25)
        ]
        per_seed.append((float(np.mean([run.efficacy for run in runs])), [run.score for run in runs]))
    optima = [_optimum(generators.uniform(32, 16, seed=k)) for k in range(25)]
    found = [
        sum(score >= best * (1 - 1e-12) for score, best in zip(scores, optima, strict=True)) for _, scores in per_seed
    ]
    return [
        {
            "matrices": 25,
            "goal": 56.87,
            "mean efficacy": median(mean for mean, _ in per_seed),
            "optima found, by seed": found,
        }
    ]


def _optimum(matrix: np.ndarray) -> float:
    """Return the best score of a 2:4 problem of 16 columns, by dynamic programming over subsets."""
    import itertools

    cols = matrix.shape[1]
    values = {}
    for group in itertools.combinations(range(cols), 4):
        values[sum(1 << c for c in group)] = float(np.sort(matrix[:, group], axis=1)[:, 2:].sum())
    best = {0: 0.0}
    for _ in range(cols // 4):
        grown: dict[int, float] = {}
        for used, score in best.items():
            low = 1 << next(c for c in range(cols) if not used >> c & 1)
            for group, value in values.items():
                if group & low and not group & used:
                    grown[used | group] = max(grown.get(used | group, 0.0), score + value)
        best = grown
    return best[(1 << cols) - 1]


def faithful() -> list[Row]:
    """Run the published greedy methods; the peer's times are those of its CPU path on a machine of this kind."""
    cases: list[tuple[str, dict[str, int], tuple[int, int], float, float | None]] = [
        ("channel_swap", {"escapes": 0}, (128, 64), 32.10, 16.7),
        ("stripe_groups", {"groups": 2, "escapes": 0}, (128, 64), 35.47, 18.4),
        ("stripe_groups", {"groups": 3, "escapes": 0}, (128, 64), 36.62, None),
        ("channel_swap", {"escapes": 100}, (128, 64), 32.5, 134.0),
        ("stripe_groups", {"groups": 2, "escapes": 100}, (128, 64), 35.5, 139.0),
        ("channel_swap", {"escapes": 0}, (64, 32), 50.89, None),
        ("channel_swap", {"escapes": 0}, (128, 128), 35.75, 62.0),
        ("stripe_groups", {"groups": 2, "escapes": 0}, (128, 128), 35.45, None),
    ]
    rows = []
    for method, options, (height, width), published, peer in cases:
        matrix = generators.uniform(height, width, seed=1)
        runs = [permsolve.solve(matrix, method=method, options=options, seed=seed, n_jobs=1) for seed in SEEDS]
        runtime = median(run.runtime for run in runs)
        rows.append(
            {
                "method": f"{method} {options}",
                "matrix": f"uniform {height}x{width}, seed 1",
                "published": published,
                "median": median(run.efficacy for run in runs),
                "runtime": runtime,
                "peer on a CPU, s": peer,
                "times faster": None if peer is None else peer / runtime,
            }
        )
    return rows


def speed() -> list[Row]:
    """Proposals per second of annealing, and terms per second of the gain matrix."""
    from permsolve.kernels.gain import gain_block
    from permsolve.kernels.groups import make_state, refresh_all

    matrix = generators.uniform(128, 64, seed=1)
    runs = [permsolve.solve(matrix, method="annealing", seed=seed, n_jobs=1) for seed in SEEDS]
    rate = median(run.iterations / run.runtime for run in runs)
    rows = [
        {"figure": "annealing, default schedule, 128x64: million proposals/s", "goal": 20.0, "measured": rate / 1e6}
    ]
    for cols, height in ((64, 128), (512, 512), (512, 2048)):
        problem = permsolve.Problem.of(generators.uniform(height, cols, seed=1))
        state = make_state(problem.packed, 2)
        everything = np.arange(cols)
        refresh_all(state, everything, 4, 2)
        out = np.empty((cols, cols), dtype=np.float32)
        times = []
        for _ in range(11):
            start = time.perf_counter()
            gain_block(state, everything, everything, out)
            times.append(time.perf_counter() - start)
        terms = cols * cols * height / median(times) / 1e9
        rows.append(
            {"figure": f"gain matrix {cols}x{cols}, {height} rows: billion terms/s", "goal": None, "measured": terms}
        )
    return rows


def cold() -> list[Row]:
    """Time what a user waits for: import, a process of the command line, the first solve ever."""

    def seconds(command: list[str], **environment: str) -> float:
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env={**os.environ, **environment})
        return time.perf_counter() - start

    python = sys.executable
    pairs = [
        (seconds([python, "-c", "import numpy, permsolve"]), seconds([python, "-c", "import numpy"])) for _ in range(15)
    ]
    rows = [
        {
            "figure": "import permsolve above import numpy, ms",
            "goal": 60.0,
            "measured": 1e3 * median(both - numpy for both, numpy in pairs),
        }
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "matrix.npy")
        np.save(file, generators.uniform(128, 64, seed=1))
        command = [python, "-m", "permsolve", "solve", file, "--quiet", "--json", str(Path(folder) / "out.json")]
        rows.append(
            {
                "figure": "first solve with nothing compiled, 64 columns, s",
                "goal": 30.0,
                "measured": seconds(command, NUMBA_CACHE_DIR=str(Path(folder) / "cache")),
            }
        )
        seconds(command)
        rows.append(
            {
                "figure": "permsolve solve of 64 columns, whole process, s",
                "goal": 2.0,
                "measured": median(seconds(command) for _ in range(5)),
            }
        )
    return rows


def real(folder: Path) -> list[Row]:
    """Efficacy in 10 s of all cores on real matrices; the reference took 30 s of one core."""
    rows = []
    for entry in json.loads((folder / "index.json").read_text()):
        matrix = np.load(folder / entry["file"])
        runs = [permsolve.solve(matrix, time_limit=10, seed=seed) for seed in SEEDS]
        rows.append(
            {
                "matrix": entry["name"],
                "shape": "x".join(map(str, matrix.shape)),
                "goal": entry["reference_efficacy_2_4_one_core_30s"],
                "median": median(run.efficacy for run in runs),
                "worst": min(run.efficacy for run in runs),
                "best": max(run.efficacy for run in runs),
                "runtime": median(run.runtime for run in runs),
            }
        )
    return rows


def main() -> None:
    """Run the sections asked for, print them, and merge them into benchmarks/results/core.json."""
    sections = {"faithful": faithful, "synthetic": synthetic, "optimal": optimal, "speed": speed, "cold": cold}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--matrices", type=Path, help="folder of .npy files with an index.json; without it, no section real"
    )
    parser.add_argument("--only", nargs="+", choices=[*sections, "real"], help="only these sections")
    parser.add_argument("--out", type=Path, default=RESULTS / "core.json")
    arguments = parser.parse_args()
    chosen = arguments.only or [*sections, *(["real"] if arguments.matrices else [])]
    for name in chosen:
        if name == "real":
            if arguments.matrices is None or not (arguments.matrices / "index.json").is_file():
                parser.error("section real needs --matrices FOLDER with an index.json")
            rows = real(arguments.matrices)
        else:
            rows = sections[name]()
        record(arguments.out, name, rows)


if __name__ == "__main__":
    main()
