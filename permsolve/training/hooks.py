"""What recipes do to the steps of an optimiser."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.optim import Adam, AdamW, Optimizer

from permsolve.errors import InputError
from permsolve.training.masks import Held
from permsolve.training.phases import Phases

#: Marks the state of parameters whose variance stands; the optimiser saves it with the rest.
FROZEN = "variance_frozen"


class Hook:
    """Does nothing; what it can do to steps."""

    def before(self, phase: str) -> None:
        """Do what comes before a step of the optimiser.

        Parameters
        ----------
        phase
            The part of the training that the step belongs to.
        """

    def after(self) -> None:
        """Do what comes after a step of the optimiser."""

    def revise(self, step: int, phases: Phases) -> Phases:
        """Return the parts of the training, in the light of the steps so far.

        Parameters
        ----------
        step
            The number of the next step.
        phases
            The parts so far.

        Returns
        -------
        Phases
            The parts.
        """
        return phases

    def state(self) -> list[float]:
        """Return what it has to remember.

        Returns
        -------
        list
            Numbers.
        """
        return []

    def load(self, state: Sequence[float]) -> None:
        """Go on from what was remembered.

        Parameters
        ----------
        state
            What `state` has returned.
        """

    def close(self) -> None:
        """Leave nothing behind."""


class PrunedDecay(Hook):
    """Adds a multiple of pruned weights to their gradients, once for each step.

    Parameters
    ----------
    held
        The weights.
    strength
        The factor.
    """

    def __init__(self, held: Sequence[Held], strength: float) -> None:
        self._held = held
        self._strength = strength

    def before(self, phase: str) -> None:
        """Add to the gradients while masks are learned."""
        if phase != "masks":
            return
        for each in self._held:
            weight = each.dense
            if weight.grad is not None:
                weight.grad.add_(torch.where(each.step.mask, 0, weight.detach()), alpha=self._strength)


class FrozenVariance(Hook):
    """Watches Adam's variances while the model is dense; once masks are learned, steps divide by what they were.

    From then on the steps of parameters with a variance are done here, and the optimiser sees no gradient of theirs.

    Parameters
    ----------
    optimizer
        Adam or AdamW.
    earliest
        Share of the dense part before which the switch does not come.

    Raises
    ------
    InputError
        If it is another optimiser, or uses options whose steps are others.
    """

    def __init__(self, optimizer: Optimizer, earliest: float) -> None:
        if not isinstance(optimizer, (Adam, AdamW)):
            raise InputError(
                f"STEP holds the variances of Adam, and {type(optimizer).__name__} has none: use torch.optim.Adam or "
                f"AdamW, or another recipe"
            )
        for name in ("amsgrad", "maximize"):
            if any(group[name] for group in optimizer.param_groups):
                raise InputError(f"STEP does not know Adam with {name}=True: leave it out, or use another recipe")
        self._optimizer = optimizer
        self._earliest = earliest
        beta = max(group["betas"][1] for group in optimizer.param_groups)
        self._changes: deque[float] = deque(maxlen=int(1 / (1 - beta) + 0.5))
        self._gradients: list[tuple[torch.Tensor, torch.Tensor]] = []

    def before(self, phase: str) -> None:
        """Note how the variances are going to change, or do the step with those that stand."""
        if phase == "dense":
            self._changes.append(self._change())
            return
        if not any(FROZEN in state for state in self._optimizer.state.values()):
            self._freeze()
        for parameter, gradient, group, state in self._trained():
            if FROZEN in state:
                self._update(parameter, gradient, group, state)
                self._gradients.append((parameter, gradient))
                parameter.grad = None

    def after(self) -> None:
        """Give the parameters their gradients back."""
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        self._gradients.clear()

    def revise(self, step: int, phases: Phases) -> Phases:
        """End the dense part where the variances have settled."""
        if step >= phases.dense or step < self._earliest * phases.dense or not self._changes:
            return phases
        eps = min(group["eps"] for group in self._optimizer.param_groups)
        settled = sum(self._changes) / len(self._changes) < eps
        return Phases(step, phases.fine_tune, phases.steps) if settled else phases

    def state(self) -> list[float]:
        """Return the changes of the variances in the last steps."""
        return list(self._changes)

    def load(self, state: Sequence[float]) -> None:
        """Go on from these changes."""
        self._changes.clear()
        self._changes.extend(state)

    def close(self) -> None:
        """Take the marks off the optimiser's state."""
        for state in self._optimizer.state.values():
            state.pop(FROZEN, None)

    def _trained(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, dict[str, Any], dict[str, Any]]]:
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield parameter, parameter.grad, group, self._optimizer.state[parameter]

    @torch.no_grad()
    def _change(self) -> float:
        """Return how much a variance is going to change in this step, on average over all weights."""
        total, size = 0.0, 0
        for parameter, gradient, group, state in self._trained():
            square = self._decayed(parameter, gradient, group).square()
            change = square - state["exp_avg_sq"] if "exp_avg_sq" in state else square
            total += (1 - group["betas"][1]) * float(change.abs().sum())
            size += parameter.numel()
        return total / size if size else 0.0

    @torch.no_grad()
    def _freeze(self) -> None:
        """Debias the variances, so that they stand for themselves in checkpoints, and mark them."""
        for group in self._optimizer.param_groups:
            for parameter in group["params"]:
                state = self._optimizer.state.get(parameter, {})
                if "exp_avg_sq" in state:
                    state["exp_avg_sq"] /= 1 - group["betas"][1] ** float(state["step"])
                    state[FROZEN] = True

    def _decouples(self, group: dict[str, Any]) -> bool:
        return isinstance(self._optimizer, AdamW) or bool(group.get("decoupled_weight_decay", False))

    def _decayed(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Return the gradient that Adam's moments see: with the weight decay, unless that is decoupled."""
        if group["weight_decay"] and not self._decouples(group):
            return gradient.add(parameter, alpha=group["weight_decay"])
        return gradient

    @torch.no_grad()
    def _update(
        self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any], state: dict[str, Any]
    ) -> None:
        """Do a step of Adam whose variance stands."""
        rate, beta = float(group["lr"]), group["betas"][0]
        gradient = self._decayed(parameter, gradient, group)
        if self._decouples(group):
            parameter.mul_(1 - rate * group["weight_decay"])
        state["step"] += 1
        mean = state["exp_avg"].lerp_(gradient, 1 - beta)
        ratio = mean / state["exp_avg_sq"].sqrt().add_(group["eps"]) / (1 - beta ** float(state["step"]))
        # Masked weights may have gradients far beyond those that the variance knows (none, of a token not met before).
        # Adam's own ratio hardly exceeds one; with a variance that stands nothing else would keep it there.
        parameter.add_(ratio.clamp_(-1, 1), alpha=-rate)
