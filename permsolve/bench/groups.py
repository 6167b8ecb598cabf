"""Comparisons of methods over groups of instances: a size class, or all, of one kind of pattern at one time limit.

Kinds of patterns are compared apart: few methods search more than one.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from permsolve.bench import measures
from permsolve.bench.records import KINDS, Answer, Settings, Task, size_classes

#: Gaps, in per cent, that differ by less are equal.
TIE = 1e-7
#: Name of the group of all instances.
ALL = "all"
#: Points of an anytime curve.
_POINTS = 48

Row = dict[str, Any]
_Cells = dict[tuple[str, str, float], Row]


def compare(
    settings: Settings,
    instances: Sequence[Row],
    cells: Sequence[Row],
    answers: Mapping[Task, Answer],
    finished: AbstractSet[Task],
) -> dict[str, Any]:
    """Compare the methods over all instances of a kind of pattern and over each size class, at each time limit.

    Parameters
    ----------
    settings
        The bench.
    instances
        What the report says of each instance.
    cells
        Medians over seeds, per method, instance and limit.
    answers
        The good answers.
    finished
        The runs that ended, in whatever way. Instances that a method has not been run on yet are left out.

    Returns
    -------
    dict
        ``groups``: means per method; ``choices``: the method to take; ``curves``: mean gap against time;
        ``instance_curves``: for each instance the gap against time, at the longest limit.
    """
    tried = {(task.method, task.instance, task.limit) for task in finished}
    index: _Cells = {(cell["method"], cell["instance"], cell["limit"]): cell for cell in cells}
    traces: dict[tuple[str, str, float], list[Answer]] = defaultdict(list)
    for task, answer in answers.items():
        traces[task.method, task.instance, task.limit].append(answer)
    tables, choices, curves = [], [], []
    for limit, kind, size in itertools.product(settings.limits, kinds(instances), (ALL, *size_classes())):
        members = [
            row
            for row in instances
            if row["kind"] == kind
            and size in (ALL, row["class"])
            and all((method, row["name"], limit) in tried for method in settings.methods)
        ]
        group = _group(settings.methods, [row["name"] for row in members], limit, index)
        if not group["methods"]:
            continue
        about = {"limit": limit, "kind": kind, "class": size}
        tables.append({**about, **group})
        full = [row["method"] for row in group["methods"] if row["complete"]]
        if full:
            choices.append({**about, **_choice(group, limit, index)})
        shown = [row for row in members if row["name"] in group["names"]]
        curves.append({**about, **_curves(full, shown, limit, traces)})
    single = {row["name"]: _instance_curves(settings, traces, row) for row in instances}
    return {"groups": tables, "choices": choices, "curves": curves, "instance_curves": single}


def kinds(instances: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the kinds of patterns that some instances have.

    Parameters
    ----------
    instances
        What the report says of each.

    Returns
    -------
    list
        Keys of `KINDS`, in their order.
    """
    found = {row["kind"] for row in instances}
    return [kind for kind in KINDS if kind in found]


def _group(methods: Sequence[str], names: Sequence[str], limit: float, index: _Cells) -> Row:
    """Compare methods over those of some instances that any method answered."""
    answered = [name for name in names if any((method, name, limit) in index for method in methods)]
    rows = []
    for method in methods:
        mine = [index[method, name, limit] for name in answered if (method, name, limit) in index]
        if not mine:
            continue
        wins = sum(cell["gap"] <= _best_gap(methods, cell["instance"], limit, index) + TIE for cell in mine)
        times = [limit if cell["time_to_target"] is None else cell["time_to_target"] for cell in mine]
        rows.append(
            {
                "method": method,
                "instances": len(mine),
                "complete": len(mine) == len(answered),
                "gap": _mean([cell["gap"] for cell in mine], measures.GAP_SHIFT),
                "worst_gap": max(cell["gap"] for cell in mine),
                "bound_gap": _mean([cell["bound_gap"] for cell in mine], measures.GAP_SHIFT),
                "efficacy": sum(cell["efficacy"] for cell in mine) / len(mine),
                "integral": _mean([cell["integral"] for cell in mine], measures.GAP_SHIFT),
                "time_to_target": _mean([min(time, limit) for time in times], measures.TIME_SHIFT),
                "reached": sum(cell["time_to_target"] is not None for cell in mine),
                "runtime": _mean([cell["runtime"] for cell in mine], measures.TIME_SHIFT),
                "wins": wins,
                "proved": sum(cell["proved"] == cell["runs"] for cell in mine),
                "late": sum(cell["late"] for cell in mine),
                "runs": sum(cell["runs"] for cell in mine),
            }
        )
    rows.sort(key=lambda row: (not row["complete"], round(row["gap"] / TIE), row["integral"]))
    return {"instances": len(answered), "names": answered, "methods": rows}


