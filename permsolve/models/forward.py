"""Running a model with other weights: batches, losses of outputs, outputs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from permsolve.errors import InputError, ModelError, PermsolveError
from permsolve.models.replacing import Places
from permsolve.models.trace import as_call, evaluating

#: A task's loss, of what the model returns and the batch's target.
Task = Callable[[Any, Any], torch.Tensor]
#: The name of a distance from the dense model's output, or a task's loss.
Loss = str | Task


def _cosine(output: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    return 1.0 - functional.cosine_similarity(output, dense, dim=-1)


def _divergence(output: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    logs, wanted = functional.log_softmax(output, -1), functional.log_softmax(dense, -1)
    return functional.kl_div(logs, wanted, reduction="none", log_target=True).sum(-1)


#: Distances of the pruned model's output from the dense model's, for each vector of the last axis.
DISTANCES = {"cosine": _cosine, "kl": _divergence}


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

    @property
    def name(self) -> str:
        """What messages call it."""
        return self._name

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
        The task's loss, or the name of a distance of the output from that of the dense model, see `DISTANCES`; it is
        averaged over the vectors of the last axis.
    """

    def __init__(self, model: nn.Module, modules: Sequence[nn.Module], loss: Loss) -> None:
        self._model = model
        self._modules = list({id(module): module for module in modules}.values())
        self._task = None if isinstance(loss, str) else loss
        self._distance = DISTANCES[loss] if isinstance(loss, str) else None
        self._places = Places(model)
        self._fixed = self._places.spread({name: each.detach() for name, each in model.named_parameters()})
        # A forward may write to buffers.
        self._fixed |= self._places.spread({name: each.detach().clone() for name, each in model.named_buffers()})
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
            If the output holds NaN or infinite entries, or there is nothing to compare.
        ModelError
            If the model fails on the batch.
        """
        if self._task is not None and not self._modules:
            return Reference(None, [])
        with torch.no_grad():
            returned, layers = self._call({}, batch)
            output = None if self._task is not None else _vectors(returned)
            if output is not None and self._distance is _divergence and _single(returned):
                raise InputError(
                    "loss='kl' compares logits of several classes along the last axis, the model's output has one: "
                    "take 'cosine', or give a loss of your own"
                )
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
        ModelError
            If the model fails on the batch.
        """
        returned, layers = self._call(weights, batch)
        if self._task is not None:
            task = self._task(returned, _to(batch.target, self._device))
            if not isinstance(task, torch.Tensor) or task.numel() != 1:
                raise InputError(f"the loss must return a tensor of one number, it returned {task!r}")
            task = task.reshape(())
        else:
            assert reference.output is not None and self._distance is not None
            task = self._distance(_vectors(returned), reference.output).mean()
        apart = task.new_zeros(())
        for one, other in zip(layers, reference.layers, strict=True) if reference.layers else ():
            apart = apart + functional.smooth_l1_loss(one, other, reduction="sum") / max(one[..., 0].numel(), 1)
        return task, apart

    def _call(self, weights: Mapping[str, torch.Tensor], batch: Batch) -> tuple[Any, list[torch.Tensor]]:
        args, kwargs = as_call(self._model, _to(batch.inputs, self._device))
        self._seen = []
        try:
            returned = self._places.call({**self._fixed, **self._places.spread(weights)}, args, kwargs)
        except PermsolveError:
            raise
        except Exception as error:  # whatever the model's code raises
            said = (str(error).strip() or repr(error)).splitlines()[0]
            raise ModelError(
                f"the model fails on a batch: {said} (a batch holds inputs of forward alone; pairs of inputs and "
                f"targets need a loss of your own)"
            ) from error
        seen, self._seen = self._seen, []
        return returned, seen

    def _note(self, module: nn.Module, args: object, output: object) -> None:
        first = next((each for each in pytree.tree_leaves(output) if isinstance(each, torch.Tensor)), None)
        if first is not None and first.ndim:
            self._seen.append(first.movedim(_channel_axis(module, first), -1))


def _single(returned: Any) -> bool:
    return _output(returned).shape[-1] == 1


def _vectors(returned: Any) -> torch.Tensor:
    """Return a model's output as vectors to compare."""
    output = _output(returned).float()
    if output.ndim < 2 or output.shape[-1] == 1:  # the cosine of two numbers is their sign
        return output.reshape(1, -1)
    return output


def _output(returned: Any) -> torch.Tensor:
    """Return the first floating-point tensor that a model returned."""
    leaves = [each for each in pytree.tree_leaves(returned) if isinstance(each, torch.Tensor)]
    # One number, such as the loss that a model computes of labels, points nowhere: its cosine is always 1.
    output = next((each for each in leaves if each.is_floating_point() and each.numel() > 1), None)
    if output is None:
        raise InputError(
            "the model returns no floating-point tensor of more than one number to compare: give a loss of your own"
        )
    return output


def _channel_axis(module: nn.Module, output: torch.Tensor) -> int:
    """Return the axis of a layer's output channels."""
    kernel = getattr(module, "kernel_size", None)
    return -1 - len(kernel) if isinstance(kernel, tuple) and output.ndim > len(kernel) else -1


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):  # a tokenizer's, say, whose tensors torch does not find by itself
        value = dict(value)
    return pytree.tree_map(lambda each: each.to(device) if isinstance(each, torch.Tensor) else each, value)
