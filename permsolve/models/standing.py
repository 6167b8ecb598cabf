"""The solutions that a model's weights stand in: rows and columns as they are, and the columns that tiles keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch import nn

from permsolve._solve import solve
from permsolve.errors import InputError, ModelError
from permsolve.models.group import Group
from permsolve.models.grouping import Movement
from permsolve.models.plan import Plan
from permsolve.models.prunable import PrunableWeight
from permsolve.models.tensors import index_of
from permsolve.patterns import NM, Array, HiNM, HiNMSolution, Pattern, Permutation
from permsolve.problem import Problem


class Standing:
    """What a pattern keeps of a model's weights without moving anything.

    For plain n:m that is given by the order of the columns. Where tiles keep columns, those of a plan that was applied
    to the model are kept, and elsewhere the columns of largest sums.

    Parameters
    ----------
    model
        The model.
    pattern
        The pattern.
    plan
        The plan that was applied to the model, or None.
    search
        Seconds that the columns of tiles without a plan are searched, all weights together, or None.
    applied
        Whether the plan was applied to the model. If not, `of` speaks of the weights as it would leave them.

    Raises
    ------
    InputError
        If it is no plan of this pattern, or was not applied (though it should have been), or there is nothing to
        search.
    ModelError
        If it is for another model.
    """

    def __init__(
        self,
        model: nn.Module,
        pattern: Pattern,
        plan: Plan | None,
        search: float | None = None,
        *,
        applied: bool = True,
    ) -> None:
        self._pattern = pattern
        check_search(search, pattern)
        self._search = search
        self._open = 0
        self._planned: dict[str, tuple[Permutation, Permutation]] = {}
        if plan is None:
            return
        if not isinstance(plan, Plan):
            raise InputError(f"plan = {plan!r} is no plan of permsolve.models.analyze")
        if plan.nm != pattern:
            raise InputError(f"the plan is of {plan.nm}, not of {pattern}: pass nm={str(plan.nm)!r}")
        plan.check(model)
        if applied:
            _check_applied(model, plan)
        if isinstance(pattern, HiNM):
            self._planned = dict(_kept(plan, pattern))

    def share_out(self, weights: Sequence[PrunableWeight]) -> None:
        """Share the time of the search out among weights, in proportion to their entries in tiles without a plan.

        Parameters
        ----------
        weights
            The weights that are going to be asked for.
        """
        if self._search is not None:
            self._open = sum(self._tiles(weight)[0].size * weight.cols for weight in weights)

    def of(self, weight: PrunableWeight, scores: Array) -> Any:
        """Return the solution that a weight stands in.

        Parameters
        ----------
        weight
            The weight; the pattern fits its shape.
        scores
            Its saliency, (rows, cols).

        Returns
        -------
        object
            A solution of the pattern that moves no row, and no column of plain n:m.
        """
        if isinstance(self._pattern, NM):
            return np.arange(weight.cols)
        solution = self._pattern.start(Problem.of(scores, self._pattern))
        if not isinstance(self._pattern, HiNM):
            return solution
        free, tiles, kept = self._tiles(weight)
        columns = solution.columns.copy()
        if tiles.size:
            columns[tiles] = kept
        if free.size and self._search is not None:
            columns[free] = self._searched(scores.reshape(len(columns), -1, weight.cols)[free])
        return HiNMSolution(solution.rows, columns)

    def _tiles(self, weight: PrunableWeight) -> tuple[Permutation, Permutation, Permutation]:
        """Return the tiles of a weight that the plan leaves open, those it knows, and the columns that these keep."""
        rows = weight.shape[1 - weight.axis]
        nothing = np.empty(0, np.int64)
        known = [self._planned[name] for name in (weight.name, *weight.names) if name in self._planned]
        tiles, kept = known[0] if known else (nothing, nothing)
        return np.setdiff1d(np.arange(rows // self._pattern.vector), tiles), tiles, kept  # type: ignore[attr-defined]

    def _searched(self, tiles: Array) -> Permutation:
        """Return the columns that a short search finds for tiles as they are, (tiles, vector, cols)."""
        scores = tiles.reshape(-1, tiles.shape[2])
        assert self._search is not None
        seconds = self._search * scores.size / max(self._open, scores.size)
        problem = Problem.of(scores, self._pattern)
        found = solve(problem, method="joint", options={"rows": False}, time_limit=seconds, display=False)
        columns: Permutation = found.solution.columns
        return columns


def check_search(search: float | None, pattern: Pattern) -> None:
    """Check a time for searching columns.

    Parameters
    ----------
    search
        Seconds, or None for no search.
    pattern
        The pattern.

    Raises
    ------
    InputError
        If it is no time, or there are no columns to search.
    """
    if search is None:
        return
    if isinstance(search, bool) or not isinstance(search, (int, float)) or not 0 < search < np.inf:
        raise InputError(f"search = {search!r} must be a positive number of seconds, or None for no search")
    if not isinstance(pattern, HiNM):
        raise InputError(f"search is for the columns that tiles of HiNM keep, not for {pattern}: leave it out")


def _check_applied(model: nn.Module, plan: Plan) -> None:
    for group in plan.groups:
        moved = group.perm is not None and (np.diff(group.perm) != 1).any()
        if moved and group.result is not None and group.fingerprint(model) == group.result.fingerprint:
            raise InputError(f"group {group.name!r} is in its old order: call plan.apply_(model) first")


def _kept(plan: Plan, pattern: HiNM) -> Iterator[tuple[str, tuple[Permutation, Permutation]]]:
    """Yield for every maker the tiles that a plan has columns for, and these columns by their new numbers."""
    found: dict[str, list[tuple[Permutation, Permutation]]] = {}
    for group in plan.groups:
        if group.solution is not None:
            for move, tiles, columns in _shares(group, pattern):
                found.setdefault(move.name, []).append((tiles, _carried(plan, move)[columns]))
    for name, parts in found.items():
        yield name, (np.concatenate([tiles for tiles, _ in parts]), np.concatenate([columns for _, columns in parts]))


def _shares(group: Group, pattern: HiNM) -> Iterator[tuple[Movement, Permutation, Permutation]]:
    """Divide a group's solution: every maker's tiles, and the columns they keep in the order that the plan found."""
    starts = np.cumsum([0, *group.lines])
    ends = np.cumsum([pattern.kept(size) for size in group.lines])
    block = 0
    for move in group.gaining:
        for positions in move.positions:
            tiles = positions.reshape(-1, pattern.vector) // pattern.vector
            if (tiles != tiles[:, :1]).any():
                raise ModelError(f"group {group.name!r}: the rows of {move.name} do not lie in whole tiles")
            kept = group.solution.columns[:, ends[block] - pattern.kept(group.lines[block]) : ends[block]]
            yield move, tiles[:, 0], kept - starts[block]
            block += 1


def _carried(plan: Plan, maker: Movement) -> Permutation:
    """Return where each column of a maker has gone: other groups, or its own, may have permuted them."""
    [across] = [axis for axis in range(len(maker.view)) if axis not in maker.axes]
    order = np.arange(maker.view[across])
    for group in plan.groups:
        if group.perm is not None:
            for move in group.movements:
                if move.name == maker.name and move.axes == (across,):
                    order = order[index_of(move, group.perm)]
    return np.argsort(order)
