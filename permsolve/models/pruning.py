"""Pruning a torch model to a pattern: zeros in place, masks, and torch's 2:4 format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from permsolve._arrays import channels_last
from permsolve.errors import InputError
from permsolve.models.calibration import Calibration
from permsolve.models.calibration_batches import check_path
from permsolve.models.compensation.data import Data
from permsolve.models.compensation.driver import compensate, put, refusal
from permsolve.models.compensation.fitting import Choice, Compensation, Fitted
from permsolve.models.plan import Plan
from permsolve.models.prunable import PrunableWeight, catalogue, unlisted, weights
from permsolve.models.pruned import Pruned, PrunedWeight, first_few
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.selection import Filter
from permsolve.models.standing import Standing
from permsolve.patterns import NM, Pattern, parse
from permsolve.problem import Problem
from permsolve.sparse.semi_structured import device_fault, need_cuda

Array = npt.NDArray[Any]

#: Types of dense weights that torch converts to its semi-structured format.
CONVERTIBLE = (torch.float16, torch.bfloat16, torch.int8)


class NMMask(nn.Module):
    """A torch parametrization that sets the pruned entries of a weight to zero.

    The dense values stay in ``module.parametrizations.weight.original``; pruned entries get no gradient.
    `torch.nn.utils.parametrize.remove_parametrizations` makes the zeros final, or, with ``leave_parametrized=False``,
    brings the dense weight back.

    Parameters
    ----------
    mask
        bool, of the weight's shape: which entries are kept.
    nm
        The pattern.
    """

    mask: torch.Tensor

    def __init__(self, mask: torch.Tensor, nm: Pattern) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.nm = nm

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight with zeros where it is pruned."""
        return torch.where(self.mask, weight, 0)

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight itself: what is assigned to the weight is kept whole in ``original``."""
        return weight

    def extra_repr(self) -> str:
        """Return the pattern, for torch's printout."""
        return str(self.nm)


