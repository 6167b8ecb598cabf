"""A training that ends in n:m: what holds the weights, step after step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from permsolve.errors import InputError, ModelError
from permsolve.models.owner import memory
from permsolve.models.plan import Plan
from permsolve.models.prunable import catalogue, unlisted
from permsolve.models.pruned import Pruned, PrunedWeight, first_few
from permsolve.models.selection import Filter
from permsolve.models.verification import Verification
from permsolve.patterns import NM
from permsolve.training.hooks import Hook
from permsolve.training.masks import Held, TrainingMask, check_holdable, is_sparse
from permsolve.training.moving import moved, moves_of, states_of
from permsolve.training.phases import Moment, Phases
from permsolve.training.recipes import Recipe

#: What a saved state says it is.
SCHEMA = "permsolve.training/1"


class SparseTraining:
    """A model whose weights are held by masks that follow a recipe; made by `NMSchedule.attach`.

    The dense weights stay the parameters that the optimiser moves (``parametrizations.weight.original`` of their
    modules). The masks are buffers of the model, so its ``state_dict`` holds them.

    Parameters
    ----------
    model
        The model.
    nm
        The pattern at the end.
    recipe
        How masks come in.
    layers
        Which weights, as in `permsolve.models.weights`.

    Raises
    ------
    InputError
        If an argument does not fit, weights are held already, or none can be pruned.
    OptionError
        If the recipe cannot end in the pattern.
    """

    def __init__(self, model: nn.Module, nm: object, recipe: Recipe, layers: Filter | None = None) -> None:
        self.model = model
        self.nm = NM.parse(nm)
        self.recipe = recipe
        stages = recipe.patterns(self.nm)
        listed = catalogue(model, layers, self.nm)
        #: Weights that stay dense, and why.
        self.left_out = {each.path: each.reason for each in listed if each.reason is not None} | unlisted(model)
        chosen = [each for each in listed if each.reason is None]
        if not chosen:
            raise InputError(f"no weight of the model can be trained to {self.nm}{first_few(self.left_out)}")
        for weight in chosen:
            check_holdable(weight, stages)
        self._held = [
            Held(weight, TrainingMask(torch.ones_like(weight.parameter, dtype=torch.bool), stages[0]))
            for weight in chosen
        ]
        self._optimizer: Optimizer | None = None
        self._handles: list[Any] = []
        self._hook = Hook()
        self._phases = Phases(0, 0, 0)
        self._moment = Moment("dense", stages[0], 1.0)
        self._step = 0
        self._due = False  # whether the optimiser has made a step that step() does not know of yet
        self._bare = 0  # how many dense() are at work
        self._ended = False
        self._hold()

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the weights that are held."""
        return tuple(each.weight.path for each in self._held)

    @property
    def begun(self) -> bool:
        """Whether it has an optimiser."""
        return self._optimizer is not None

    @property
    def steps_done(self) -> int:
        """How often `step` was called."""
        return self._step

    @property
    def phase(self) -> str:
        """The part of the training: ``"dense"``, ``"masks"`` or ``"fine_tune"``."""
        return self._moment.phase

    @property
    def beta(self) -> float:
        """What pruned weights are multiplied by."""
        return self._moment.beta

    @property
    def pattern(self) -> NM:
        """The pattern of the masks."""
        return self._moment.nm

    def __repr__(self) -> str:
        """Return a line that says where the training stands."""
        where = "finished" if self._ended else f"{self.phase}, step {self._step} of {self._phases.steps}"
        return f"<SparseTraining to {self.nm} by {type(self.recipe).__name__}: {len(self._held)} weights, {where}>"

    def begin(self, steps: int, optimizer: Optimizer, state: Mapping[str, Any] | None = None) -> None:
        """Begin; `NMSchedule.attach` does this.

        Parameters
        ----------
        steps
            Steps in all.
        optimizer
            What trains the model.
        state
            What `state_dict` has returned, to go on from there with the masks that are in the model: for models whose
            own ``state_dict`` is loaded before this call.

        Raises
        ------
        InputError
            If it is no optimiser of this model, or not one that the recipe can use, or the training has begun, or the
            state is of another training.
        OptionError
            If the steps are too few.
        """
        if self._optimizer is not None or self._ended:
            raise InputError("this training has begun already; attach a schedule once")
        if not isinstance(optimizer, Optimizer):
            raise InputError(f"optimizer = {optimizer!r} is no torch.optim.Optimizer")
        trained = {id(each) for group in optimizer.param_groups for each in group["params"]}
        if not any(id(each.dense) in trained for each in self._held):
            raise InputError("the optimizer trains none of the weights: make it of this model's parameters()")
        self._phases = self.recipe.phases(steps, self.nm)
        self._hook = self.recipe.hook(self._held, optimizer)
        self._optimizer = optimizer
        self._step, self._due = 0, False
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]
        if state is None:
            self._enter()
        else:
            self.load_state_dict(state)

    def halt(self, *, resuming: bool = False) -> None:
        """Let go of the optimiser, as if the training had not begun; weights and masks stay as they are.

        Parameters
        ----------
        resuming
            Whether the optimiser's state was loaded from a checkpoint by now: what a recipe keeps there stays then.

        Raises
        ------
        InputError
            If the training is finished already.
        """
        self._check_open()
        for handle in self._handles:
            handle.remove()
        if not resuming:
            self._hook.close()
        self._optimizer, self._handles, self._hook = None, [], Hook()

    def step(self) -> None:
        """Go on to the next step; call it after every step of the optimiser.

        Raises
        ------
        InputError
            If the training has not begun, or is finished.
        """
        self._check_running()
        self._due = False
        self._step += 1
        self._phases = self._hook.revise(self._step, self._phases)
        self._enter()

    def finish(self) -> Pruned:
        """End the training, wherever it stands: weights become exactly n:m, and the masks are taken off.

        Masks that are not n:m yet are computed from the weights as they are.

        Returns
        -------
        Pruned
            Which weights were pruned, and which were left out and why.

        Raises
        ------
        InputError
            If it is finished already, or within `dense`.
        ModelError
            If a weight holds NaN or infinite entries; nothing is changed then.
        """
        self._check_running()
        self._check_held()
        for each in self._held:
            if not bool(torch.isfinite(each.dense).all()):
                raise ModelError(
                    f"{each.weight.path} holds NaN or infinite entries: the training has diverged; go back to a "
                    f"checkpoint, and lower the learning rate"
                )
        rows = []
        for each in self._held:
            if not is_sparse(each.step.mask, self.nm, each.weight.axis):
                each.refresh(self.nm)
            with torch.no_grad():
                each.dense.copy_(torch.where(each.step.mask, each.dense, 0))
            nonzero = int(torch.count_nonzero(each.dense))
            rows.append(PrunedWeight(each.weight.path, each.weight.shape, nonzero, False))
        self.detach()
        return Pruned(self.nm, "magnitude", tuple(rows), self.left_out)

    def detach(self) -> None:
        """Give up: take the masks off and leave the dense weights.

        Raises
        ------
        InputError
            If the training is finished already, or within `dense`.
        """
        self._check_open()
        self._check_held()
        self.halt()
        self._release()
        self._ended = True

    @contextmanager
    def dense(self) -> Iterator[nn.Module]:
        """Take the masks off for a while: the model is dense and plain, as `permsolve.models` needs it.

        Yields
        ------
        torch.nn.Module
            The model.

        Raises
        ------
        InputError
            If the training is finished already.
        """
        self._check_open()
        if not self._bare:
            self._release()
        self._bare += 1
        try:
            yield self.model
        finally:
            self._bare -= 1
            if not self._bare:
                self._hold()

    def permute(self, plan: Plan, *, example_inputs: object = None, verify: bool = True) -> Verification | None:
        """Apply a plan to the dense weights, between two steps; masks and the optimiser's moments move along.

        Then masks are computed anew in the new order. Solve the plan within `dense`, for the weights of this moment.

        Parameters
        ----------
        plan, example_inputs, verify
            As in `permsolve.models.Plan.apply_`.

        Returns
        -------
        Verification or None
            How far the outputs of the dense model are apart.

        Raises
        ------
        InputError
            If masks stand already and the permutation would break them, or the optimiser keeps something that cannot be
            permuted; nothing is changed then.
        ModelError
            As of `permsolve.models.Plan.apply_`.
        """
        self._check_running()
        assert self._optimizer is not None
        with self.dense():
            plan.check(self.model)
            moves = moves_of(plan, self.model)
            masks = [moved(each.step.mask, moves.get(memory(each.dense), ())) for each in self._held]
            stand = self._moment.phase == "fine_tune" and not self._moment.refresh
            for each, mask in zip(self._held, masks, strict=True):
                if stand and not is_sparse(mask, self.nm, each.weight.axis):
                    raise InputError(
                        f"the mask of {each.weight.path} stands, and is not {self.nm} in the new order: permute before "
                        f"fine-tuning (step {self._phases.fine_tune}), or finish() and attach anew"
                    )
            states = states_of(self._optimizer, moves)
            checked = plan.apply_(self.model, example_inputs=example_inputs, verify=verify)
            for each, mask in zip(self._held, masks, strict=True):
                each.step.mask.copy_(mask)
            for state, steps in states:
                state.copy_(moved(state, steps))
        if not stand and self.phase != "dense":
            for each in self._held:
                each.refresh(self._moment.nm)
        return checked

    def state_dict(self) -> dict[str, Any]:
        """Return where the training stands, to be saved beside the model's and the optimiser's ``state_dict``.

        Returns
        -------
        dict
            Strings and numbers. The masks are in the model's ``state_dict``.
        """
        return {
            "schema": SCHEMA,
            "recipe": repr(self.recipe),
            "nm": str(self.nm),
            "weights": list(self.names),
            "steps": self._phases.steps,
            "dense": self._phases.dense,
            "step": self._step,
            "hook": self._hook.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; load the model's and the optimiser's as well.

        Parameters
        ----------
        state
            What `state_dict` has returned.

        Raises
        ------
        InputError
            If it is of another training; nothing is changed then.
        """
        self._check_running()
        own = self.state_dict()
        if not isinstance(state, Mapping) or set(state) != set(own):
            raise InputError("this is no state of a SparseTraining: pass what its state_dict() has returned")
        for name in ("schema", "recipe", "nm", "weights", "steps"):
            if state[name] != own[name]:
                raise InputError(f"the state is of another training: {name} was {state[name]}, here it is {own[name]}")
        step, dense, hook = state["step"], state["dense"], state["hook"]
        counts = all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in (step, dense))
        numbers = isinstance(hook, (list, tuple)) and all(isinstance(each, (int, float)) for each in hook)
        if not counts or not numbers or dense > self._phases.fine_tune:
            raise InputError(
                f"the state is damaged: step = {step!r}, dense = {dense!r} and hook = {hook!r:.40} must be counts of "
                f"steps and a list of numbers; take another checkpoint"
            )
        self._step = step
        self._phases = Phases(dense, self._phases.fine_tune, self._phases.steps)
        self._hook.load(hook)
        self._due = False
        self._enter(refresh=False)

    def _enter(self, *, refresh: bool = True) -> None:
        """Make what holds in the coming step hold."""
        self._moment = moment = self.recipe.moment(self._step, self._phases, self.nm)
        for each in self._held:
            if moment.refresh and refresh:
                each.refresh(moment.nm)
            each.step.nm, each.step.beta, each.step.straight = moment.nm, moment.beta, moment.straight

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._due:
            raise InputError("the optimizer made a step without sparse.step() after it: call it after every step")
        if type(self._hook) is not Hook:
            name = type(self.recipe).__name__
            if any(each is not None for each in (*args[1:], *kwargs.values())):  # accelerate passes None
                raise InputError(
                    f"{name} works on gradients that are there: call backward() first, and step() without closure"
                )
            if getattr(optimizer, "grad_scale", None) is not None:
                raise InputError(
                    f"{name} needs unscaled gradients: use an optimizer without fused=True with a GradScaler"
                )
        self._hook.before(self.phase)

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._hook.after()
        self._due = True

    def _hold(self) -> None:
        done: list[Held] = []
        try:
            for each in self._held:
                each.hold()
                done.append(each)
        except BaseException:
            for each in reversed(done):
                each.release()
            raise

    def _release(self) -> None:
        for each in reversed(self._held):
            each.release()

    def _check_held(self) -> None:
        if self._bare:
            raise InputError("the masks are off the model just now: leave the block of dense() first")

    def _check_open(self) -> None:
        if self._ended:
            raise InputError("this training is finished: its masks are off the model; attach a schedule for another")

    def _check_running(self) -> None:
        self._check_open()
        if self._optimizer is None:
            raise InputError("this training has not begun: call begin(steps, optimizer)")
