"""From the runs of a bench to its report: rescored answers, measures per run, means per size class and time limit.

The report is plain data (schema ``permsolve.bench/2``): what `tables` prints, what the HTML shows, what JSON holds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from permsolve.bench import groups, measures
from permsolve.bench.records import Answer, Record, Settings, Source, Task, solution_of
from permsolve.errors import InputError
from permsolve.problem import Problem
from permsolve.run import OPTIMAL_GAP, gap
from permsolve.scoring import efficacy

SCHEMA = "permsolve.bench/2"

Row = dict[str, Any]


def summarise(settings: Settings, records: Sequence[Record]) -> Row:
    """Make the report of a bench, finished or not.

    Every answer is scored again here, by the NumPy reference scorer on the matrix read anew; a run whose answer does
    not score what its record says counts as failed.

    Parameters
    ----------
    settings
        The bench.
    records
        The runs so far.

    Returns
    -------
    dict
        The report, ready for JSON.

    Raises
    ------
    InputError
        If a matrix is no longer the one that the bench was begun with.
    """
    by_instance: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_instance[record.task.instance].append(record)
    instances, runs, faults = [], [], []
    answers: dict[Task, Answer] = {}
    for source in settings.instances:
        instance, good, bad = _judge(source, by_instance[source.name])
        instances.append(instance)
        faults += bad
        for task, answer in good.items():
            answers[task] = answer
            runs.append(_run(task, answer, instance))
    failed = {(fault["method"], fault["instance"], fault["limit"]) for fault in faults}
    cells = _cells(runs, failed)
    for instance in instances:
        instance["best_methods"] = _best_methods(instance["name"], cells, settings.limits[-1])
    kinds = [fault["kind"] for fault in faults]
    return {
        "schema": SCHEMA,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings.model_dump(mode="json", by_alias=True),
        "planned": settings.count(),
        "finished": len(records),
        "failed": kinds.count("failed"),
        "unsupported": kinds.count("unsupported"),
        "definitions": {
            "gap_shift": measures.GAP_SHIFT,
            "time_shift": measures.TIME_SHIFT,
            "target": measures.TARGET,
        },
        **groups.compare(settings, instances, cells, answers, {record.task for record in records}),
        "instances": instances,
        "cells": cells,
        "runs": runs,
        "faults": faults,
    }


def _judge(source: Source, records: Sequence[Record]) -> tuple[Row, dict[Task, Answer], list[Row]]:
    """Score the answers to one instance, and settle its best known score and bound."""
    problem = source.problem()
    good: dict[Task, Answer] = {}
    faults = []
    for record in records:
        reason = record.reason
        if record.answer is not None:
            try:
                reason = _disagreement(record.answer, problem.score(solution_of(problem, record.answer.solution)))
            except InputError as error:
                reason = f"the answer is no valid solution: {error}"
            if reason is None:
                good[record.task] = record.answer
                continue
        kind = "unsupported" if record.outcome == "unsupported" else "failed"
        faults.append({**record.task.model_dump(), "kind": kind, "reason": reason or "no reason is recorded"})
    stored, bound, bound_kind = _stored(source, problem)
    best, best_by, solution = problem.baseline, "identity", problem.pattern.to_lists(problem.start)
    if stored is not None:
        best, best_by, solution = stored[0], "library", stored[1]
    for task, answer in sorted(good.items(), key=lambda item: (item[0].limit, item[0].seed)):
        if answer.score > best * (1 + measures.ROUNDING):
            best, best_by, solution = answer.score, task.method, answer.solution
        if answer.bound < bound:
            bound, bound_kind = answer.bound, answer.bound_kind
    if best > bound * (1 + OPTIMAL_GAP):
        faults.append(
            {
                **dict.fromkeys(("method", "seed", "limit")),
                "instance": source.name,
                "kind": "contradiction",
                "reason": f"the best score {best!r} lies above the {bound_kind} bound {bound!r}: one of them is wrong",
            }
        )
    row = {
        **source.model_dump(mode="json"),
        "kind": source.kind,
        "class": source.size,
        "baseline": problem.baseline,
        "rows_bound": problem.rows_bound,
        "stored_best": None if stored is None else stored[0],
        "best": best,
        "best_by": best_by,
        "best_solution": solution,
        "bound": bound,
        "bound_kind": bound_kind,
        "bound_gap": 100 * gap(best, bound),
        "proved": gap(best, bound) <= OPTIMAL_GAP,
        "efficacy": efficacy(best, problem.baseline, problem.rows_bound),
    }
    return row, good, faults


def _disagreement(answer: Answer, score: float) -> str | None:
    """Say where a record contradicts the score of its answer, or None."""
    for what, claimed in (("score", answer.score), ("last improvement", answer.trace[-1][1] if answer.trace else None)):
        if claimed is None or not math.isclose(claimed, score, rel_tol=measures.ROUNDING, abs_tol=0.0):
            return f"the answer scores {score!r}, its recorded {what} is {claimed!r}"
    return None


def _stored(source: Source, problem: Problem) -> tuple[tuple[float, Row] | None, float, str]:
    """Return the library's best score, scored anew, with its solution as lists, and its bound."""
    if source.file is not None:
        return None, problem.rows_bound, "rows"
    from permsolve import instances

    entry = instances.entry(source.name)
    best = None
    if entry.best is not None:
        best = problem.score(entry.best.solution), problem.pattern.to_lists(entry.best.solution)
    if entry.bound < problem.rows_bound:
        return best, entry.bound, entry.bound_kind
    return best, problem.rows_bound, "rows"


