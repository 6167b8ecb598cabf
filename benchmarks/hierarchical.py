"""HiNM, V:N:M and transposable patterns: what permuting rows and columns keeps, against the published methods.

Run ``python benchmarks/hierarchical.py [--only hinm vnm transposable wide] [--threads 2]``. Figures are shares of the
magnitude kept, mean over three seeds unless said; run times are the solver's, compilation excluded.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Row, record

OUT = RESULTS / "hierarchical.json"
SEEDS = (0, 1, 2)
#: Seconds that our own search is given.
TIMES = (2.0, 5.0, 15.0)


def normal(seed: int, rows: int = 256, cols: int = 256) -> Any:
    """Return absolute values of normal entries: the matrices of the published reference figures."""
    return np.abs(np.random.default_rng(seed).standard_normal((rows, cols)))


def planted(seed: int, vector: int) -> Any:
    """Return a matrix whose rows fall into clusters of a tile's size, each with column scales of its own, shuffled."""
    stream = np.random.default_rng(seed)
    matrix = np.abs(stream.standard_normal((256, 256)))
    scales = np.exp(stream.standard_normal((256 // vector, 256)))
    matrix *= np.repeat(scales, vector, axis=0)
    return matrix[stream.permutation(256)]


def share(matrix: Any, pattern: Any, method: str, threads: int, **more: Any) -> tuple[float, float]:
    """Solve, check the result, and return the share kept and the seconds taken."""
    import permsolve

    result = permsolve.solve(matrix, pattern, method=method, n_jobs=threads, display=False, **more)
    faults = result.check(matrix)
    if faults:
        raise SystemExit(f"{method} on {pattern}: {faults}")
    return result.score / float(matrix.sum(dtype=np.float64)), result.runtime


def means(matrices: list[Any], pattern: Any, method: str, threads: int, **more: Any) -> tuple[float, float]:
    """Return mean share and mean seconds over matrices."""
    pairs = [share(matrix, pattern, method, threads, **more) for matrix in matrices]
    kept, seconds = np.mean(pairs, axis=0)
    return float(kept), float(seconds)


def hinm(threads: int) -> list[Row]:
    """Compare with gyro-permutation on the matrices of its reference figures."""
    cases = [
        ("normal", "hinm(32, 0.5, 2:4)", [normal(seed) for seed in SEEDS]),
        ("normal", "hinm(64, 0.5, 2:4)", [normal(seed) for seed in SEEDS]),
        ("normal", "hinm(32, 0.75, 2:4)", [normal(seed) for seed in SEEDS]),
        ("planted clusters", "hinm(32, 0.5, 2:4)", [planted(seed, 32) for seed in SEEDS]),
        ("planted clusters", "hinm(64, 0.5, 2:4)", [planted(seed, 64) for seed in SEEDS]),
    ]
    rows = []
    for name, pattern, matrices in cases:
        gyro, gyro_seconds = means(matrices, pattern, "gyro", threads)
        row: Row = {
            "256x256": name,
            "pattern": pattern,
            "identity": round(means(matrices, pattern, "identity", threads)[0], 4),
            "gyro": round(gyro, 4),
            "gyro, s": round(gyro_seconds, 2),
        }
        for seconds in TIMES:
            kept = means(matrices, pattern, "auto", threads, time_limit=seconds)[0]
            row[f"auto, {seconds:g} s"] = round(kept, 4)
        rows.append(row)
    return rows


def vnm(threads: int) -> list[Row]:
    """Compare column choices without permutation, assignments in turn, and annealing."""
    rows = []
    for pattern in ("16:2:8", "64:2:8", "64:2:16", "64:2:4"):
        matrices = [normal(seed) for seed in SEEDS]
        still = {"rows": False, "columns": False}
        alternating, seconds_taken = means(matrices, pattern, "alternating", threads)
        row: Row = {
            "256x256": "normal",
            "pattern": pattern,
            "L1, seed 0": round(share(matrices[0], pattern, "identity", threads)[0], 4),
            "exhaustive, seed 0": round(
                share(matrices[0], pattern, "alternating", threads, options={**still, "choice": "exhaustive"})[0], 4
            ),
            "L1": round(means(matrices, pattern, "identity", threads)[0], 4),
            "alternating": round(alternating, 4),
            "alternating, s": round(seconds_taken, 2),
        }
        for seconds in TIMES:
            kept = means(matrices, pattern, "auto", threads, time_limit=seconds)[0]
            row[f"auto, {seconds:g} s"] = round(kept, 4)
        if pattern.endswith(":4"):
            row["plain 2:4, auto, 15 s"] = round(means(matrices, "2:4", "auto", threads, time_limit=15.0)[0], 4)
        rows.append(row)
    return rows


def transposable(threads: int) -> list[Row]:
    """Show what permuting both sides adds to the exact masks of the blocks."""
    import permsolve

    rows = []
    for pattern in ("transposable(2:4)", "transposable(1:4)", "transposable(4:8)", "transposable(8:16)"):
        matrices = [normal(seed) for seed in SEEDS]
        problems = [permsolve.Problem.of(matrix, pattern) for matrix in matrices]
        bounds = [problem.rows_bound / matrix.sum() for problem, matrix in zip(problems, matrices, strict=True)]
        row: Row = {
            "256x256": "normal",
            "pattern": pattern,
            "identity": round(means(matrices, pattern, "identity", threads)[0], 4),
        }
        for seconds in TIMES:
            row[f"auto, {seconds:g} s"] = round(means(matrices, pattern, "auto", threads, time_limit=seconds)[0], 4)
        rows.append({**row, "rows bound": round(float(np.mean(bounds)), 4)})
    return rows


def wide(threads: int) -> list[Row]:
    """Compare on 4,096 x 4,096, one seed."""
    matrix, pattern = normal(0, 4096, 4096).astype(np.float32), "hinm(64, 0.5, 2:4)"
    rows = []
    for method, more in (
        ("identity", {}),
        ("gyro", {"time_limit": 300.0}),
        ("auto", {"time_limit": 60.0}),
        ("auto", {"time_limit": 300.0}),
    ):
        kept, seconds = share(matrix, pattern, method, threads, **more)
        rows.append({"4096x4096": "normal", "pattern": pattern, "method": method, "kept": kept, "s": round(seconds, 1)})
    return rows


SECTIONS = {"hinm": hinm, "vnm": vnm, "transposable": transposable, "wide": wide}


def main() -> None:
    """Run the sections asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    for name in chosen.only:
        record(chosen.out, name, SECTIONS[name](chosen.threads))


if __name__ == "__main__":
    main()
