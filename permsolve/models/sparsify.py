"""Pruned linear layers become compressed ones, and dense again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations
from torch.nn.utils.prune import BasePruningMethod

from permsolve.errors import InputError, ModelError
from permsolve.models.folding import fold_norms, fold_own
from permsolve.models.owner import Owner
from permsolve.models.plan import Plan
from permsolve.models.prunable import NOT_CHOSEN, PrunableWeight, catalogue, unlisted
from permsolve.models.pruned import Pruned, first_few
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.selection import Filter, close_names
from permsolve.models.sparsified import SparseWeight, Sparsified
from permsolve.models.standing import Standing
from permsolve.models.tensors import index_of, read_in_order
from permsolve.patterns import NM, Array, HiNMSolution, Pattern, Permutation, parse
from permsolve.sparse.compressed import DTYPES, Compressed, bits_of, compress
from permsolve.sparse.linear import SparseLinear, solution_for


def sparsify_(
    model: nn.Module,
    plan: Plan | None = None,
    *,
    nm: object = None,
    pruned: Pruned | None = None,
    solutions: Mapping[str, Any] | None = None,
    applied: bool = True,
    saliency: object = None,
    layers: Filter | None = None,
) -> Sparsified:
    """Replace the pruned linear layers of a model by compressed ones, in place; outputs stay as they are.

    A compressed layer reads its inputs and writes its outputs by index, so that any permutation of its own goes into it
    at no cost: neither its neighbours nor the order of the model's channels change. Indices that a plan with
    ``gather="norm"`` has put before a layer, or after a norm that only compressed layers read, go into theirs.

    Only layers that are exactly `torch.nn.Linear` or GPT-2's ``Conv1D`` are replaced. Layers of other kinds, such as
    convolutions, are left, and so are layers with hooks and layers that are not of the pattern.

    Parameters
    ----------
    model
        The model, pruned unless ``saliency`` is given. Masks and parametrizations of what is replaced become final.
    plan
        A plan for this model. It gives the pattern, and for HiNM the columns that tiles keep.
    nm
        Pattern, where neither a plan nor ``pruned`` gives it.
    pruned
        What `prune_` returned: it knows which columns each tile of HiNM keeps.
    solutions
        For single weights, by their names: a solution of the pattern in the weight's own order, or a
        `permsolve.Result`. Each weight may have an order of its own, whatever its neighbours do.
    applied
        Whether the plan was applied to the model. If not, the model stays in its order, and what the plan would have
        done to a weight goes into its index.
    saliency
        Prune on the way, by this saliency (as in `prune_`), what the solutions and the plan leave. None: what is not
        zero is kept, and must be of the pattern.
    layers
        Which weights, as in `weights`; each must then be one that can be replaced. By default all that can.

    Returns
    -------
    Sparsified
        Which weights were compressed, and which were left out and why.

    Raises
    ------
    InputError
        If an argument does not fit, no weight can be compressed, or one that was asked for cannot; the model is as it
        was then.
    ModelError
        If the plan is for another model or other weights.
    """
    pattern = _pattern(nm, plan, pruned)
    bits_of(pattern)  # refuses groups that the format cannot hold
    if not applied and plan is None:
        raise InputError("applied=False says that a plan was not applied: pass the plan")
    own = dict(solutions or {})
    orders = _Orders(model, pattern, plan, pruned, applied)
    listed = catalogue(model, layers, pattern)
    _check_names(own, listed)
    ranking = None if saliency is None else ModelSaliency(saliency)
    left_out = {weight.path: _fault(model, weight) for weight in listed} | unlisted(model)
    chosen = [weight for weight in listed if left_out[weight.path] is None]
    if ranking is not None:
        ranking.check(listed, chosen)
        orders.check_unpruned(model)
    found: dict[str, list[SparseLinear]] = {}
    done: list[SparseWeight] = []
    for weight in chosen:
        try:
            made = _compress(weight, pattern, orders, own, ranking)
        except InputError as error:
            left_out[weight.path] = str(error)
            continue
        found[weight.path] = _layers(weight, made)
        done.append(_describe(weight, made))
    faults = {path: reason for path, reason in left_out.items() if reason is not None}
    named = {_path(name, listed) for name in own}
    if layers is not None:
        named |= {weight.path for weight in listed if weight.reason != NOT_CHOSEN}
    asked = {path: reason for path, reason in faults.items() if path in named}
    if not found or asked:
        what = f"{len(asked)} weights cannot be compressed" if asked else f"no weight can be compressed to {pattern}"
        raise InputError(f"{what}{first_few(asked or faults)}")
    fresh = {
        id(owner.module): layer
        for weight in chosen
        for owner, layer in zip(weight.owners, found.get(weight.path, ()), strict=False)
    }
    folded = fold_own(chosen, found) + fold_norms(model, plan, chosen, found)
    swap(model, fresh)
    return Sparsified(pattern, tuple(done), faults, tuple(folded))


def check_compressible(model: nn.Module, nm: object) -> None:
    """Check that some layer could be replaced once it is pruned, before the work of pruning it.

    Parameters
    ----------
    model
        The model.
    nm
        The pattern.

    Raises
    ------
    InputError
        If there is none.
    """
    pattern = parse(nm)
    bits_of(pattern)
    faults = {weight.path: _fault(model, weight) for weight in catalogue(model, None, pattern)}
    if all(fault is not None for fault in faults.values()):
        reasons = {path: fault for path, fault in faults.items() if fault is not None}
        raise InputError(f"no weight can be compressed to {pattern}{first_few(reasons)}")


def densify_(model: nn.Module) -> tuple[str, ...]:
    """Replace the compressed layers of a model by dense ones with zeros, in place.

    They are of type `torch.nn.Linear`, whatever they were before. Indices that `sparsify_` took into the layers are
    then in the order of the weights' input channels.

    Parameters
    ----------
    model
        The model.

    Returns
    -------
    tuple
        Names of the layers.

    Raises
    ------
    InputError
        If it is no model, or itself a compressed layer.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"need a torch.nn.Module, got a {type(model).__name__}")
    fresh: dict[int, nn.Module] = {}
    shared: dict[int, torch.Tensor] = {}
    names = []
    for name, module in model.named_modules():
        if isinstance(module, SparseLinear):
            linear = module.to_linear()
            if id(module.values) in shared:
                linear.weight = shared[id(module.values)]
            shared[id(module.values)] = linear.weight
            linear.bias = module.bias  # type: ignore[assignment]
            fresh[id(module)] = linear
            names.append(name)
    if "" in names:
        raise InputError("the model itself is a compressed layer: use its to_linear()")
    swap(model, fresh)
    return tuple(names)


