"""Learning a plan's permutations end to end: by the outputs of the pruned model, all groups at once."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from permsolve.errors import InputError, ModelError
from permsolve.learning.sites import SinkhornSite, TransportSite
from permsolve.models import learning_state, verification
from permsolve.models.forward import DISTANCES, Batches, Forward, Loss
from permsolve.models.learning_state import Settings, State
from permsolve.models.masking import Masks
from permsolve.models.saliencies import ModelSaliency
from permsolve.models.selection import Filter
from permsolve.models.trainer import Trainer
from permsolve.patterns import NM
from permsolve.result import Result
from permsolve.run import TracePoint
from permsolve.saliency import CALIBRATED
from permsolve.solver import Status, check_number, check_whole

if TYPE_CHECKING:
    from permsolve.models.calibration import Calibration
    from permsolve.models.plan import Plan

logger = logging.getLogger("permsolve")

METHODS = ("sinkhorn", "transport")
STARTS = ("identity", "solved", "random")
#: Published rate of `sinkhorn` for the saliency of RIA.
RIA_LR = 5e-3


@dataclass(frozen=True)
class Learned:
    """What `Plan.learn` found.

    Parameters
    ----------
    method
        The method.
    steps
        Steps made.
    start_loss
        Loss on the held-out batches under the permutations that it started from.
    loss
        Loss on the held-out batches under the permutations that are now in the plan: the best seen, never above
        ``start_loss``.
    best_step
        Step after which they were seen; 0 for those it started from.
    history
        Steps and losses of all looks at the held-out batches.
    held_out
        Whether these batches were others than those learned from.
    """

    method: str
    steps: int
    start_loss: float
    loss: float
    best_step: int
    history: tuple[tuple[int, float], ...]
    held_out: bool

    @property
    def gain(self) -> float:
        """Share of the starting loss that is gone, of its size where it is negative."""
        return (self.start_loss - self.loss) / abs(self.start_loss) if self.start_loss else 0.0

    def __str__(self) -> str:
        where = "held-out" if self.held_out else "training"
        return (
            f"{self.method}, {self.steps} steps: {where} loss {self.start_loss:.6g} -> {self.loss:.6g} "
            f"({100 * self.gain:.2f} % less, best after step {self.best_step})"
        )


def learn(
    plan: Plan,
    model: nn.Module,
    batches: Iterable[object],
    *,
    method: str,
    steps: int,
    lr: float | None,
    saliency: object,
    calibration: Calibration | None,
    layers: Filter | None,
    loss: Loss,
    held_out: Iterable[object] | None,
    block: int | None,
    start: str,
    seed: int,
    save: str | os.PathLike[str] | None,
    display: bool | None,
) -> Learned:
    """Learn the permutations of a plan: see `permsolve.models.Plan.learn`.

    Parameters
    ----------
    plan
        The plan.
    model, batches, method, steps, lr, saliency, calibration, layers, loss, held_out, block, start, seed
        As there.
    save, display
        As there.

    Returns
    -------
    Learned
        How the loss has changed.

    Raises
    ------
    InputError, ModelError, FileError
        As there.
    """
    _check(plan, model, method, steps, lr, block, start, seed)
    if not callable(loss) and not (isinstance(loss, str) and loss in DISTANCES):
        raise InputError(
            f"loss = {loss!r} must be {' or '.join(map(repr, DISTANCES))}, or a function of the model's outputs and a "
            f"batch's target"
        )
    if isinstance(layers, Iterable) and not isinstance(layers, str):
        layers = list(layers)  # it is read more than once
    data = Batches(batches, "batches", paired=callable(loss))
    looked_at = data if held_out is None else Batches(held_out, "held_out", paired=callable(loss))
    ranking = ModelSaliency(saliency, _calibration(model, saliency, calibration, data, layers))
    masks = Masks(model, plan, ranking, layers)
    if lr is None:
        default = SinkhornSite.lr if method == "sinkhorn" else TransportSite.lr
        lr = RIA_LR if (method, ranking.name) == ("sinkhorn", "ria") else default
    orders = [
        None if k not in masks.learnable else np.arange(group.channels) if start != "solved" else group.perm
        for k, group in enumerate(plan.groups)
    ]
    kept = [group.perm if order is None else order for group, order in zip(plan.groups, orders, strict=True)]
    names = [one.weight.name for one in masks.weights]
    names += [f"{move.role} {move.name}" for group in plan.groups for move in group.movements]
    about = learning_state.fingerprint(
        kept, (each for one in masks.weights for each in (one.values, one.scores)), names
    )
    settings = Settings(
        method=method,
        nm=str(plan.nm),
        loss=loss if isinstance(loss, str) else "own",
        steps=steps,
        lr=float(lr),
        saliency=ranking.name,
        block=block,
        start=start,
        seed=seed,
        model=about,
    )
    trainer = Trainer(masks, settings, orders, Forward(model, masks.modules if method == "transport" else [], loss))
    began = time.perf_counter()
    with trainer.forward.open(), _watched(method, steps, display) as show:
        trainer.run(data, looked_at, save, show)
    _store(plan, model, masks, trainer.state, settings, time.perf_counter() - began)
    state = trainer.state
    return Learned(
        method=method,
        steps=steps,
        start_loss=state.history[0][1],
        loss=state.loss,
        best_step=state.best_step,
        history=tuple(state.history),
        held_out=held_out is not None,
    )


def _check(
    plan: Plan, model: nn.Module, method: str, steps: int, lr: float | None, block: int | None, start: str, seed: int
) -> None:
    if not isinstance(plan.nm, NM):
        raise InputError(f"permutations are learned for plain n:m; {plan.nm} permutes rows: use plan.solve")
    for name, value, allowed in (("method", method, METHODS), ("start", start, STARTS)):
        if value not in allowed:
            raise InputError(f"{name} = {value!r} must be one of {', '.join(allowed)}")
    check_whole("steps", steps, least=1)
    check_whole("seed", seed, least=0)
    if block is not None:
        check_whole("block", block, least=2)
    if lr is not None:
        check_number("lr", lr, least=1e-8, most=100.0)
    plan.check(model)
    verification.check_has_data(model)
    if not plan.groups:
        raise InputError("the plan has no group: nothing of this model can be permuted")
    for group in plan.groups if start == "solved" else ():
        if group.solution is None:
            raise InputError(f"start = 'solved', but group {group.name!r} has no permutation: call plan.solve first")
        if group.result is not None and group.fingerprint(model) != group.result.fingerprint:
            raise ModelError(
                f"group {group.name!r} was solved for other weights than this model's: learn before plan.apply_, or "
                f"solve the plan for this model (again=True)"
            )


def _calibration(
    model: nn.Module, saliency: object, given: Calibration | None, data: Batches, layers: Filter | None
) -> Calibration | None:
    """Return the calibration that a saliency needs: the one given, or one of the batches."""
    if given is not None or not isinstance(saliency, str) or saliency not in CALIBRATED:
        return given
    from permsolve.models.calibrating import calibrate

    inputs = (batch.inputs for batch in data)
    return calibrate(model, inputs, layers=layers, covariance=saliency not in ("wanda", "ria"), display=False)


def _store(plan: Plan, model: nn.Module, masks: Masks, state: State, settings: Settings, runtime: float) -> None:
    """Write the best permutations into the plan, each with a result that says whose they are."""
    saliency = masks.saliencies(model)
    options = {"steps": settings.steps, "lr": settings.lr, "block": settings.block, "start": settings.start}
    for group, perm in zip(plan.groups, state.perms, strict=True):
        if perm is None:
            continue
        problem = group.problem(model, saliency)
        solution = group.check_solution(perm)
        score = problem.score(solution)
        group.result = Result(
            solution=group.nm.freeze(solution),
            pattern=problem.pattern,
            score=score,
            baseline=problem.baseline,
            rows_bound=problem.rows_bound,
            bound=problem.rows_bound,
            bound_kind="rows",
            status=Status.COMPLETED,
            stopped_by=None,
            method=f"learn:{settings.method}",
            options=dict(options),
            seed=settings.seed,
            iterations=settings.steps,
            setup_time=0.0,
            runtime=runtime,
            trace=(TracePoint(0.0, problem.baseline, problem.rows_bound),),
            saliency=settings.saliency,
            blocks=problem.blocks,
            shape=problem.shape,
            dtype=problem.dtype,
            fingerprint=problem.fingerprint,
        )
        group.solution = group.result.solution


@contextmanager
def _watched(method: str, steps: int, display: bool | None) -> Iterator[Callable[[State], None]]:
    """Provide what shows progress: a bar while a person is watching, log records otherwise."""
    if display not in (True, False, None):
        raise InputError(f"display = {display!r} must be True, False or None")
    if not (sys.stderr.isatty() if display is None else display):
        said = "learning by %s: step %d of %d, held-out loss %.6g, best %.6g"
        yield lambda state: logger.info(said, method, state.step, steps, state.history[-1][1], state.loss)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        *(TextColumn("{task.description}"), MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn()),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(f"learning by {method}", total=steps, at="")

        def show(state: State) -> None:
            bars.update(task, completed=state.step, at=f"loss {state.history[-1][1]:.6g}, best {state.loss:.6g}")

        yield show
