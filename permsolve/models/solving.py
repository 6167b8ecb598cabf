"""Solving the groups of a plan, one after the other or side by side."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from permsolve._solve import threads
from permsolve.dispatch import Failure, Task, dispatch, worker_count
from permsolve.display_many import Tally, over_many
from permsolve.errors import InputError, UnsupportedProblemError
from permsolve.models.group import Group
from permsolve.problem import Problem
from permsolve.stop import Progress

if TYPE_CHECKING:
    from permsolve.models.plan import Plan

#: Called with the group at work and its progress; a true answer ends the solve of that group.
GroupCallback = Callable[[Group, Progress], object]


def solve_groups(
    plan: Plan,
    model: nn.Module,
    todo: Sequence[Group],
    *,
    saliency: object,
    time_limit: float | None,
    workers: int | None,
    callbacks: Sequence[GroupCallback],
    display: bool | None,
    save: str | os.PathLike[str] | None,
    settings: Mapping[str, Any],
) -> None:
    """Solve groups of a plan and store their results in them.

    Parameters
    ----------
    plan
        The plan.
    model
        Its model.
    todo
        The groups to solve.
    saliency, time_limit, workers, callbacks, display, save
        As in `Plan.solve`.
    settings
        Further arguments of `permsolve.solve`, for each group.

    Raises
    ------
    InputError
        If an argument does not fit.
    KeyboardInterrupt
        If interrupted.
    """
    count = worker_count(workers)
    alone = count == 1
    if callbacks and not alone:
        raise InputError("callbacks follow a solve step by step in this process: they need workers=1")
    fixed = dict(settings)
    if not alone and fixed.get("n_jobs") is None:
        fixed["n_jobs"] = max(threads(None) // count, 1)
    sizes = {each.name: float(each.channels) for each in todo}
    shares = None if time_limit is None else _Shares(time_limit, count, sizes)
    tasks = [_task(group, model, saliency, fixed, callbacks, shares) for group in todo]
    groups = {group.name: group for group in todo}
    failures: list[Failure] = []
    with over_many(len(todo), display) as tally, _named(tally):
        outcomes = dispatch(tasks, count, catch=not alone, watch=tally if alone else None)
        with contextlib.closing(outcomes):
            for name, outcome in outcomes:
                if shares is not None:
                    shares.ended(name, 0.0 if isinstance(outcome, Failure) else outcome.setup_time)
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                else:
                    groups[name].result, groups[name].solution = outcome, outcome.solution
                tally.finished(name, outcome)
                if save is not None:
                    plan.save(save)
                if not isinstance(outcome, Failure) and outcome.stopped_by == "interrupt":
                    raise KeyboardInterrupt
    if failures:  # the others are solved and saved
        raise failures[0].exception()


def _task(
    group: Group,
    model: nn.Module,
    saliency: object,
    fixed: Mapping[str, Any],
    callbacks: Sequence[GroupCallback],
    shares: _Shares | None,
) -> Task:
    def make() -> Problem:
        return group.problem(model, saliency)

    def settings() -> dict[str, Any]:
        given = {**fixed, "time_limit": None if shares is None else shares.begun(group.name)}
        return given | ({"callbacks": [_bound(callback, group) for callback in callbacks]} if callbacks else {})

    return Task(group.name, make, float(group.rows) * group.cols**2, settings)


class _Shares:
    """A time limit for all groups together: each gets its share when it begins, in proportion to its weight."""

    def __init__(self, seconds: float, workers: int, weights: Mapping[str, float]) -> None:
        self._deadline = time.perf_counter() + seconds
        self._workers = workers
        self._waiting = dict(weights)
        self._ends: dict[str, float] = {}

    def begun(self, name: str) -> float:
        """Return the share of a group that begins now."""
        now = time.perf_counter()
        left = max(self._deadline - now, 0.0)
        # What the workers have left beyond the groups they are at.
        busy = sum(max(end - now, 0.0) for end in self._ends.values())
        free = max(left * self._workers - busy, 0.0)
        total = sum(self._waiting.values())
        weight = self._waiting.pop(name, total)  # a group whose worker was lost begins once more
        share = max(min(free * weight / max(total, weight), left), 1e-3)
        self._ends[name] = now + share
        return share

    def ended(self, name: str, setup: float = 0.0) -> None:
        """Note that a group has ended, perhaps before its time; compilation and other preparation are no part of it."""
        self._deadline += setup / self._workers
        self._ends.pop(name, None)


@contextlib.contextmanager
def _named(tally: Tally) -> Any:
    """Say which group it is that the method does not support."""
    try:
        yield
    except UnsupportedProblemError as error:
        raise UnsupportedProblemError(f"group {tally.name!r}: {error}") from error


def _bound(callback: GroupCallback, group: Group) -> Callable[[Progress], object]:
    return lambda progress: callback(group, progress)