def prune_(
    model: nn.Module,
    nm: object = "2:4",
    *,
    plan: Plan | None = None,
    search: float | None = None,
    saliency: object = None,
    layers: Filter | None = None,
    parametrize: bool = False,
    calibration: Calibration | Iterable[Any] | None = None,
    update: str = "none",
    target: str = "own",
    swap: int = 0,
    damping: float = 0.01,
    save: str | os.PathLike[str] | None = None,
    display: bool | None = None,
) -> Pruned:
    """Prune a model in place to a pattern.

    To n:m: of every m consecutive input channels n are kept, for each output channel by itself. A convolution is pruned
    at every kernel position by itself, a grouped one inside each group. Of equal saliencies the one of the lower
    channel is kept.

    To patterns that cut matrices into tiles or blocks: rows stay where they are. A tile of HiNM keeps the columns that
    ``plan`` found for it, and elsewhere those of largest sums in their own order, or what ``search`` finds.

    Masks of ``torch.nn.utils.prune`` are kept too: what they prune stays pruned and gives way to entries they keep. All
    masks, and with an ``update`` all values, are computed before the first weight is changed.

    With ``update`` the kept weights take over what the pruned ones did: ``"refit"`` solves the least-squares problem of
    every output channel on its kept weights, ``"sparsegpt"`` hands each column's error on to the columns behind it.
    That is worth far more than the choice of the saliency.

    Parameters
    ----------
    model
        The model.
    nm
        Pattern: (n, m), ``"n:m"`` or a pattern object.
    plan
        A plan of this pattern that was applied to the model. For HiNM it holds which columns each tile keeps.
    search
        For HiNM: seconds that the columns of tiles without a plan are searched (method ``joint``, rows as they are),
        all weights together; by default their columns of largest sums are kept.
    saliency
        What the entries are ranked by: ``"magnitude"`` (the default), ``"energy"`` or a saliency object; with a
        calibration also ``"wanda"``, ``"ria"``, ``"obs"`` and ``"output_error"``; a function of a weight's name and its
        values that returns an array (objects and functions see a weight with its input channels in axis 1); or a
        mapping from weights' names to any of these or to arrays of the weights' own shapes. Without one,
        ``update="sparsegpt"`` chooses as published: when it reaches a group, by w^2 over the squared diagonal of the
        Cholesky factor of the inverse second moment. With one, it only updates.
    layers
        Which weights, as in `weights`.
    parametrize
        Hold the pruned entries at zero by a mask (a torch parametrization, `NMMask`) instead of writing zeros, so that
        training goes on around them. A weight that has parametrizations already gets the mask as one more, and one
        masked by ``torch.nn.utils.prune`` has its mask updated, whatever is said here. With an update the kept entries
        of the parameter are the fitted ones; the pruned entries keep their dense values.
    calibration
        What `calibrate` found, or the batches themselves: a list or data loader of inputs, each a tensor, a tuple of
        arguments or a dict of keyword arguments.
    update
        ``"none"``, ``"sparsegpt"`` or ``"refit"``.
    target
        What a refit aims at. ``"own"``: what the dense weight makes of the dense model's inputs; one pass over the
        batches. ``"dense"``: layer by layer, what the dense model puts out, from the inputs of the pruned model; where
        a layer's output goes straight into a sum, it also makes up for what earlier layers did to the other summand,
        and a bias that only this layer reads is fitted, too. For every set of layers that read the same tensor, both
        models run over the batches up to those layers, and a copy of the model is held: it needs the batches.
    swap
        With a refit of n:m: the most sweeps in which every group of every row makes the exchange of a kept and a pruned
        weight that lowers the row's loss after a refit the most; a row ends when a sweep finds none. Time grows with
        rows x features^3: about 0.01 s of a core for a row of 400 features, 0.5 s for 1,536.
    damping
        Ridge towards the dense values, relative to the mean of the second moment's diagonal. Needed where there are
        fewer rows of inputs than features, or features that depend on each other.
    save
        With an update: a folder for finished layers. The same call with the same folder goes on after them. Of the
        calibration inputs only sums are compared (with ``target="dense"`` only the number of batches): a loader may
        shuffle.
    display
        Show progress: True, False, or None for where a person is watching.

    Returns
    -------
    Pruned
        Which weights were pruned, and which were left out and why.

    Raises
    ------
    InputError
        If an argument does not fit, no weight can be pruned, a weight is on the meta device or holds NaN or infinite
        entries, a weight has a mask of an earlier call, the plan was not applied, inputs are not finite or do not
        determine the weights, or a weight cannot be fitted; the model is as it was then.
    ModelError
        If the plan is for another model, or the model fails on a batch.
    FileError, DocumentError
        If ``save`` cannot be read or written.

    Notes
    -----
    ``"sparsegpt"``: E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot",
    ICML 2023, arXiv:2301.00774.
    """
    pattern, how = parse(nm), Compensation(update, target, swap, damping)
    how.check_pattern(pattern)
    check_path(save)
    if save is not None and update == "none":
        raise InputError("save= keeps layers that were fitted, and update='none' fits none: leave it out")
    standing = Standing(model, pattern, plan, search)
    listed = catalogue(model, layers, pattern)
    chosen = [weight for weight in listed if weight.reason is None]
    left_out = {weight.path: weight.reason for weight in listed if weight.reason is not None} | unlisted(model)
    if not chosen:
        raise InputError(f"no weight of the model can be pruned to {pattern}{first_few(left_out)}")
    _check_unmasked(chosen)
    _check_compensable(chosen, update)
    data = Data.of(model, calibration, how, saliency, [weight.path for weight in chosen], display)
    ranking = ModelSaliency("magnitude" if saliency is None else saliency, data.calibration)
    ranking.check(listed, chosen)
    standing.share_out(chosen)
    by_itself = update == "sparsegpt" and saliency is None
    choices: dict[str, Choice] = {}
    for weight in chosen:
        values = weight.values()
        mask, solution = (None, None) if by_itself else _mask(weight, values, ranking, pattern, standing)
        choices[weight.path] = Choice.of(mask, values, solution if pattern.moves_rows else None)
    fitted: Mapping[str, Fitted] = {}
    if update != "none":
        fitted = compensate(model, chosen, choices, pattern, how, data, save=save, display=display)
    rows = tuple(
        _prune(weight, choices[weight.path], fitted.get(weight.path), parametrize, pattern) for weight in chosen
    )
    return Pruned(pattern, "sparsegpt" if by_itself else ranking.name, rows, left_out)


def to_semi_structured_(model: nn.Module, layers: Filter | None = None) -> tuple[str, ...]:
    """Convert linear layers that are pruned to 2:4 to torch's semi-structured format, which GPUs multiply faster.

    The format is for inference: converted weights get no gradients, and most other operations on them fail. Save the
    dense state dict before.

    Parameters
    ----------
    model
        A model on a CUDA device of compute capability 8.0 (Ampere) or later, in float16, bfloat16 or int8.
    layers
        Which weights, as in `weights`; each must then be convertible. By default every linear layer that is 2:4 and
        that torch can convert.

    Returns
    -------
    tuple
        Paths of the converted weights.

    Raises
    ------
    InputError
        If a chosen weight cannot be converted, or none can; nothing is converted then.
    MissingDependencyError
        If this torch sees no CUDA device or cannot convert.
    """
    converted: list[tuple[PrunableWeight, nn.Parameter]] = []
    faults: dict[str, str] = {}
    for weight in weights(model, layers, "2:4"):
        fault = weight.reason or _dense_fault(weight)
        if fault is None:
            need_cuda()
            fault = device_fault(weight.parameter, CONVERTIBLE)
        if fault is None:
            try:
                sparse = torch.sparse.to_sparse_semi_structured(weight.effective().contiguous())
                converted.append((weight, nn.Parameter(sparse, requires_grad=False)))
            except RuntimeError as error:  # which sizes fit differs from backend to backend: torch knows
                fault = f"torch cannot convert it: {error}"
        if fault is not None:
            faults[weight.path] = fault
    if not converted or (faults and layers is not None):
        count = f"{len(faults)} of {len(faults) + len(converted)} weights"
        raise InputError(f"{count} cannot be converted{first_few(faults)}")
    for weight, parameter in converted:
        for owner in weight.owners:
            setattr(owner.module, owner.attribute, parameter)
    return tuple(weight.path for weight, _ in converted)


