"""One run of `Plan.learn`: the sites of a plan, their optimiser, and where the run stands."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from permsolve.errors import DocumentError, InputError
from permsolve.learning.adamw import AdamW, cosine
from permsolve.learning.masks import soft_mask, straight_through_mask, top_mask
from permsolve.learning.sites import Ints, SinkhornSite, Site, TransportSite, block_size
from permsolve.models import learning_state
from permsolve.models.forward import Batch, Batches, Forward, Reference
from permsolve.models.learning_state import Settings, State
from permsolve.models.masking import Masks

#: Looks at the held-out batches in the course of a run.
LOOKS = 20
#: Numbers of the dense model's outputs that are kept for the looks, 1 GiB of them; others are computed each time.
KEPT = 1 << 28
#: Seconds between two writes of the state.
SAVE_EVERY = 30.0
#: Weight of the distillation in the loss of `transport`, as published.
DISTILLATION = 1e-5
#: Columns of a block of `sinkhorn`, and groups of channels of `transport`, as published.
BLOCK, GROUPS = 64, 4


class Trainer:
    """All sites of a plan, their optimiser, and where the run stands."""

    def __init__(self, masks: Masks, settings: Settings, orders: Sequence[Ints | None], forward: Forward) -> None:
        self.masks, self.settings, self.forward = masks, settings, forward
        self.state = State(perms=list(orders))
        generator = torch.Generator().manual_seed(settings.seed)
        self._sites = [None if order is None else self._site(k, order, generator) for k, order in enumerate(orders)]
        known = [site for site in self._sites if site is not None]
        parameters = [each for site in known for each in site.parameters]
        self._optimiser = AdamW(parameters, decay=known[0].decay)

    def run(
        self,
        data: Batches,
        looked_at: Batches,
        save: str | os.PathLike[str] | None,
        show: Callable[[State], None],
    ) -> None:
        """Make all steps that are left."""
        if save is not None:
            self._restore(save)
            self._compare(looked_at, save)
        state, steps = self.state, self.settings.steps
        if state.step == steps:
            return
        held = list(self._held(looked_at))
        if not state.history:
            self._look(held, state.perms)
            if save is not None:
                self._save(save)  # what cannot be written is known before the work
        saved = time.perf_counter()
        feed = self._feed(data, save)
        while state.step < steps:
            self._step(next(feed))
            if state.step % max(steps // LOOKS, 1) == 0 or state.step == steps:
                self._look(held, self._hardened())
                show(state)
            if save is not None and (state.step == steps or time.perf_counter() - saved >= SAVE_EVERY):
                self._save(save)
                saved = time.perf_counter()

    def _held(self, looked_at: Batches) -> Iterator[tuple[Batch, Reference | None]]:
        """Yield the held-out batches and what the dense model returns for them, as far as that may be kept."""
        numbers = 0
        for k, batch in enumerate(looked_at, 1):
            reference = self._wanted(batch, k)
            numbers += 0 if reference.output is None else reference.output.numel()
            yield batch, reference if numbers <= KEPT else None

    def _wanted(self, batch: Batch, number: int) -> Reference:
        # A look measures the task alone: the layers' outputs of all these batches would fill the memory.
        return self.forward.reference(batch, number)._replace(layers=[])

    def _compare(self, looked_at: Batches, save: str | os.PathLike[str]) -> None:
        """Check that the held-out batches are those that a saved run has looked at."""
        held = ""
        for batch in looked_at:
            held = learning_state.chained(held, batch)
        if self.state.held not in ("", held):
            raise InputError(
                f"{os.fspath(save)} holds a run that looked at other {looked_at.name} than these, or in another order: "
                f"give the same (a loader that does not shuffle), or name another file"
            )
        self.state.held = held

    def _feed(self, data: Batches, save: str | os.PathLike[str] | None) -> Iterator[Batch]:
        """Go through the batches over and over, from where a saved run stopped."""
        state, skip = self.state, self.state.at
        while True:
            number, used = 0, ""
            for number, batch in enumerate(data, 1):
                used = "" if save is None else learning_state.chained(used, batch)
                if number == skip and used != state.used:
                    raise InputError(
                        f"the first {skip} of {data.name} are not those that the saved run had used, or not in that "
                        f"order: give the same (a loader that does not shuffle), or another file to save to"
                    )
                if number > skip:
                    state.at, state.used = number, used
                    yield batch
            if number < skip:
                raise InputError(
                    f"{data.name} ends after {number} batches; the saved run had used {skip} of this pass: give the "
                    f"batches of that run, or another file to save to"
                )
            skip = 0

    def _site(self, number: int, order: Ints, generator: torch.Generator) -> Site:
        group, settings = self.masks.groups[number], self.settings
        make = SinkhornSite if settings.method == "sinkhorn" else TransportSite
        unit = self.masks.nm.m
        if settings.block is None and make is TransportSite:
            size = block_size(group.channels, unit, groups=GROUPS)
        else:
            size = block_size(group.channels, unit, block=settings.block or BLOCK)
        near = settings.start != "random"
        return make(order, group.blocks, size, generator, near=near, device=self.masks.device)

    def _step(self, batch: Batch) -> None:
        """Make one step on all sites."""
        state, settings = self.state, self.settings
        share = state.step / settings.steps
        reference = self.forward.reference(batch, state.at)
        task, apart = self.forward.loss(self._relaxed(share), batch, reference)
        loss = task + DISTILLATION * apart
        if not task.requires_grad:
            raise InputError(
                "the loss has no gradient: it must be computed by torch from the model's outputs, and neither it nor "
                "the model's forward may detach them or switch gradients off"
            )
        if not bool(torch.isfinite(loss)):
            raise InputError(
                f"the loss of batch {state.at} in step {state.step + 1} is {float(loss):g}: check the batch, or "
                f"run the model in float32"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step(cosine(settings.lr, share))
        state.step += 1

    def _relaxed(self, share: float) -> dict[str, torch.Tensor]:
        """Return the pruned weights with gradients for the parameters of the sites."""
        n, m = self.masks.nm.n, self.masks.nm.m
        soft = [[] if site is None else site.soft(share) for site in self._sites]
        if self.settings.method == "sinkhorn":
            hard = [[] if site is None else site.harden(soft[k]) for k, site in enumerate(self._sites)]

            def straight(k: int, scores: list[torch.Tensor]) -> list[torch.Tensor]:
                return [straight_through_mask(*each, n, m) for each in zip(soft[k], scores, hard[k], strict=True)]

            return self.masks.relaxed(self._sites, straight, self._carriers())

        def mixed(k: int, scores: list[torch.Tensor]) -> list[torch.Tensor]:
            return [mixed_mask(*each, n, m) for each in zip(soft[k], scores, strict=True)]

        return self.masks.relaxed(self._sites, mixed, self._carriers())

    def _carriers(self) -> list[Ints | None]:
        """Return the hard permutations of the moment where masks of weights that follow need them."""
        return self._hardened() if self.masks.carried else []

    @torch.no_grad()
    def _hardened(self) -> list[Ints | None]:
        share = self.state.step / self.settings.steps
        return [None if site is None else site.perm(site.harden(site.soft(share))) for site in self._sites]

    @torch.no_grad()
    def _look(self, held: Sequence[tuple[Batch, Reference | None]], perms: list[Ints | None]) -> None:
        """Measure permutations on the held-out batches, and keep them if they are the best."""
        weights = self.masks.hard(perms)
        losses = []
        for k, (batch, reference) in enumerate(held, 1):
            wanted = self._wanted(batch, k) if reference is None else reference
            losses.append(float(self.forward.loss(weights, batch, wanted)[0]))
        loss, state = float(np.mean(losses)), self.state
        if not np.isfinite(loss):
            raise InputError(f"the loss on the held-out batches is {loss:g} after step {state.step}: check the batches")
        state.history.append((state.step, loss))
        if loss < state.loss:
            state.loss, state.best_step, state.perms = loss, state.step, perms

    def _tensors(self) -> dict[str, torch.Tensor]:
        optimiser = self._optimiser
        kinds = {"parameter": optimiser.parameters, "mean": optimiser.means, "square": optimiser.squares}
        return {f"{kind}.{k}": each for kind, tensors in kinds.items() for k, each in enumerate(tensors)}

    def _save(self, path: str | os.PathLike[str]) -> None:
        learning_state.write(path, self.settings, self.state, self._tensors())

    def _restore(self, path: str | os.PathLike[str]) -> None:
        found = learning_state.read(path, self.settings, len(self._sites))
        if found is None:
            return
        state, tensors = found
        own = self._tensors()
        if {name: each.shape for name, each in own.items()} != {name: each.shape for name, each in tensors.items()}:
            raise DocumentError(f"{os.fspath(path)} is damaged: it does not hold the parameters of this run; delete it")
        with torch.no_grad():
            for name, each in own.items():
                each.copy_(tensors[name])
        self.state = state
        self._optimiser.count = state.step


def mixed_mask(soft: torch.Tensor, scores: torch.Tensor, n: int, m: int) -> torch.Tensor:
    """Return the mask under relaxed permutations, in the channels' own order.

    Parameters
    ----------
    soft
        (k, b, b): relaxed permutations.
    scores
        (k, b, lines): saliency, channels in their own order.
    n, m
        The pattern.

    Returns
    -------
    torch.Tensor
        (k, b, lines): the n largest of every m mixed channels are kept, with the gradient of a softmax, and mixed back.
    """
    mixed = soft @ scores
    relaxed = soft_mask(mixed, m)
    kept = top_mask(mixed.detach(), n, m).to(mixed.dtype) + (relaxed - relaxed.detach())
    return soft.mT @ kept
