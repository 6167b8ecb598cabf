"""What a pattern costs a model, weight by weight: the share of the saliency that is kept, and how much could be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import nn

from permsolve.errors import InputError
from permsolve.models.plan import Plan
from permsolve.models.prunable import PrunableWeight, catalogue, unlisted
from permsolve.models.pruned import Pruned, as_text, first_few
from permsolve.models.pruning import holds
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.selection import Filter, close_names
from permsolve.models.standing import Standing
from permsolve.patterns import Pattern, parse

if TYPE_CHECKING:
    from rich.table import Table

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One weight, or all of them together.

    Parameters
    ----------
    name
        Path of the weight: module and attribute.
    shape
        Its shape.
    parameters
        Number of entries.
    density
        Share of the entries that are not zero.
    pruned
        Whether the weight is of the pattern already.
    retained
        Share of the saliency that the pattern keeps in the present order of channels; of a pruned weight, what is left
        of the saliency it had in ``before``, and None without that.
    retained_before
        Share of the saliency that the pattern keeps in ``before``, or None.
    ceiling
        Share that no order of channels exceeds: every row keeps as many of its largest entries as the pattern allows.
        None like ``retained``.
    """

    name: str
    shape: tuple[int, ...]
    parameters: int
    density: float
    pruned: bool
    retained: float | None
    retained_before: float | None
    ceiling: float | None