def _choice(group: Row, limit: float, index: _Cells) -> Row:
    """Name the method to take: the smallest mean gap of those that answered every instance; ties by primal integral."""
    full = [row for row in group["methods"] if row["complete"]]
    first = full[0]
    equal = [row["method"] for row in full[1:] if row["gap"] <= first["gap"] + TIE]
    choice = {"instances": group["instances"], "method": first["method"], "gap": first["gap"], "equal": equal}
    choice["runner_up"] = None
    prover = max(group["methods"], key=lambda row: row["proved"])
    choice |= {"prover": prover["method"] if prover["proved"] else None, "proved": prover["proved"]}
    if len(full) > 1 + len(equal):
        second = full[1 + len(equal)]
        pairs = [
            (index[first["method"], name, limit]["gap"], index[second["method"], name, limit]["gap"])
            for name in group["names"]
        ]
        choice |= {
            "runner_up": second["method"],
            "runner_up_gap": second["gap"],
            "better_on": sum(one < other - TIE for one, other in pairs),
            "worse_on": sum(one > other + TIE for one, other in pairs),
        }
    return choice


def _curves(
    methods: Sequence[str],
    members: Sequence[Row],
    limit: float,
    traces: Mapping[tuple[str, str, float], Sequence[Answer]],
) -> Row:
    """Return the mean gap at each time: medians over seeds, then the shifted geometric mean over instances."""
    times = np.geomspace(min(1e-3, limit / 100), limit, _POINTS)
    found = {}
    for method in methods:
        gaps = np.array([_gap_curve(traces[method, row["name"], limit], row["best"], times) for row in members])
        found[method] = [measures.shifted_geometric_mean(column, measures.GAP_SHIFT) for column in gaps.T]
    return {"times": times.tolist(), "methods": found}


def _gap_curve(answers: Sequence[Answer], best: float, times: Any) -> Any:
    scores = np.median([measures.score_at(answer.trace, times) for answer in answers], axis=0)
    return np.array([measures.primal_gap(float(score), best) for score in scores])


def _best_gap(methods: Sequence[str], name: str, limit: float, index: _Cells) -> float:
    return min(float(index[method, name, limit]["gap"]) for method in methods if (method, name, limit) in index)


def _mean(values: Sequence[float], shift: float) -> float:
    return measures.shifted_geometric_mean(values, shift)


def _instance_curves(
    settings: Settings, traces: Mapping[tuple[str, str, float], Sequence[Answer]], instance: Row
) -> dict[str, list[tuple[float, float]]]:
    """Return each method's gap where it changes, at the longest limit: medians over seeds."""
    limit = settings.limits[-1]
    found = {}
    for method in settings.methods:
        runs = traces.get((method, instance["name"], limit), ())
        if runs:
            times = sorted({time for run in runs for time, _ in run.trace if time <= limit})
            gaps = _gap_curve(runs, instance["best"], times)
            found[method] = [(float(f"{time:.4g}"), float(f"{gap:.4g}")) for time, gap in zip(times, gaps, strict=True)]
    return found