def replaceable(kind: type) -> bool:
    """Return whether layers of a type may be replaced by compressed ones.

    Parameters
    ----------
    kind
        The type.

    Returns
    -------
    bool
        True for `torch.nn.Linear` and transformers' ``Conv1D``, not for their subclasses, which may do more.
    """
    return kind is nn.Linear or (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def has_hooks(module: nn.Module) -> bool:
    """Return whether a layer has hooks that would be lost with it.

    Parameters
    ----------
    module
        The layer.

    Returns
    -------
    bool
        Not for masks and for the index of a plan, which compressed layers have of their own.
    """
    kinds = (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
    hooks = [hook for kind in kinds for hook in kind.values()]
    return any(hook is not read_in_order and not isinstance(hook, BasePruningMethod) for hook in hooks)


def swap(model: nn.Module, fresh: Mapping[int, nn.Module]) -> None:
    """Replace modules everywhere.

    Parameters
    ----------
    model
        The model.
    fresh
        New modules, by the ids of the old ones.
    """
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in fresh:
                setattr(parent, name, fresh[id(child)])


def attached_like(first: SparseLinear, bias: nn.Parameter | None) -> SparseLinear:
    """Return a layer that shares its weight with another.

    Parameters
    ----------
    first
        The other layer.
    bias
        The bias, which is shared with whoever else has it.

    Returns
    -------
    SparseLinear
        The layer.
    """
    layer = SparseLinear(first.compressed)
    layer.values, layer.bias = first.values, bias
    layer.train(first.training)
    return layer


def _pattern(nm: object, plan: Plan | None, pruned: Pruned | None) -> Pattern:
    if plan is not None and not isinstance(plan, Plan):
        raise InputError(f"plan = {plan!r} is no Plan; a pattern goes to nm=")
    if pruned is not None and not isinstance(pruned, Pruned):
        raise InputError(f"pruned = {pruned!r} is no Pruned, which prune_ returns")
    given = [] if nm is None else [parse(nm)]
    given += [each.nm for each in (plan, pruned) if each is not None]
    if not given:
        raise InputError("name the pattern, for example nm='2:4', or pass the plan or what prune_ returned")
    if any(each != given[0] for each in given):
        raise InputError(f"plan, pruned and nm must be of one pattern, got {', '.join(map(str, given))}")
    return given[0]


class _Orders:
    """The solution that a weight is of the pattern under, in the weight's own order."""

    def __init__(
        self, model: nn.Module, pattern: Pattern, plan: Plan | None, pruned: Pruned | None, applied: bool
    ) -> None:
        self._pattern = pattern
        self._plan = None if applied else plan
        self._pruned = {} if pruned is None else {each.name: each.solution for each in pruned.weights}
        self._standing = Standing(model, pattern, plan, applied=applied)

    def check_unpruned(self, model: nn.Module) -> None:
        """Check that a plan that was not applied was solved for these very weights."""
        for group in () if self._plan is None else self._plan.groups:
            if group.result is not None and group.fingerprint(model) != group.result.fingerprint:
                raise ModelError(f"group {group.name!r} was solved for other weights than this model's")

    def of(self, weight: PrunableWeight, scores: Array) -> Any:
        known = self._pruned.get(weight.path)
        if known is not None:
            return known
        if self._plan is None:
            return self._standing.of(weight, scores)
        rows, cols = _moved(self._plan, weight)
        there = self._standing.of(weight, scores[np.ix_(rows, cols)])
        if isinstance(self._pattern, NM):
            return cols[there]
        return HiNMSolution(rows[there.rows], cols[there.columns])


def _moved(plan: Plan, weight: PrunableWeight) -> tuple[Permutation, Permutation]:
    """Return where the rows and columns of a weight come from once a plan is applied."""
    orders = [np.arange(size) for size in weight.shape]  # of the weight's own axes
    for group in plan.groups:
        for move in group.movements if group.perm is not None else ():
            if move.role in ("index", "pointed") or move.name not in (weight.name, *weight.names):
                continue
            if len(move.view) != 2 or len(move.axes) != 1:
                raise InputError(f"the plan moves it as {move.view} along {move.axes}: apply the plan first")
            assert group.perm is not None
            orders[move.axes[0]] = orders[move.axes[0]][index_of(move, group.perm)]
    return orders[1 - weight.axis], orders[weight.axis]


def _check_names(own: Mapping[str, Any], listed: list[PrunableWeight]) -> None:
    for name in own:
        if _path(name, listed) is None:
            known = [text for weight in listed for text in weight.names]
            raise InputError(f"solutions: {name!r} is no weight of the model; {close_names(name, known)}")


def _path(name: str, listed: list[PrunableWeight]) -> str | None:
    return next((weight.path for weight in listed if name in (weight.path, *weight.names)), None)


def _fault(model: nn.Module, weight: PrunableWeight) -> str | None:
    """Say why a layer cannot be replaced."""
    if weight.reason is not None:
        return weight.reason
    if weight.parameter.dtype not in DTYPES:
        return f"of dtype {str(weight.parameter.dtype).removeprefix('torch.')}: compressed weights are of floats"
    if weight.parameter.is_meta:
        return "on the meta device, without values"
    return next((fault for owner in weight.owners if (fault := _owner_fault(model, owner)) is not None), None)


def _owner_fault(model: nn.Module, owner: Owner) -> str | None:
    module = owner.module
    kind = type_before_parametrizations(module)
    if not replaceable(kind):
        return f"of a {kind.__name__}: only torch.nn.Linear and transformers' Conv1D are replaced"
    if module is model:
        return "the model itself: use permsolve.sparse.SparseLinear.from_linear"
    if is_parametrized(module, "bias") or not isinstance(module.bias, (nn.Parameter, type(None))):
        return "its bias is not a plain parameter; remove what computes it first"
    if has_hooks(module):
        return "has hooks, which would be lost; remove them first"
    return None


def _compress(
    weight: PrunableWeight, pattern: Pattern, orders: _Orders, own: Mapping[str, Any], ranking: ModelSaliency | None
) -> Compressed:
    values = weight.to_matrix(weight.values())
    scores = np.abs(values) if ranking is None else ranking.matrix(weight, weight.values())
    tensor = weight.effective() if weight.axis == 1 else weight.effective().T
    name = next((name for name in own if name in (weight.path, *weight.names)), None)
    if name is None:
        solution = orders.of(weight, scores)
    else:
        solution = solution_for(tensor, pattern, own[name], exact=ranking is not None)
    solution = pattern.check_solution(solution, (values.shape[0], values.shape[1]))
    if ranking is not None:
        return compress(tensor, pattern, solution, mask=pattern.mask(scores, solution))
    try:
        return compress(tensor, pattern, solution, mask=values != 0)
    except InputError as error:
        hint = "prune it first, or give a saliency to prune it on the way"
        if pattern.moves_rows:
            hint += "; if it is pruned, pass what prune_ returned (pruned=)"
        raise InputError(f"{error}; {hint}") from error


def _layers(weight: PrunableWeight, compressed: Compressed) -> list[SparseLinear]:
    """Return a layer for every owner of the weight; they share it."""
    first: SparseLinear | None = None
    layers = []
    for owner in weight.owners:
        bias: nn.Parameter | None = owner.module.bias  # type: ignore[assignment]
        if first is None:
            layer = first = SparseLinear(compressed)
            layer.values.requires_grad_(owner.stored().requires_grad)
            layer.bias = bias
        else:
            layer = attached_like(first, bias)
        layer.train(owner.module.training)
        layers.append(layer)
    return layers


def _describe(weight: PrunableWeight, made: Compressed) -> SparseWeight:
    index, rows = made.index.cpu().numpy(), made.rows.cpu().numpy()
    permuted = bool((np.diff(index, axis=1) < 0).any() or (np.diff(rows) != 1).any())
    dense = made.shape[0] * made.shape[1] * made.values.element_size()
    return SparseWeight(weight.path, weight.shape, dense, made.nbytes, permuted)
