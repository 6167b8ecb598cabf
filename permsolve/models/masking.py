"""The masks that a model's weights get under permutations that are being learned, in the weights' own order.

Permuting everything leaves a model's function as it is, so a permutation acts through the masks alone: the saliency is
permuted, the mask chosen, and the mask put back. No activation is gathered and no layer around is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from permsolve.errors import InputError
from permsolve.learning.masks import put_back, take, top_mask
from permsolve.learning.sites import Ints, Site
from permsolve.models.group import Group, effective
from permsolve.models.grouping import Movement
from permsolve.models.prunable import PrunableWeight, catalogue
from permsolve.models.pruned import first_few
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.selection import Filter
from permsolve.models.tensors import reorder_
from permsolve.patterns import NM

if TYPE_CHECKING:
    from permsolve.models.plan import Plan

Array = npt.NDArray[Any]

#: Makes the masks of one weight's share in a site: of the scores per stack, (k, b, lines), masks of the same shape.
Masker = Callable[[int, list[torch.Tensor]], list[torch.Tensor]]


@dataclass(eq=False)
class Masked:
    """A weight that is pruned.

    Parameters
    ----------
    weight
        The weight.
    values
        Its values, detached.
    scores
        Its saliency, in its own shape, in units of its mean.
    unit
        That mean.
    base
        bool: its mask where no permutation moves anything.
    """

    weight: PrunableWeight
    values: torch.Tensor
    scores: torch.Tensor
    unit: float
    base: torch.Tensor


@dataclass(eq=False)
class Share:
    """What a group moves of a weight.

    Parameters
    ----------
    owner
        Number of the weight.
    site
        Number of the group.
    move
        What the group does to it.
    scores
        Saliency, (channels, lines), channels in the group's order.
    """

    owner: int
    site: int
    move: Movement
    scores: torch.Tensor


class Masks:
    """Masks of all pruned weights of a model, as functions of the permutations of a plan.

    Parameters
    ----------
    model
        The model.
    plan
        Its plan, of plain n:m.
    ranking
        The saliency.
    layers
        Which weights are pruned, as in `prune_`.

    Raises
    ------
    InputError
        If no weight can be pruned, none of them gains by the plan, or the saliency does not fit.
    """

    def __init__(self, model: nn.Module, plan: Plan, ranking: ModelSaliency, layers: Filter | None) -> None:
        assert isinstance(plan.nm, NM)
        self.nm = plan.nm
        self.groups = plan.groups
        listed = catalogue(model, layers, plan.nm)
        chosen = [weight for weight in listed if weight.reason is None]
        left_out = {weight.path: weight.reason for weight in listed if weight.reason is not None}
        if not chosen:
            raise InputError(f"no weight of the model can be pruned to {plan.nm}{first_few(left_out)}")
        for weight in chosen:
            if weight.owners[0].parametrizations is not None or weight.owners[0].mask is not None:
                raise InputError(
                    f"{weight.path} has a parametrization or mask; make it final first, by "
                    f"torch.nn.utils.parametrize.remove_parametrizations or torch.nn.utils.prune.remove"
                )
        ranking.check(listed, chosen)
        self.weights = [self._masked(weight, ranking) for weight in chosen]
        self.shares = list(self._shares(plan.groups))
        if not self.shares:
            raise InputError("none of the pruned weights gains by the plan's permutations: choose others by layers=")
        #: Weights whose groups of m change because their channels follow, and what moves them, by number.
        self.carried = self._carried(plan.groups)

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that read the pruned weights."""
        return [owner.module for each in self.weights for owner in each.weight.owners]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.weights[0].values.device

    def saliencies(self, model: nn.Module) -> dict[str, Array]:
        """Return the saliency of every weight that gains by the plan, in its own shape; zero where it is not pruned.

        Parameters
        ----------
        model
            The model.

        Returns
        -------
        dict
            Arrays by the names that the plan uses.
        """
        owners = {name: each for each in self.weights for name in each.weight.names}
        found = {}
        for group in self.groups:
            for move in group.gaining:
                one = owners.get(move.name)
                if one is None:
                    found[move.name] = np.zeros(tuple(effective(model, move).shape), dtype=np.float32)
                else:
                    found[move.name] = one.scores.cpu().numpy() * np.float32(one.unit)
        return found

    @property
    def learnable(self) -> tuple[int, ...]:
        """Numbers of the groups whose permutation any pruned weight depends on."""
        return tuple(sorted({share.site for share in self.shares}))

    def _masked(self, weight: PrunableWeight, ranking: ModelSaliency) -> Masked:
        if ranking.objective(weight) is not None:
            raise InputError(
                "plan.learn needs a saliency that ranks entry by entry, and 'output_error' does not: use 'wanda' or "
                "'obs', or solve the plan for the output error and learn from there with start='solved'"
            )
        matrix = ranking.matrix(weight, weight.values())
        base = self.nm.mask(matrix, np.arange(weight.cols))
        scores = np.ascontiguousarray(weight.from_matrix(matrix), dtype=np.float64)
        unit = float(scores.mean()) or 1.0
        device = weight.parameter.device
        return Masked(
            weight,
            weight.parameter.detach(),
            torch.from_numpy((scores / unit).astype(np.float32)).to(device),
            unit,
            torch.from_numpy(np.ascontiguousarray(weight.from_matrix(base))).to(device),
        )

    def _shares(self, groups: Sequence[Group]) -> list[Share]:
        owners = {name: k for k, each in enumerate(self.weights) for name in each.weight.names}
        found = []
        for site, group in enumerate(groups):
            for move in group.gaining:
                owner = owners.get(move.name)
                if owner is not None:
                    columns = group._columns(move, self.weights[owner].scores)
                    found.append(Share(owner, site, move, columns.T.contiguous()))
        return found

    def _carried(self, groups: Sequence[Group]) -> dict[int, list[tuple[int, Movement]]]:
        owners = {name: k for k, each in enumerate(self.weights) for name in each.weight.names}
        found: dict[int, list[tuple[int, Movement]]] = {}
        for site, group in enumerate(groups):
            for move in group.movements:
                if move.role in ("consumer", "carried", "follower") and move.name in owners:
                    found.setdefault(owners[move.name], []).append((site, move))
        return {k: moves for k, moves in found.items() if any(move.role != "consumer" for _, move in moves)}

    def _bases(self, perms: Sequence[Ints | None]) -> dict[int, torch.Tensor]:
        """Return the masks of weights that are carried along, in their own order."""
        found = {}
        for k, moves in self.carried.items():
            one = self.weights[k]
            steps = [(move, self._perm(site, perms)) for site, move in moves]
            scores = one.scores.clone()
            for move, perm in steps:
                reorder_(scores, move, perm)
            lines = scores.movedim(one.weight.axis, 0)
            mask = top_mask(lines.flatten(1), self.nm.n, self.nm.m).reshape(lines.shape)
            mask = mask.movedim(0, one.weight.axis).contiguous()
            for move, perm in reversed(steps):
                reorder_(mask, move, np.argsort(perm))
            found[k] = mask
        return found

    def _perm(self, site: int, perms: Sequence[Ints | None]) -> Ints:
        """Return the permutation that a group will have: the one given, else the one in the plan."""
        perm, group = perms[site], self.groups[site]
        perm = group.perm if perm is None else perm
        return np.arange(group.channels) if perm is None else np.array(perm)

    def hard(self, perms: Sequence[Ints | None]) -> dict[str, torch.Tensor]:
        """Return the pruned weights under permutations.

        Parameters
        ----------
        perms
            A permutation for each group; None where it is not learned: then the plan's own counts, if there is one.

        Returns
        -------
        dict
            Weights by name of their parameter.
        """
        found = self._bases(perms)
        for share in self.shares:
            order = torch.from_numpy(self._perm(share.site, perms)).to(share.scores.device)
            permuted = take(share.scores[None], order[None])
            mask = put_back(top_mask(permuted, self.nm.n, self.nm.m), order[None])[0]
            self._put(found, share, mask)
        return self._apply(found)

    def relaxed(
        self, sites: Sequence[Site | None], masker: Masker, perms: Sequence[Ints | None] = ()
    ) -> dict[str, torch.Tensor]:
        """Return the pruned weights under permutations that are being learned.

        Parameters
        ----------
        sites
            A site for each group, or None.
        masker
            Makes the masks of a share: it gets the number of the site and scores (k, b, lines) for each stack.
        perms
            The hard permutations of the moment, as in `hard`; read where `carried` is not empty. What channels that
            follow do to masks has no gradient.

        Returns
        -------
        dict
            Weights by name of their parameter, with gradients.
        """
        found = self._bases(perms)
        for share in self.shares:
            site = sites[share.site]
            assert site is not None
            masks = masker(share.site, [share.scores[channels] for channels in site.stacks])
            channels = torch.cat([each.flatten() for each in site.stacks])
            whole = torch.cat([each.flatten(0, 1) for each in masks])
            self._put(found, share, whole[torch.argsort(channels)])
        return self._apply(found)

    def _put(self, found: dict[int, torch.Tensor], share: Share, mask: torch.Tensor) -> None:
        """Put a share's mask, (channels, lines), into that of its weight."""
        masked = self.weights[share.owner]
        before = found.get(share.owner)
        whole = masked.base if before is None else before
        found[share.owner] = spread(share.move, whole.to(mask.dtype), mask.T)

    def _apply(self, found: dict[int, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = {}
        for k, each in enumerate(self.weights):
            mask = found.get(k, each.base)
            weights[each.weight.name] = each.values * mask.to(each.values.dtype)
        return weights


def spread(move: Movement, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Put the columns of a group's channels back into an array of a weight's shape.

    Parameters
    ----------
    move
        What the group does to the weight.
    whole
        Of the weight's shape; what stands elsewhere in it stays.
    part
        (lines, channels), all occurrences one after the other, as `Group.matrices` arranges them.

    Returns
    -------
    torch.Tensor
        Of the weight's shape.
    """
    rest = [axis for axis in range(len(move.view)) if axis not in move.axes]
    axes = [*rest, *move.axes]
    lined_up = whole.reshape(move.view).permute(axes)
    flat = lined_up.reshape(-1, int(np.prod([move.view[axis] for axis in move.axes])))
    for positions, lines in zip(move.positions, part.chunk(len(move.positions)), strict=True):
        flat = flat.index_copy(1, torch.as_tensor(positions, device=flat.device), lines)
    return flat.reshape(lined_up.shape).permute(*np.argsort(axes).tolist()).reshape(whole.shape)
