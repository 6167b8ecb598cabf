"""Pruning a torch model to a pattern: zeros in place, masks, and torch's 2:4 format."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from permsolve.errors import InputError, MissingDependencyError
from permsolve.models.plan import Plan
from permsolve.models.prunable import PrunableWeight, catalogue, unlisted, weights
from permsolve.models.pruned import Pruned, PrunedWeight, first_few
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.selection import Filter
from permsolve.models.standing import Standing
from permsolve.patterns import NM, Pattern, parse
from permsolve.problem import Problem

Array = npt.NDArray[Any]


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
    saliency: object = "magnitude",
    layers: Filter | None = None,
    parametrize: bool = False,
) -> Pruned:
    """Prune a model in place to a pattern.

    To n:m: of every m consecutive input channels n are kept, for each output channel by itself. A convolution is pruned
    at every kernel position by itself, a grouped one inside each group. Of equal saliencies the one of the lower
    channel is kept.

    To patterns that cut matrices into tiles or blocks: rows stay where they are. A tile of HiNM keeps the columns that
    ``plan`` found for it, and elsewhere those of largest sums in their own order, or what ``search`` finds.

    Masks of ``torch.nn.utils.prune`` are kept too: what they prune stays pruned and gives way to entries they keep. All
    masks are computed before the first weight is changed.

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
        What the entries are ranked by: ``"magnitude"``, ``"energy"`` or a saliency object; a function of a weight's
        name and its values that returns an array (objects and functions see a weight with its input channels in axis
        1); or a mapping from weights' names to any of these or to arrays of the weights' own shapes.
    layers
        Which weights, as in `weights`.
    parametrize
        Hold the pruned entries at zero by a mask (a torch parametrization, `NMMask`) instead of writing zeros, so that
        training goes on around them. A weight that has parametrizations already gets the mask as one more, and one
        masked by ``torch.nn.utils.prune`` has its mask updated, whatever is said here.

    Returns
    -------
    Pruned
        Which weights were pruned, and which were left out and why.

    Raises
    ------
    InputError
        If an argument does not fit, no weight can be pruned, a weight is on the meta device or holds NaN or infinite
        entries, a weight has a mask of an earlier call, or the plan was not applied; the model is as it was then.
    ModelError
        If the plan is for another model.
    """
    pattern = parse(nm)
    standing = Standing(model, pattern, plan, search)
    listed = catalogue(model, layers, pattern)
    chosen = [weight for weight in listed if weight.reason is None]
    left_out = {weight.path: weight.reason for weight in listed if weight.reason is not None} | unlisted(model)
    if not chosen:
        raise InputError(f"no weight of the model can be pruned to {pattern}{first_few(left_out)}")
    for weight in chosen:
        if any(isinstance(step, NMMask) for step in weight.owners[0].parametrizations or ()):
            raise InputError(
                f"{weight.path} is pruned by a mask already; remove it first with "
                f"torch.nn.utils.parametrize.remove_parametrizations(module, {weight.attribute!r})"
            )
    ranking = ModelSaliency(saliency)
    ranking.check(listed, chosen)
    standing.share_out(chosen)
    masks, done, solutions = [], [], []
    for weight in chosen:
        values = weight.values()
        mask, solution = _mask(weight, values, ranking, pattern, standing)
        masks.append(np.packbits(mask))  # an eighth of a byte per entry: all masks of a large model fit in memory
        done.append((weight.path, weight.shape, int(np.count_nonzero(values[mask]))))
        solutions.append(solution if pattern.moves_rows else None)
    held = [
        _apply(weight, _unpack(bits, weight), parametrize, pattern) for weight, bits in zip(chosen, masks, strict=True)
    ]
    rows = tuple(PrunedWeight(*what) for what in zip(*zip(*done, strict=True), held, solutions, strict=True))
    return Pruned(pattern, ranking.name, rows, left_out)


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
            _need_cuda()
            fault = _device_fault(weight.parameter)
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


def _mask(
    weight: PrunableWeight, values: Array, ranking: ModelSaliency, pattern: Pattern, standing: Standing
) -> tuple[npt.NDArray[np.bool_], Any]:
    """Return which entries are kept, in the weight's own shape, and under which solution."""
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


def _unpack(bits: npt.NDArray[np.uint8], weight: PrunableWeight) -> torch.Tensor:
    size = int(np.prod(weight.shape))
    mask = np.unpackbits(bits, count=size).astype(np.bool_).reshape(weight.shape)
    return torch.from_numpy(mask).to(weight.parameter.device)


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


def _need_cuda() -> None:
    """Check that there is anything that multiplies 2:4 weights."""
    if not hasattr(torch.sparse, "to_sparse_semi_structured"):
        raise MissingDependencyError("this torch has no to_sparse_semi_structured; install torch 2.1 or later")
    if not torch.cuda.is_available():
        raise MissingDependencyError(
            "the semi-structured format needs a CUDA device of compute capability 8.0 or later, and torch sees no CUDA "
            "device; the dense weights with their zeros run anywhere"
        )


def _device_fault(tensor: torch.Tensor) -> str | None:
    """Say why the device cannot multiply a 2:4 weight."""
    if not tensor.is_cuda:
        return f"on {tensor.device}; move the model to a CUDA device first"
    capability = torch.cuda.get_device_capability(tensor.device)
    if capability < (8, 0):
        return f"on {tensor.device} of compute capability {capability[0]}.{capability[1]}; 8.0 or later is needed"
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.int8):
        return f"of dtype {str(tensor.dtype).removeprefix('torch.')}; convert the model to float16, bfloat16 or int8"
    return None
