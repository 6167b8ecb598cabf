"""Learning the permutation of one matrix: what the methods `sinkhorn` and `transport` have in common."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from permsolve.learning.adamw import AdamW, cosine
from permsolve.learning.objectives import objective_of
from permsolve.learning.sites import Ints, Site
from permsolve.problem import Problem
from permsolve.run import Run
from permsolve.search.schedule import default_seconds
from permsolve.search.start import starting_order
from permsolve.solver import Status
from permsolve.stop import MaxIterations, MaxRuntime

#: Makes a site: of the starting order, the generator of its noise and whether that order comes first.
SiteMaker = Callable[[Ints, torch.Generator, bool], Site]
#: The number of torch's threads before the first `one_thread`, once for it and once for each that is at work.
_INSIDE: list[int] = []
_LOCK = threading.Lock()
#: Where a search may start.
STARTS = ("random", "identity", "annealing")
#: Share of the time, or of its default schedule, that annealing gets to start with.
WARM_START = 0.3


def learn_matrix(
    problem: Problem,
    run: Run,
    make: SiteMaker,
    *,
    steps: int,
    start: str,
    lr: float,
    straight: bool,
    every: int,
) -> Status:
    """Learn a permutation by gradient steps on a matrix-level loss, and offer the best iterates.

    Blocks are independent, so the best iterate of each block is kept and what is offered is their union.

    Parameters
    ----------
    problem
        The problem, of one block.
    run
        Its run; an iteration is a step.
    make
        Makes the site.
    steps
        Length of the schedule where nothing limits it.
    start
        One of `STARTS`; a permutation that the user gives is started from in any case.
    lr
        Learning rate at the beginning; it falls along half a cosine.
    straight
        Whether a step goes through the hard permutation, straight through to the relaxed one.
    every
        Steps between two hardenings where steps do without.

    Returns
    -------
    Status
        How it ended.
    """
    given = _is_given(run)
    if start == "annealing" and not given:
        _anneal(problem, run)
    order = starting_order(run) if given else run.best
    near = start != "random" or given or bool((order != np.arange(problem.cols)).any())
    generator = torch.Generator().manual_seed(int(run.rng.integers(2**63)))
    with one_thread():
        site = make(order, generator, near)
        objective = objective_of(problem, site)
        optimiser = AdamW(site.parameters, decay=site.decay)
        best = _Best(site, objective.values(site.start()))
        done, share = 0, 0.0
        while share < 1.0:
            if not run.proceed():
                return Status.STOPPED
            soft = site.soft(share)
            if straight:
                hard = site.harden(soft)
                losses = objective.straight(soft, hard)
                best.see(hard, losses)
            else:
                losses = objective.relaxed(soft)
                if done % every == 0:
                    hard = site.harden(soft)
                    best.see(hard, objective.values(hard))
            torch.stack([each.sum() for each in losses]).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step(cosine(lr, share))
            if best.fresh:
                run.offer(best.perm())
            done += 1
            if not run.proceed(1):
                return Status.STOPPED
            limit = run.progress()
            share = done / max(round(steps * run.effort), 1) if limit is None else limit
        with torch.no_grad():
            hard = site.harden(site.soft(1.0))
            best.see(hard, objective.values(hard))
        run.offer(best.perm())
    return Status.COMPLETED


class _Best:
    """The best permutation of every block so far."""

    def __init__(self, site: Site, losses: Sequence[torch.Tensor]) -> None:
        self._site = site
        self._hard = [each.clone() for each in site.start()]
        self._losses = [each.detach().clone() for each in losses]
        self.fresh = True

    def see(self, hard: Sequence[torch.Tensor], losses: Sequence[torch.Tensor]) -> None:
        for kept, least, order, loss in zip(self._hard, self._losses, hard, losses, strict=True):
            better = loss.detach() < least
            if bool(better.any()):
                kept[better], least[better] = order[better], loss.detach()[better]
                self.fresh = True

    def perm(self) -> Ints:
        self.fresh = False
        return self._site.perm(self._hard)


def _is_given(run: Run) -> bool:
    """Return whether the user has given an order to start from; runs inside others begin at the incumbent anyway."""
    while run._parent is not None:
        run = run._parent
    return run.initial is not None


def _anneal(problem: Problem, run: Run) -> None:
    """Find a starting order by a short annealing."""
    from permsolve.solvers.annealing import Annealing, proposal_cost

    proposals = max(int(WARM_START * run.effort * default_seconds(problem) * 1e9 / proposal_cost(problem)), 1)
    stop = MaxRuntime(WARM_START * run.remaining()) if run.timed else MaxIterations(proposals)
    # A run of its own: proposals are no steps of this method, whose limit would leave it a handful of them.
    rng = np.random.default_rng(run.rng.integers(2**63))
    inner = Run(problem, stop=stop, rng=rng, n_jobs=run.n_jobs)
    core = inner.open()
    try:
        Annealing(reheats=0).__call__(problem, inner)
    finally:  # an interrupt does not lose what was found
        core.close()
        run.offer(inner.best)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, so that sums do not depend on their number; the tensors are small anyway.

    Yields
    ------
    None
        Within, torch uses one thread.
    """
    # The number is one for the process: solves side by side must not take each other's one for the user's.
    with _LOCK:
        if not _INSIDE:
            _INSIDE.append(torch.get_num_threads())
        before = _INSIDE[-1]
        _INSIDE.append(before)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _LOCK:
            _INSIDE.pop()
            if len(_INSIDE) == 1:
                _INSIDE.clear()
            torch.set_num_threads(before)
