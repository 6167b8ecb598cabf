"""The report of a bench as tables for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from permsolve.bench.groups import ALL


def overall(report: Mapping[str, Any], limit: float, kind: str = "nm") -> Table:
    """Make the table of all methods over all instances of a kind of pattern at one time limit.

    Parameters
    ----------
    report
        The report.
    limit
        The time limit.
    kind
        The kind of pattern.

    Returns
    -------
    rich.table.Table
        One row per method, the best first.
    """
    target = report["definitions"]["target"]
    group = next(group for group in _groups(report, limit, kind) if group["class"] == ALL)
    table = Table()
    table.add_column("method")
    for heading in ("instances", "gap %", "worst %", "to bound %", "efficacy %", "integral %", "best", "proved"):
        table.add_column(heading, justify="right")
    table.add_column(f"s to {target:g} %", justify="right")
    for row in group["methods"]:
        table.add_row(
            row["method"],
            f"{row['instances']}/{group['instances']}",
            f"{row['gap']:.4f}",
            f"{row['worst_gap']:.3f}",
            f"{row['bound_gap']:.3f}",
            f"{row['efficacy']:.2f}",
            f"{row['integral']:.3f}",
            str(row["wins"]),
            str(row["proved"]),
            f"{row['time_to_target']:.2f} ({row['reached']})",
        )
    return table


def by_size(report: Mapping[str, Any], limit: float, kind: str = "nm") -> Table:
    """Make the table of mean gaps by size class at one time limit.

    Parameters
    ----------
    report
        The report.
    limit
        The time limit.
    kind
        The kind of pattern.

    Returns
    -------
    rich.table.Table
        One row per method that searches such patterns, one column per size class; a star marks the method to take.
    """
    groups = [group for group in _groups(report, limit, kind) if group["class"] != ALL]
    about = limit, kind
    chosen = {
        choice["class"]: choice["method"] for choice in report["choices"] if (choice["limit"], choice["kind"]) == about
    }
    table = Table()
    table.add_column("method")
    for group in groups:
        table.add_column(f"{group['class']} ({group['instances']})", justify="right")
    for method in concerned(report, kind):
        texts = []
        for group in groups:
            row = next((row for row in group["methods"] if row["method"] == method), None)
            if row is None:
                texts.append("-")
                continue
            star = "*" if chosen.get(group["class"]) == method else " "
            partial = "" if row["complete"] else f" ({row['instances']})"
            texts.append(f"{row['gap']:.4f}{partial}{star}")
        table.add_row(method, *texts)
    return table


def concerned(report: Mapping[str, Any], kind: str) -> list[str]:
    """Return the methods that a table of one kind of pattern is about.

    Parameters
    ----------
    report
        The report.
    kind
        The kind of pattern.

    Returns
    -------
    list
        All but those that do not support a single instance of this kind.
    """
    names = {row["name"] for row in report["instances"] if row["kind"] == kind}
    refused: dict[str, set[str]] = defaultdict(set)
    for fault in report["faults"]:
        if fault["kind"] == "unsupported":
            refused[fault["method"]].add(fault["instance"])
    return [method for method in report["settings"]["methods"] if not names <= refused[method]]


def _groups(report: Mapping[str, Any], limit: float, kind: str) -> list[Mapping[str, Any]]:
    return [group for group in report["groups"] if (group["limit"], group["kind"]) == (limit, kind)]


def notes(report: Mapping[str, Any]) -> list[str]:
    """Say in words what the tables leave out.

    Parameters
    ----------
    report
        The report.

    Returns
    -------
    list
        Sentences: new best values, failed and unsupported runs, what is unfinished.
    """
    found = []
    missing = report["planned"] - report["finished"]
    if missing:
        found.append(f"unfinished: {missing} of {report['planned']} runs are missing; the same command goes on")
    better = [
        row["name"] for row in report["instances"] if row["stored_best"] is not None and row["best_by"] != "library"
    ]
    if better:
        found.append(f"better than the best known of the library: {', '.join(better)}")
    for kind, text in (
        ("failed", "failed runs"),
        ("unsupported", "not supported"),
        ("contradiction", "CONTRADICTIONS"),
    ):
        faults = [fault for fault in report["faults"] if fault["kind"] == kind]
        if faults:
            first = faults[0]
            example = f"{first['method'] or 'bound'} on {first['instance']}: {first['reason']}"
            runs = Counter(fault["method"] or "bound" for fault in faults)
            whose = ", ".join(f"{method} {count}" for method, count in runs.items()) if len(runs) > 1 else ""
            found.append(f"{text}: {len(faults)}{f' ({whose})' if whose else ''}, for example {example}")
    return found
