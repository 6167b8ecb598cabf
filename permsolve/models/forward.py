"""Running a model with other weights: batches, losses of outputs, outputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from permsolve.errors import InputError
from permsolve.models.trace import as_call, evaluating

#: A task's loss, of what the model returns and the batch's target.
Loss = Callable[[Any, Any], torch.Tensor]


class Batch(NamedTuple):
    """A batch: what the model is called with, and what its outputs are compared with, if anything."""

    inputs: Any
    target: Any = None


class Batches:
    """Batches that can be gone through several times.

    Parameters
    ----------
    source
        What the user gave: a list or loader of inputs, or of pairs (inputs, target).
    name
        Its name, for messages.
    paired
        Whether they are pairs.

    Raises
    ------
    InputError
        If it can be gone through only once, or not at all.
    """

    def __init__(self, source: Iterable[object], name: str, *, paired: bool) -> None:
        wrong = isinstance(source, (str, bytes, Mapping, torch.Tensor)) or not isinstance(source, Iterable)
        if wrong or isinstance(source, Iterator):
            raise InputError(
                f"{name} is a {type(source).__name__}; it must be a list of batches or a loader, which can be gone "
                f"through several times, each batch a tensor, a tuple of arguments or a dict of keyword arguments"
            )
        self._source, self._name, self._paired = source, name, paired

    def __iter__(self) -> Iterator[Batch]:
        """Go through the batches once."""
        count = 0
        for count, each in enumerate(self._source, 1):
            if not self._paired:
                yield Batch(each)
                continue
            if not isinstance(each, (tuple, list)) or len(each) != 2:
                raise InputError(
                    f"{self._name}: batch {count} is no pair (inputs, target), which a loss of your own needs; it is a "
                    f"{type(each).__name__}"
                )
            yield Batch(*each)
        if not count:
            raise InputError(f"{self._name} holds no batch")

    def endless(self, skip: int) -> Iterator[tuple[int, Batch]]:
        """Go through the batches over and over.

        Parameters
        ----------
        skip
            How many were used up before, of the pass that comes first.

        Yields
        ------
        tuple
            The number of the batch in its pass, from 1, and the batch.

        Raises
        ------
        InputError
            If there are none, or fewer than were used up before.
        """
        while True:
            number = 0
            for number, batch in enumerate(self, 1):
                if number > skip:
                    yield number, batch
            if number < skip:
                raise InputError(
                    f"{self._name} ends after {number} batches; the saved run had used {skip} of this pass: give the "
                    f"batches of that run, or another file to save to"
                )
            skip = 0


class Reference(NamedTuple):
    """What the dense model returns for a batch."""

    #: Its output, or None where a loss of the user's own needs none.
    output: torch.Tensor | None
    #: The outputs of the layers that are watched.
    layers: list[torch.Tensor]


class Forward:
    """A frozen model, run with other weights.

    Parameters
    ----------
    model
        The model; nothing of it is changed, and it gets no gradients.
    modules
        Modules whose outputs are watched.
    loss
        The task's loss, or None for one minus the cosine of the output with that of the dense model, vector by vector
        of the last axis.
    """

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module], loss: Loss | None) -> None:
        self._model = model
        self._modules = list({id(module): module for module in modules}.values())
        self._task = loss
        self._fixed = {name: each.detach() for name, each in model.named_parameters()}
        # A forward may write to buffers.
        self._fixed |= {name: each.detach().clone() for name, each in model.named_buffers()}
        self._device = next((each.device for each in self._fixed.values()), torch.device("cpu"))
        self._seen: list[torch.Tensor] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Put the model into evaluation mode and watch its modules.

        Yields
        ------
        None
            Afterwards the model is as it was.
        """
        hooks = [module.register_forward_hook(self._note) for module in self._modules]
        try:
            with evaluating(self._model), torch.enable_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def reference(self, batch: Batch, number: int) -> Reference:
        """Run the dense model.

        Parameters
        ----------
        batch
            The batch.
        number
            Its number, for messages.

        Returns
        -------
        Reference
            What the pruned model is compared with.

        Raises
        ------
        InputError
            If the output holds NaN or infinite entries.
        """
        if self._task is not None and not self._modules:
            return Reference(None, [])
        with torch.no_grad():
            returned, layers = self._call({}, batch)
            output = None if self._task is not None else _vectors(returned)
        if output is not None and not bool(torch.isfinite(output).all()):
            raise InputError(
                f"the dense model's output on batch {number} holds NaN or infinite entries: check the batch and the "
                f"weights, or mask what does not count by a loss of your own"
            )
        return Reference(output, layers)

    def loss(
        self, weights: Mapping[str, torch.Tensor], batch: Batch, reference: Reference
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model with some weights replaced.

        Parameters
        ----------
        weights
            Weights by name of their parameter.
        batch
            The batch.
        reference
            What the dense model returns for it.

        Returns
        -------
        tuple
            The task's loss, and the distance of the watched modules' outputs from those in the reference, 0 if it has
            none: Smooth-L1, summed over channels, averaged over the vectors of each.

        Raises
        ------
        InputError
            If a loss of the user's own returns no number.
        """
        returned, layers = self._call(weights, batch)
        if self._task is not None:
            task = self._task(returned, _to(batch.target, self._device))
            if not isinstance(task, torch.Tensor) or task.numel() != 1:
                raise InputError(f"the loss must return a tensor of one number, it returned {task!r}")
            task = task.reshape(())
        else:
            assert reference.output is not None
            task = (1.0 - functional.cosine_similarity(_vectors(returned), reference.output, dim=-1)).mean()
        apart = task.new_zeros(())
        for one, other in zip(layers, reference.layers, strict=True) if reference.layers else ():
            apart = apart + functional.smooth_l1_loss(one, other, reduction="sum") / max(one[..., 0].numel(), 1)
        return task, apart

    def _call(self, weights: Mapping[str, torch.Tensor], batch: Batch) -> tuple[Any, list[torch.Tensor]]:
        args, kwargs = as_call(self._model, _to(batch.inputs, self._device))
        self._seen = []
        returned = torch.func.functional_call(self._model, {**self._fixed, **weights}, args, kwargs)
        seen, self._seen = self._seen, []
        return returned, seen

    def _note(self, module: nn.Module, args: object, output: object) -> None:
        first = next((each for each in pytree.tree_leaves(output) if isinstance(each, torch.Tensor)), None)
        if first is not None and first.ndim:
            self._seen.append(first)


def _vectors(returned: Any) -> torch.Tensor:
    """Return the first floating-point tensor that a model returned, as vectors to compare."""
    leaves = pytree.tree_leaves(returned)
    output = next((each for each in leaves if isinstance(each, torch.Tensor) and each.is_floating_point()), None)
    if output is None:
        raise InputError("the model returns no floating-point tensor to compare: give a loss of your own")
    if output.ndim < 2 or output.shape[-1] == 1:  # the cosine of two numbers is their sign
        return output.float().reshape(1, -1)
    return output.float()


def _to(value: Any, device: torch.device) -> Any:
    return pytree.tree_map(lambda each: each.to(device) if isinstance(each, torch.Tensor) else each, value)