def _run(task: Task, answer: Answer, instance: Row) -> Row:
    """Return the measures of one run; a late one is judged by what it had when its time was over."""
    best = instance["best"]
    end = task.limit + measures.allowance(task.limit)
    late = answer.runtime > end
    score = float(measures.score_at(answer.trace, end)) if late else answer.score
    reached = measures.time_to(answer.trace, best, measures.TARGET)
    return {
        **task.model_dump(),
        "score": score,
        "gap": measures.primal_gap(score, best),
        "bound_gap": 100 * gap(score, instance["bound"]),
        "efficacy": efficacy(score, instance["baseline"], instance["rows_bound"]),
        "integral": measures.primal_integral(answer.trace, best, task.limit),
        "time_to_target": reached if math.isfinite(reached) else None,
        "status": answer.status,
        "bound": answer.bound,
        "bound_kind": answer.bound_kind,
        "proved": not late and gap(answer.score, answer.bound) <= OPTIMAL_GAP,
        "iterations": answer.iterations,
        "setup_time": answer.setup_time,
        "runtime": answer.runtime,
        "late": late,
    }


def _cells(runs: Sequence[Row], failed: set[tuple[str, str, float]]) -> list[Row]:
    """Return medians over seeds; where a run of a method failed on an instance, the method has none there."""
    found: dict[tuple[str, str, float], list[Row]] = defaultdict(list)
    for run in runs:
        key = (run["method"], run["instance"], run["limit"])
        if key not in failed:
            found[key].append(run)
    cells = []
    for (method, instance, limit), several in found.items():
        reached = median(math.inf if run["time_to_target"] is None else run["time_to_target"] for run in several)
        cells.append(
            {
                "method": method,
                "instance": instance,
                "limit": limit,
                "runs": len(several),
                **{
                    name: median(run[name] for run in several)
                    for name in ("score", "gap", "bound_gap", "efficacy", "integral", "runtime")
                },
                "time_to_target": reached if math.isfinite(reached) else None,
                "proved": sum(run["proved"] for run in several),
                "late": sum(run["late"] for run in several),
            }
        )
    return cells


def _best_methods(instance: str, cells: Sequence[Row], limit: float) -> list[str]:
    """Return the methods whose median is the best on an instance at a time limit."""
    gaps = {cell["method"]: cell["gap"] for cell in cells if (cell["instance"], cell["limit"]) == (instance, limit)}
    return [method for method, value in gaps.items() if value <= min(gaps.values()) + groups.TIE]
