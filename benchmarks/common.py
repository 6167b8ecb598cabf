"""What the benchmarks share: the machine, tables, results as JSON."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import permsolve
from permsolve.io import write_atomically

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


def record(out: Path, name: str, rows: list[Row]) -> None:
    """Print the table of a section and merge it into a file of results."""
    show(name, rows)
    report = json.loads(out.read_text()) if out.exists() else {}
    report[name] = {"machine": machine(), "rows": rows}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, (json.dumps(report, indent=1) + "\n").encode())


def machine() -> Row:
    """Describe the machine and the versions."""
    import numba
    import scipy

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "numba": numba.__version__,
        "permsolve": permsolve.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def show(title: str, rows: list[Row]) -> None:
    """Print a table."""
    print(f"\n## {title}")
    if rows:
        print("| " + " | ".join(rows[0]) + " |\n| " + " | ".join("---" for _ in rows[0]) + " |")
    for row in rows:
        print(
            "| " + " | ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()) + " |", flush=True
        )