@dataclass(frozen=True)
class Report:
    """What a pattern keeps of each weight; ``str`` makes a table of it.

    Parameters
    ----------
    nm
        The pattern.
    saliency
        Name of the saliency.
    rows
        One per weight.
    total
        All weights together: sums over the weights, then shares.
    left_out
        For every other weight: why it is not in the report.
    """

    nm: Pattern
    saliency: str
    rows: tuple[Row, ...]
    total: Row
    left_out: dict[str, str]

    def __str__(self) -> str:
        """Return the table as text."""
        text = as_text(self.table(), self.left_out)
        if any(row.pruned and row.retained is None for row in self.rows):
            text += "\n\n-: pruned already; what was lost shows beside the unpruned model, report(..., before=...)"
        return text

    def table(self) -> Table:
        """Make the table for a terminal.

        Returns
        -------
        rich.table.Table
            One row per weight, and their total. Shares are in per cent.
        """
        from rich.table import Table

        table = Table(box=None, pad_edge=False)
        table.add_column(f"{self.nm}, {self.saliency}")
        compared = any(row.retained_before is not None for row in self.rows)
        for heading in (
            "shape",
            "parameters",
            "density %",
            *(["before %"] if compared else []),
            "retained %",
            "at most %",
        ):
            table.add_column(heading, justify="right")
        for row in (*self.rows, self.total):
            shares = (row.retained_before, row.retained, row.ceiling)[0 if compared else 1 :]
            table.add_row(
                row.name,
                " x ".join(map(str, row.shape)),
                f"{row.parameters:,}",
                f"{100 * row.density:.2f}",
                *("-" if share is None else f"{100 * share:.3f}" for share in shares),
            )
        return table

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, ready for JSON.

        Returns
        -------
        dict
            Pattern, saliency, rows, total and what was left out.
        """
        return {
            "nm": str(self.nm),
            "saliency": self.saliency,
            "rows": [{**asdict(row), "shape": list(row.shape)} for row in self.rows],
            "total": {**asdict(self.total), "shape": []},
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True)
class _Sums:
    """The sums that shares are made of; those of the report's total are the weights' added up."""

    parameters: int
    nonzero: int
    pruned: bool
    kept: float
    bound: float
    #: Saliency of the unpruned weight; None where it is not known.
    whole: float | None
    kept_before: float | None
    whole_before: float | None

    def row(self, name: str, shape: tuple[int, ...]) -> Row:
        return Row(
            name=name,
            shape=shape,
            parameters=self.parameters,
            density=self.nonzero / self.parameters,
            pruned=self.pruned,
            retained=_share(self.kept, self.whole),
            retained_before=_share(self.kept_before, self.whole_before),
            ceiling=_share(self.bound, self.whole),
        )


def report(
    model: nn.Module,
    nm: object = "2:4",
    *,
    before: nn.Module | None = None,
    plan: Plan | None = None,
    pruned: Pruned | None = None,
    saliency: object = "magnitude",
    before_saliency: object = None,
    layers: Filter | None = None,
) -> Report:
    """Report what a pattern keeps of the weights of a model, pruned or not.

    Which columns a tile of HiNM keeps cannot be read off the weights: it is known from the plan, or from what `prune_`
    returned. Elsewhere they are the columns of largest sums.

    Parameters
    ----------
    model
        The model. It is not modified.
    nm
        Pattern: (n, m), ``"n:m"`` or a pattern object.
    before
        The same model before it was permuted or pruned: weights of the same paths and shapes.
    plan
        The plan that was applied to the model, as in `prune_`.
    pruned
        What `prune_` returned, where the model was pruned.
    saliency
        What the entries are ranked by, as in `prune_`.
    before_saliency
        The saliency of ``before``; by default the same where it is known by name. Arrays and objects with one number
        per channel belong to one order of channels, so that these must be given for both.
    layers
        Which weights, as in `weights`.

    Returns
    -------
    Report
        The report.

    Raises
    ------
    InputError
        If an argument does not fit, or the model has no weight that could be of the pattern.
    ModelError
        If the plan is for another model.
    """
    pattern = parse(nm)
    standing = _Known(Standing(model, pattern, plan), pattern, pruned)
    ranking = ModelSaliency(saliency)
    if before is not None and before_saliency is None:
        if not isinstance(saliency, str):
            raise InputError(
                "report: give before_saliency too; only a saliency known by name is the same in any order of channels"
            )
        before_saliency = saliency
    listed = catalogue(model, layers, pattern)
    chosen = [weight for weight in listed if weight.reason is None]
    left_out = {weight.path: weight.reason for weight in listed if weight.reason is not None} | unlisted(model)
    if not chosen:
        raise InputError(f"no weight of the model can be {pattern}{first_few(left_out)}")
    ranking.check(listed, chosen)
    partners: list[PrunableWeight | None] = [None] * len(chosen)
    old_ranking = ranking
    if before is not None:
        old_listed = catalogue(before)
        partners = [_partner(weight, old_listed) for weight in chosen]
        old_ranking = ModelSaliency(before_saliency)
        old_ranking.check(old_listed, [partner for partner in partners if partner is not None])
    sums = [
        _sums(weight, partner, standing, ranking, old_ranking) for weight, partner in zip(chosen, partners, strict=True)
    ]
    rows = tuple(part.row(weight.path, weight.shape) for weight, part in zip(chosen, sums, strict=True))
    return Report(pattern, ranking.name, rows, _add(sums).row(f"total of {len(rows)}", ()), left_out)


class _Known:
    """The solutions that weights stand in, as far as anything is known of them."""

    def __init__(self, standing: Standing, pattern: Pattern, pruned: Pruned | None) -> None:
        if pruned is not None and (not isinstance(pruned, Pruned) or pruned.nm != pattern):
            raise InputError(f"pruned = {pruned!r:.60} is not what prune_ returned for {pattern}")
        self.pattern = pattern
        self._standing = standing
        self._unmoved = Standing(nn.Identity(), pattern, None)
        self._pruned = {} if pruned is None else {each.name: each.solution for each in pruned.weights}

    def of(self, weight: PrunableWeight, scores: Array) -> Any:
        """Return the solution of a weight as it is."""
        known = self._pruned.get(weight.path)
        return self._standing.of(weight, scores) if known is None else known

    def before(self, weight: PrunableWeight, scores: Array) -> Any:
        """Return the solution of a weight as it was, when there was no plan."""
        return self._unmoved.of(weight, scores)


def _sums(
    weight: PrunableWeight,
    partner: PrunableWeight | None,
    known: _Known,
    ranking: ModelSaliency,
    old_ranking: ModelSaliency,
) -> _Sums:
    pattern = known.pattern
    values = weight.values()
    present = weight.to_matrix(values) != 0
    # Zeros have nothing left to keep, whatever a saliency array says of them.
    scores = np.where(present, ranking.matrix(weight, values), 0)
    solution = known.of(weight, scores)
    pruned = holds(present, pattern, solution)
    kept = pattern.score(scores, solution)
    whole: float | None = float(scores.sum(dtype=np.float64))
    bound = pattern.rows_bound(scores)
    kept_before = whole_before = None
    if partner is not None:
        old = old_ranking.matrix(partner, partner.values())
        kept_before, whole_before = pattern.score(old, known.before(partner, old)), float(old.sum(dtype=np.float64))
        if pruned:
            whole, bound = whole_before, pattern.rows_bound(old)
    elif pruned and whole:
        whole = None  # what was pruned is gone: nothing tells how much it was
    return _Sums(
        parameters=values.size,
        nonzero=int(np.count_nonzero(present)),
        pruned=pruned,
        kept=kept,
        bound=bound,
        whole=whole,
        kept_before=kept_before,
        whole_before=whole_before,
    )


def _add(parts: list[_Sums]) -> _Sums:
    return _Sums(
        parameters=sum(part.parameters for part in parts),
        nonzero=sum(part.nonzero for part in parts),
        pruned=all(part.pruned for part in parts),
        kept=sum(part.kept for part in parts),
        bound=sum(part.bound for part in parts),
        whole=_total([part.whole for part in parts]),
        kept_before=_total([part.kept_before for part in parts]),
        whole_before=_total([part.whole_before for part in parts]),
    )


def _total(numbers: list[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or whole is None:
        return None
    return part / whole if whole else 1.0  # of nothing, everything is kept


def _partner(weight: PrunableWeight, old: list[PrunableWeight]) -> PrunableWeight:
    """Return the weight of the earlier model that a weight is to be compared with."""
    found = next((other for other in old if weight.path in {owner.path for owner in other.owners}), None)
    if found is None:
        raise InputError(f"before has no weight {weight.path}; {close_names(weight.path, [o.path for o in old])}")
    if found.shape != weight.shape:
        raise InputError(f"{weight.path} has shape {weight.shape}, in before {found.shape}; they must be equal")
    return found
