"""The report of a bench as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from permsolve.bench.records import KINDS, Source, solution_of
from permsolve.errors import MissingDependencyError
from permsolve.report import charts

#: Before/after maps shown at most.
MAPS = 4
_DPI = 80
#: Families of real weights.
_REAL = ("real", "files")

Row = dict[str, Any]


def check() -> None:
    """Find out before the work, not after it, that a page could not be made.

    Raises
    ------
    MissingDependencyError
        If jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(f"the HTML report needs {error.name}: pip install 'permsolve[plot]'") from error


def page(report: Mapping[str, Any]) -> str:
    """Make the page.

    Parameters
    ----------
    report
        The report, of schema ``permsolve.bench/2``.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    InputError
        If a matrix to draw is no longer the one that the bench was run on.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("permsolve.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "figure": _figure,
        "seconds": _seconds,
        "limit": "{:g}".format,
        "score": "{:.7g}".format,
        "when": _when,
    }
    settings = report["settings"]
    return environment.get_template("bench.html").render(
        report=report,
        settings=settings,
        colour={method: k for k, method in enumerate(settings["methods"])},
        parts=[_part(report, limit, kind) for limit in reversed(settings["limits"]) for kind in _kinds(report)],
        several=len(_kinds(report)) > 1,
        kinds=KINDS,
        choices=_choices(report),
        maps=_maps(report),
        instances=_instances(report),
        unsupported=_grouped(report, "unsupported"),
        faults=[fault for fault in report["faults"] if fault["kind"] != "unsupported"],
    )


def _kinds(report: Mapping[str, Any]) -> list[str]:
    """Return the kinds of patterns of the bench."""
    from permsolve.bench.groups import kinds

    return kinds(report["instances"])


def _part(report: Mapping[str, Any], limit: float, kind: str) -> Row:
    """Gather what the page says about one kind of pattern at one time limit."""
    from permsolve.bench.tables import concerned

    about = limit, kind
    groups = {group["class"]: group for group in report["groups"] if (group["limit"], group["kind"]) == about}
    curves = {curve["class"]: curve for curve in report["curves"] if (curve["limit"], curve["kind"]) == about}
    drawn = []
    for size, curve in curves.items():
        lines = {name: list(zip(curve["times"], gaps, strict=True)) for name, gaps in curve["methods"].items()}
        left_out = [row["method"] for row in groups[size]["methods"] if not row["complete"]]
        chart = charts.chart(lines, curve["times"][0], limit)
        drawn.append({"class": size, "instances": groups[size]["instances"], "left_out": left_out, "chart": chart})
    return {
        "limit": limit,
        "kind": kind,
        "overall": groups.get("all"),
        "sizes": _without_all(groups),
        "curves": drawn,
        "methods": concerned(report, kind),
    }


def _without_all(groups: Mapping[str, Row]) -> list[Row]:
    """List the groups of one size class each, with their rows by method too."""
    return [
        {**group, "by_method": {row["method"]: row for row in group["methods"]}}
        for size, group in groups.items()
        if size != "all"
    ]


def _choices(report: Mapping[str, Any]) -> list[Row]:
    """Return the methods to take: one row per kind of pattern and size class, one cell per limit (or None)."""
    cells = {(choice["kind"], choice["class"], choice["limit"]): choice for choice in report["choices"]}
    limits = report["settings"]["limits"]
    rows = []
    for kind in _kinds(report):
        sizes = list(dict.fromkeys(group["class"] for group in report["groups"] if group["kind"] == kind))
        sizes = [size for size in sizes if size != "all"] + ["all"] * ("all" in sizes)
        rows += [
            {"kind": kind, "class": size, "cells": [cells.get((kind, size, limit)) for limit in limits]}
            for size in sizes
        ]
    return rows


def _instances(report: Mapping[str, Any]) -> list[Row]:
    """Return the instances with each method's gap at the longest limit and their curves."""
    longest = report["settings"]["limits"][-1]
    gaps: dict[str, Row] = {}
    for cell in report["cells"]:
        if cell["limit"] == longest:
            gaps.setdefault(cell["instance"], {})[cell["method"]] = cell["gap"]
    rows = []
    for row in report["instances"]:
        lines = report["instance_curves"][row["name"]]
        chart = charts.chart(lines, min(1e-3, longest / 100), longest) if lines else None
        rows.append({**row, "gaps": gaps.get(row["name"], {}), "chart": chart})
    return rows


def _grouped(report: Mapping[str, Any], kind: str) -> list[Row]:
    """Return the faults of one kind, those of one method and reason together."""
    found: dict[tuple[str, str], set[str]] = {}
    for fault in report["faults"]:
        if fault["kind"] == kind:
            found.setdefault((fault["method"], fault["reason"]), set()).add(fault["instance"])
    return [
        {"method": method, "reason": reason, "instances": len(names), "example": min(names)}
        for (method, reason), names in found.items()
    ]


def _maps(report: Mapping[str, Any]) -> list[Row]:
    """Draw a few instances that gain much: of every family and kind of pattern the first before any other's second.

    Real weights come first.
    """
    gaining = sorted((row for row in report["instances"] if row["best"] > row["baseline"]), key=_gain, reverse=True)
    seen: Counter[tuple[str, str]] = Counter()
    ranked: list[tuple[int, bool, int, Row]] = []
    for row in gaining:
        about = row["family"], row["kind"]
        ranked.append((seen[about], row["family"] not in _REAL, len(ranked), row))
        seen[about] += 1
    chosen = [row for *_, row in sorted(ranked, key=lambda item: item[:3])[:MAPS]]
    return [{"name": row["name"], "gain": 100 * _gain(row), "png": _map(row)} for row in chosen]


def _gain(row: Row) -> float:
    return float((row["best"] - row["baseline"]) / row["baseline"]) if row["baseline"] > 0 else 0.0


def _map(row: Row) -> str:
    """Return a before/after map of the best known solution as a base64 PNG."""
    from permsolve import solve
    from permsolve.report import plots

    fields = {name: row[name] for name in Source.model_fields}
    problem = Source(**{**fields, "shape": tuple(row["shape"])}).problem()
    # The identity method keeps what it is given: this only wraps the solution in a result.
    initial = solution_of(problem, row["best_solution"])
    wrapped = solve(problem, method="identity", initial=initial, display=False)
    buffer = io.BytesIO()
    figure = plots.before_after(problem, replace(wrapped, method=row["best_by"]))
    figure.savefig(buffer, format="png", dpi=_DPI)
    return base64.b64encode(buffer.getvalue()).decode()


def _figure(value: float | None) -> str:
    """Write a percentage for people: three significant digits, at most four decimals."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) < 5e-5:
        return "< 0.0001"
    decimals: Sequence[tuple[float, int]] = ((100, 0), (10, 1), (1, 2), (0.1, 3), (0.0, 4))
    places = next(places for least, places in decimals if abs(value) >= least)
    return f"{value:.{places}f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _when(moment: str) -> str:
    return moment.replace("T", " ").replace("+00:00", " UTC")