def holds(matrix: Array, nm: Pattern, solution: Any = None) -> bool:
    """Return whether a matrix is of a pattern: for n:m, at most n of every m consecutive entries of a row are not zero.

    Parameters
    ----------
    matrix
        (rows, cols), of a shape that the pattern divides.
    nm
        The pattern.
    solution
        What the pattern is looked for under; for HiNM the columns that each tile keeps. By default nothing is moved,
        and a tile keeps the columns with most entries that are not zero.

    Returns
    -------
    bool
        True if so.
    """
    present = matrix != 0
    if isinstance(nm, NM):  # counting is much faster than a mask
        present = present if solution is None else present[:, solution]
        return bool((present.reshape(len(present), -1, nm.m).sum(axis=2, dtype=np.int32) <= nm.n).all())
    values = present.astype(np.float32)
    if solution is None:
        solution = nm.start(Problem.of(values, nm))
    return not present[~nm.mask(values, solution)].any()


def _prune(
    weight: PrunableWeight, choice: Choice, fitted: Fitted | None, parametrize: bool, pattern: Pattern
) -> PrunedWeight:
    """Prune one weight."""
    if fitted is None:
        mask, nonzero, error = choice.mask(weight), choice.nonzero, None
    else:
        mask, nonzero, error = fitted.mask, int(torch.count_nonzero(fitted.values)), fitted.error
        put(weight, fitted, whole=False)
    held = _apply(weight, mask.to(weight.parameter.device), parametrize, pattern)
    return PrunedWeight(weight.path, weight.shape, nonzero, held, choice.solution, error)


def _mask(
    weight: PrunableWeight, values: Array, ranking: ModelSaliency, pattern: Pattern, standing: Standing
) -> tuple[npt.NDArray[np.bool_], Any]:
    """Return which entries are kept, in the weight's own shape, and under which solution."""
    objective = ranking.objective(weight)
    if objective is not None:  # what a mask of torch has pruned is zero: pruning it costs nothing
        kept = channels_last(objective.mask(weight.to_channels(values), pattern))
        before = weight.owners[0].mask
        alive = True if before is None else (before != 0).cpu().numpy()
        return weight.from_matrix(kept) & alive, None
    scores = ranking.matrix(weight, values)
    before = weight.owners[0].mask
    if before is None:
        solution = standing.of(weight, scores)
        return weight.from_matrix(pattern.mask(scores, solution)), solution
    alive = weight.to_matrix((before != 0).cpu().numpy())
    solution = standing.of(weight, np.where(alive, scores, 0))
    # Below any saliency, so that a pruned entry is never kept in place of one that is not.
    kept = pattern.mask(np.where(alive, scores, -1), solution)
    return weight.from_matrix(kept & alive), solution


def _check_unmasked(chosen: Sequence[PrunableWeight]) -> None:
    for weight in chosen:
        if any(isinstance(step, NMMask) for step in weight.owners[0].parametrizations or ()):
            raise InputError(
                f"{weight.path} is pruned by a mask already; remove it first with "
                f"torch.nn.utils.parametrize.remove_parametrizations(module, {weight.attribute!r})"
            )


def _check_compensable(chosen: Sequence[PrunableWeight], update: str) -> None:
    reasons = {} if update == "none" else {weight.path: refusal(weight) for weight in chosen}
    faults = {path: reason for path, reason in reasons.items() if reason is not None}
    if faults:
        raise InputError(f"update={update!r} cannot change {len(faults)} weights; leave them out{first_few(faults)}")


def _apply(weight: PrunableWeight, mask: torch.Tensor, parametrize: bool, pattern: Pattern) -> bool:
    """Prune a weight everywhere it is read, and return whether a mask now holds it."""
    step: NMMask | None = None
    for owner in weight.owners:
        before = owner.mask
        if before is not None:
            with torch.no_grad():
                before.masked_fill_(~mask, 0)
            setattr(owner.module, owner.attribute, owner.stored() * before.to(owner.stored().dtype))
        elif parametrize or owner.parametrizations is not None:
            step = step or NMMask(mask, pattern)
            register_parametrization(owner.module, owner.attribute, step)
        else:
            with torch.no_grad():
                stored = owner.stored()
                stored.copy_(torch.where(mask, stored, 0))  # masked_fill_ does not know float8
    torch.clear_autocast_cache()  # inside torch.autocast the next forward pass would read the weights as they were
    return weight.owners[0].mask is not None or step is not None


def _dense_fault(weight: PrunableWeight) -> str | None:
    """Say why the dense weight is not one to convert."""
    first = weight.owners[0]
    if not all(isinstance(owner.module, nn.Linear) for owner in weight.owners):
        return "not a linear layer's"
    if first.parametrizations is not None or first.mask is not None:
        return "has a parametrization or mask; remove it first, leaving the weight pruned"
    if not holds(weight.to_matrix(weight.values()), NM(2, 4)):
        return "not 2:4: four consecutive input channels hold more than two non-zero entries; prune it first"
    return None
