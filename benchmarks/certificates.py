"""Proved optima and bounds: prints what is proved in what time, and writes it as JSON with the machine.

``python benchmarks/certificates.py [--matrices FOLDER] [--only SECTION ...]``, on a quiet machine. Times are wall time
of the call, everything compiled. Sections:

optima     small and middle sizes solved to proved optimality, all cores
bounds     LP bounds, narrow and wide, and what they cost, all cores
search     `auto` and `lns` on 64 x 128 and 128 x 128, one core, against the proved optimum
matching   keep 1 of 2, 1,024 columns, all cores
real       matrices of a folder with an index.json: optima up to 64 columns, bounds and best scores of two wide ones
moonshot   the proof of optimality of 64 x 128, all cores; minutes
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import RESULTS, Row, record

import permsolve
from permsolve.instances import generators
from permsolve.scoring import efficacy


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """Return an answer and the seconds it took."""
    start = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - start


def bound_efficacy(result: permsolve.Result) -> float:
    """Return the efficacy that a result's bound stands for."""
    return efficacy(result.bound, result.baseline, result.rows_bound)


def exact(name: str, matrices: list[Any], goal: str, nm: object = "2:4", limit: float = 900.0) -> Row:
    """Solve matrices to proved optimality."""
    permsolve.solve(matrices[0], nm, method="exact", time_limit=0.01)  # compile
    runs = [timed(lambda m=m: permsolve.solve(m, nm, method="exact", time_limit=limit)) for m in matrices]
    return {
        "case": name,
        "goal": goal,
        "proved": f"{sum(run.status is permsolve.Status.OPTIMAL for run, _ in runs)} of {len(runs)}",
        "median s": median(seconds for _, seconds in runs),
        "worst s": max(seconds for _, seconds in runs),
        "efficacy": median(run.efficacy for run, _ in runs),
        "bound": median(bound_efficacy(run) for run, _ in runs),
    }


def optima() -> list[Row]:
    """Prove optima of uniform matrices."""
    uniform = generators.uniform
    return [
        exact("25 x 32x16, seeds 0..24", [uniform(32, 16, seed=k) for k in range(25)], "all, <= 20 ms each"),
        exact("64x32, seed 1", [uniform(64, 32, seed=1)], "<= 1 s"),
        exact("128x64, seeds 0..9", [uniform(128, 64, seed=k) for k in range(10)], "median <= 5 s, none over 60 s"),
    ]


def bounded(name: str, matrix: Any, goal: str, limit: float | None = None, nm: object = "2:4") -> Row:
    """Prove an LP bound."""
    permsolve.bound(matrix, nm, time_limit=0.01)  # compile
    answer, seconds = timed(lambda: permsolve.bound(matrix, nm, time_limit=limit))
    return {
        "case": name,
        "goal": goal,
        "bound, efficacy": answer.efficacy,
        "kind": answer.kind,
        "seconds": seconds,
        "rows bound": answer.rows_bound,
        "bound": answer.value,
    }


def bounds() -> list[Row]:
    """Prove LP bounds of uniform matrices."""
    uniform = generators.uniform
    return [
        bounded("128x64, seed 1", uniform(128, 64, seed=1), "39.720 in <= 0.2 s"),
        bounded("64x128, seed 1", uniform(64, 128, seed=1), "59.495 in <= 2 s"),
        bounded("128x128, seed 1", uniform(128, 128, seed=1), "43.134 in <= 5 s"),
        bounded("16x1024, seed 1", uniform(16, 1024, seed=1), "below the rows bound (100)", 120),
    ]


def search() -> list[Row]:
    """Search for 10 s on one core."""
    rows = []
    for shape, goal in (((64, 128), "58.3"), ((128, 128), "42.3 (best known)")):
        matrix = generators.uniform(*shape, seed=1)
        for method in ("auto", "lns"):
            permsolve.solve(matrix, method=method, time_limit=0.01, n_jobs=1)
            runs = [permsolve.solve(matrix, method=method, time_limit=10, seed=k, n_jobs=1) for k in range(5)]
            found = [run.efficacy for run in runs]
            rows.append(
                {
                    "case": f"{shape[0]}x{shape[1]}, {method}, 10 s",
                    "goal": goal,
                    "median": median(found),
                    "worst": min(found),
                    "best": max(found),
                }
            )
    return rows


def matching() -> list[Row]:
    """Solve keep 1 of 2 by matching."""
    return [exact("1:2, 256x1024, seed 1", [generators.uniform(256, 1024, seed=1)], "<= 20 s", "1:2")]


def moonshot() -> list[Row]:
    """Prove the optimum of 64 x 128."""
    return [exact("64x128, seed 1", [generators.uniform(64, 128, seed=1)], "best known >= 59.085; proof open")]


def real(folder: Path) -> list[Row]:
    """Prove optima of narrow real matrices, bounds of two wide ones."""
    rows = []
    index = {entry["name"]: entry for entry in json.loads((folder / "index.json").read_text())}
    for name, entry in index.items():
        matrix = np.load(folder / entry["file"])
        if matrix.shape[1] <= 64:
            rows.append(exact(name, [matrix], "proved in <= 30 s", limit=60))
    for name, limit, goal in (
        ("squeezenet11_fire9_squeeze1x1", 30, 79.0),
        ("mlperftiny_ad_autoencoder_dense0", 120, 80.7),
    ):
        if name not in index:
            continue
        matrix = np.load(folder / index[name]["file"])
        row = bounded(name, matrix, f"<= {goal} in {limit} s", limit)
        best = permsolve.solve(matrix, time_limit=60)
        rows.append(
            {
                "case": name,
                "goal": row["goal"],
                "proved": f"bound {row['bound, efficacy']:.3f}",
                "median s": row["seconds"],
                "worst s": row["seconds"],
                "efficacy": best.efficacy,
                "bound": row["bound, efficacy"],
            }
        )
    return rows


def main() -> None:
    """Run the sections asked for."""
    sections = {"optima": optima, "bounds": bounds, "search": search, "matching": matching, "moonshot": moonshot}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--matrices", type=Path, help="folder of .npy files with an index.json, for the section real")
    parser.add_argument("--only", nargs="+", choices=[*sections, "real"], help="only these sections")
    parser.add_argument("--out", type=Path, default=RESULTS / "certificates.json")
    arguments = parser.parse_args()
    for name in arguments.only or [*sections, *(["real"] if arguments.matrices else [])]:
        if name == "real":
            if arguments.matrices is None or not (arguments.matrices / "index.json").is_file():
                parser.error("section real needs --matrices FOLDER with an index.json")
            record(arguments.out, name, real(arguments.matrices))
        else:
            record(arguments.out, name, sections[name]())


if __name__ == "__main__":
    main()
