"""The recipes: how masks come into a training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from inspect import isabstract
from itertools import pairwise
from typing import ClassVar

from torch.optim import Optimizer

from permsolve.errors import InputError, OptionError
from permsolve.patterns import NM
from permsolve.training.hooks import FrozenVariance, Hook, PrunedDecay
from permsolve.training.masks import Held
from permsolve.training.phases import Moment, Phases

#: What an exponential decay has come to at its last update, where no rate is given.
LAST = 0.01


@dataclass(frozen=True)
class Recipe(ABC):
    """How masks come into a training: a frozen dataclass whose fields are its options."""

    #: Where it comes from.
    source: ClassVar[str] = ""

    def patterns(self, nm: NM) -> tuple[NM, ...]:
        """Return the patterns that masks go through.

        Parameters
        ----------
        nm
            The pattern at the end.

        Returns
        -------
        tuple
            Patterns; the last one is ``nm``.

        Raises
        ------
        OptionError
            If the recipe cannot end there.
        """
        return (nm,)

    @abstractmethod
    def phases(self, steps: int, nm: NM) -> Phases:
        """Divide a training into its parts.

        Parameters
        ----------
        steps
            Optimiser steps in all.
        nm
            The pattern at the end.

        Returns
        -------
        Phases
            The parts.

        Raises
        ------
        OptionError
            If the steps are too few.
        """

    def moment(self, step: int, phases: Phases, nm: NM) -> Moment:
        """Return what holds during a step.

        Parameters
        ----------
        step
            Its number, from 0.
        phases
            The parts of the training.
        nm
            The pattern at the end.

        Returns
        -------
        Moment
            What holds.
        """
        phase = phases.at(step)
        if phase == "dense":
            return Moment(phase, self.patterns(nm)[0], 1.0)
        if phase == "fine_tune":
            return Moment(phase, nm, 0.0, refresh=step == phases.fine_tune)
        return self._masks(step - phases.dense, phases.fine_tune - phases.dense, nm)

    def hook(self, held: Sequence[Held], optimizer: Optimizer) -> Hook:
        """Return what it does to the steps of an optimiser.

        Parameters
        ----------
        held
            The weights.
        optimizer
            The optimiser.

        Returns
        -------
        Hook
            By default one that does nothing.

        Raises
        ------
        InputError
            If it needs another optimiser.
        """
        return Hook()

    def _masks(self, step: int, steps: int, nm: NM) -> Moment:
        """Return what holds between the dense part and fine-tuning, by the number of the step there."""
        raise NotImplementedError


@dataclass(frozen=True)
class Masked(Recipe):
    """Masked fine-tuning: the masks of the first weights stand, pruned weights are zero.

    Parameters
    ----------
    dense
        Share of the steps before the masks are computed.

    Raises
    ------
    OptionError
        If it is no share.
    """

    source: ClassVar[str] = "Mishra et al., 'Accelerating Sparse Deep Neural Networks', 2021, arXiv 2104.08378"

    dense: float = 0.0

    def __post_init__(self) -> None:
        """Validate the share."""
        _check_shares(dense=self.dense)

    def phases(self, steps: int, nm: NM) -> Phases:
        """Divide by the share: nothing lies between the dense steps and fine-tuning."""
        dense = Phases.of(steps, self.dense, 0.0, 1).dense
        return Phases(dense, dense, steps)


@dataclass(frozen=True)
class MaskDecay(Recipe):
    """Pruning mask decay: pruned weights are multiplied by a factor that falls from one to zero.

    The forward pass uses ``W * (mask + beta * (1 - mask))``. The k-th update of the decay sets beta to
    ``max(0, 1 - rate * k)`` or ``exp(-rate * k)`` and computes the masks anew; fine-tuning sets it to zero.

    Parameters
    ----------
    decay
        ``"linear"`` or ``"exponential"``.
    dense, fine_tune
        Shares of the steps before the decay, and after it, when masks stand.
    rate
        How fast beta falls with every update; by default such that fine-tuning is its next value of a linear decay,
        and that an exponential one ends at 0.01.
    every
        Steps between updates.
    gradient
        ``"scaled"``: a pruned weight gets the gradient of the product, which is scaled by beta. ``"straight"``: it gets
        that of the masked weight whole.

    Raises
    ------
    OptionError
        If an option has a value that it cannot take.
    """

    source: ClassVar[str] = "Kao et al., 2022, arXiv 2209.07617; Bambhaniya et al., 2024, arXiv 2402.04744"

    decay: str = "exponential"
    dense: float = 0.0
    fine_tune: float = 0.75
    rate: float | None = None
    every: int = 1
    gradient: str = "straight"

    def __post_init__(self) -> None:
        """Validate the options."""
        _check_choice("decay", self.decay, ("linear", "exponential"))
        _check_shares(dense=self.dense, fine_tune=self.fine_tune)
        if self.rate is not None and not (_is_number(self.rate) and 0 < self.rate < math.inf):
            raise OptionError(f"rate = {self.rate!r} must be a positive number, or None for one that fits the steps")
        _check_every(self.every)
        _check_gradient(self.gradient)

    def phases(self, steps: int, nm: NM) -> Phases:
        """Divide by the shares."""
        return Phases.of(steps, self.dense, self.fine_tune, 1)

    def beta(self, update: int, updates: int) -> float:
        """Return the factor of pruned weights.

        Parameters
        ----------
        update
            Number of the update, from 1; 0 stands for the dense weights.
        updates
            Updates in all.

        Returns
        -------
        float
            From one down to zero.
        """
        if self.decay == "linear":
            return max(0.0, 1.0 - (1.0 / (updates + 1) if self.rate is None else self.rate) * update)
        return math.exp(-(-math.log(LAST) / updates if self.rate is None else self.rate) * update)

    def _masks(self, step: int, steps: int, nm: NM) -> Moment:
        beta = self.beta(1 + step // self.every, -(-steps // self.every))
        return Moment("masks", nm, beta, self.gradient == "straight", step % self.every == 0)


@dataclass(frozen=True)
class StructureDecay(Recipe):
    """Sparse structure decay: masks of ever sparser, or ever narrower patterns, each for an equal share of the steps.

    Parameters
    ----------
    stages
        ``"stepwise"``: (m-1):m, m/2:m, m/4:m and so on to n:m, for 1:8 7:8, 4:8, 2:8, 1:8; n must be one of these.
        ``"geometric"``: n 2^k : m 2^k for k = 3, 2, 1, 0, for 1:8 8:64, 4:32, 2:16, 1:8; the number of input channels
        must be a multiple of 8 m, and the order of the groups matters, not only which channels share one. Or a list of
        patterns that ends in n:m.
    dense, fine_tune
        Shares of the steps before the first stage, and after the last one, when masks stand.
    every
        Steps between masks that are computed anew within a stage.
    gradient
        ``"scaled"``: pruned weights get no gradient. ``"straight"``: they get that of the masked weight whole.

    Raises
    ------
    OptionError
        If an option has a value that it cannot take.
    """

    source: ClassVar[str] = "Kao et al., 2022, arXiv 2209.07617; Bambhaniya et al., 2024, arXiv 2402.04744"

    stages: str | Sequence[object] = "stepwise"
    dense: float = 0.0
    fine_tune: float = 0.9
    every: int = 1
    gradient: str = "straight"

    def __post_init__(self) -> None:
        """Validate the options."""
        if isinstance(self.stages, str) or not isinstance(self.stages, Iterable):
            _check_choice("stages", self.stages, ("stepwise", "geometric"))
        else:
            stages = tuple(NM.parse(stage) for stage in self.stages)
            if not stages or any(a.n * b.m < b.n * a.m for a, b in pairwise(stages)):
                raise OptionError(
                    f"stages = {[str(stage) for stage in stages]} must be patterns, none denser than the one before"
                )
            object.__setattr__(self, "stages", tuple(map(str, stages)))
        _check_shares(dense=self.dense, fine_tune=self.fine_tune)
        _check_every(self.every)
        _check_gradient(self.gradient)

    def patterns(self, nm: NM) -> tuple[NM, ...]:
        """Return the stages."""
        if self.stages == "geometric":
            return tuple(NM(nm.n << k, nm.m << k) for k in (3, 2, 1, 0))
        if self.stages == "stepwise":
            return _stepwise(nm)
        stages = tuple(NM.parse(stage) for stage in self.stages)
        if stages[-1] != nm:
            raise OptionError(
                f"stages = {list(self.stages)} end in {stages[-1]}, not in {nm}: add it, or train to that"
            )
        return stages

    def phases(self, steps: int, nm: NM) -> Phases:
        """Divide by the shares; every stage needs a step."""
        return Phases.of(steps, self.dense, self.fine_tune, len(self.patterns(nm)))

    def _masks(self, step: int, steps: int, nm: NM) -> Moment:
        stages = self.patterns(nm)
        stage, before = (len(stages) * at // steps for at in (step, step - 1))
        refresh = stage != before or step % self.every == 0
        # Beyond the end, in a training without fine-tuning, the last stage goes on.
        return Moment("masks", stages[min(stage, len(stages) - 1)], 0.0, self.gradient == "straight", refresh)


@dataclass(frozen=True)
class SRSTE(Recipe):
    """Sparse-refined straight-through estimator: masks follow the weights at every step, pruned weights shrink.

    The forward pass uses ``W * mask``; every weight gets the gradient of the masked weight whole, and pruned ones
    ``strength * W`` on top of it. That is added once for each step of the optimiser (after gradients were accumulated,
    unscaled and clipped).

    Parameters
    ----------
    strength
        How fast pruned weights shrink.
    dense, fine_tune
        Shares of the steps before masks are learned, and after it, when masks stand; none as published.

    Raises
    ------
    OptionError
        If an option has a value that it cannot take.
    """

    source: ClassVar[str] = "Zhou et al., ICLR 2021, arXiv 2102.04010"

    strength: float = 2e-4
    dense: float = 0.0
    fine_tune: float = 0.0

    def __post_init__(self) -> None:
        """Validate the options."""
        if not (_is_number(self.strength) and 0 <= self.strength < math.inf):
            raise OptionError(f"strength = {self.strength!r} must be a number of at least 0, for example 2e-4")
        _check_shares(dense=self.dense, fine_tune=self.fine_tune)

    def phases(self, steps: int, nm: NM) -> Phases:
        """Divide by the shares."""
        return Phases.of(steps, self.dense, self.fine_tune, 1)

    def hook(self, held: Sequence[Held], optimizer: Optimizer) -> Hook:
        """Return what shrinks pruned weights."""
        return PrunedDecay(held, self.strength)

    def _masks(self, step: int, steps: int, nm: NM) -> Moment:
        return Moment("masks", nm, 0.0, straight=True, refresh=True)


@dataclass(frozen=True)
class STEP(Recipe):
    """STEP: Adam learns variances on dense weights; then these stand, and masks are learned straight through.

    Masked weights have gradients that spoil Adam's second moment. So the moments are learned first; from the switch on
    every step divides by the variance of the switch (debiased), while masks follow the weights as in `SRSTE` (without
    its shrinking). The switch comes by itself where the variance has settled: when its mean change for a weight,
    averaged over the last 1 / (1 - beta_2) steps, is below Adam's eps. It comes at ``latest`` in any case. No entry
    moves further in a step than the learning rate (ours: the gradients of masked weights can be far beyond those that
    the variance was learned from, above all in a model that was trained before). As published, masks are learned to the
    end; here they stand for the last part by default.

    Parameters
    ----------
    earliest, latest
        Shares of the steps between which the switch may come; equal ones fix it.
    fine_tune
        Share of the steps at the end when masks stand.

    Raises
    ------
    OptionError
        If an option has a value that it cannot take.
    """

    source: ClassVar[str] = "Lu et al., ICML 2023, arXiv 2302.01172"

    earliest: float = 0.02
    latest: float = 0.05
    fine_tune: float = 0.4

    def __post_init__(self) -> None:
        """Validate the options."""
        _check_shares(latest=self.latest, fine_tune=self.fine_tune)
        if not (_is_number(self.earliest) and 0 < self.earliest <= self.latest):
            raise OptionError(
                f"earliest = {self.earliest!r} and latest = {self.latest!r} must hold 0 < earliest <= latest: "
                f"variances come from dense steps"
            )

    def phases(self, steps: int, nm: NM) -> Phases:
        """Divide by the shares, with the latest switch."""
        return Phases.of(steps, self.latest, self.fine_tune, 1)

    def hook(self, held: Sequence[Held], optimizer: Optimizer) -> Hook:
        """Return what watches the variances, and then holds them."""
        return FrozenVariance(optimizer, self.earliest / self.latest)

    def _masks(self, step: int, steps: int, nm: NM) -> Moment:
        return Moment("masks", nm, 0.0, straight=True, refresh=True)


#: The recipes by name.
RECIPES: dict[str, type[Recipe]] = {
    "masked": Masked,
    "mask_decay": MaskDecay,
    "structure_decay": StructureDecay,
    "sr_ste": SRSTE,
    "step": STEP,
}


def resolve(spec: object) -> Recipe:
    """Return the recipe that a user means.

    Parameters
    ----------
    spec
        A recipe, its class or its name.

    Returns
    -------
    Recipe
        The recipe.

    Raises
    ------
    InputError
        If there is none, or there are several.
    """
    if isinstance(spec, Recipe):
        return spec
    if isinstance(spec, type) and issubclass(spec, Recipe) and not isabstract(spec):
        return spec()
    if isinstance(spec, str) and spec in RECIPES:
        return RECIPES[spec]()
    if isinstance(spec, (list, tuple)):
        several = " and ".join(type(resolve(each)).__name__ for each in spec)
        raise InputError(
            f"recipes cannot be combined, got {several or 'none'}: a decay lets the gradient of pruned weights die "
            f"away, SR-STE and STEP pass it whole and choose masks anew at every step; choose one"
        )
    raise InputError(f"recipe = {spec!r} is unknown; give one of {', '.join(map(repr, RECIPES))}, or a recipe object")


def _stepwise(nm: NM) -> tuple[NM, ...]:
    kept, size = [nm.m - 1], nm.m
    while kept[-1] != nm.n:
        if size % 2 or size // 2 < nm.n:
            known = ", ".join(f"{n}:{nm.m}" for n in kept)
            raise OptionError(
                f"stages = 'stepwise' halves what is kept ({known}) and never comes to {nm}; give a list of stages "
                f"that ends in it"
            )
        size //= 2
        if size < kept[-1]:
            kept.append(size)
    return tuple(NM(n, nm.m) for n in kept)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise OptionError(f"{name} = {value!r} must be {' or '.join(map(repr, known))}")


def _check_gradient(value: object) -> None:
    if value in ("sr_ste", "srste", SRSTE) or isinstance(value, SRSTE):
        raise OptionError(
            "SR-STE cannot be combined with a decay: it chooses masks anew at every step and passes the gradient "
            "whole, a decay lets it die away; use the recipe SRSTE alone, or gradient = 'straight'"
        )
    _check_choice("gradient", value, ("scaled", "straight"))


def _check_every(value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise OptionError(f"every = {value!r} must be a positive number of steps")


def _check_shares(**shares: float) -> None:
    for name, share in shares.items():
        if not (_is_number(share) and 0 <= share < 1):
            raise OptionError(f"{name} = {share!r} must be a share of the steps, at least 0 and below 1")
    if sum(shares.values()) >= 1:
        said = " and ".join(f"{name} = {share}" for name, share in shares.items())
        raise OptionError(f"{said} leave no steps for the masks in between: their sum must be below 1")
