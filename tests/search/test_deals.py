"""Rounds of assignments in blocks."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import uniform

from permsolve import Problem
from permsolve.kernels.groups import make_state, refresh_all
from permsolve.run import Run
from permsolve.search.deals import Deals
from permsolve.stop import MaxRuntime


def make(problem: Problem, block: int, n_jobs: int = 1, seed: int = 0, **more: Any) -> Deals:
    run = Run(problem, stop=more.pop("stop", None), rng=np.random.default_rng(seed), n_jobs=n_jobs)
    run.open()
    return Deals(problem, run, np.arange(problem.cols), block)


@pytest.mark.parametrize("nm", ["1:2", "2:4", "1:4", "4:8", "2:3"])
def test_rounds_without_noise_never_get_worse(nm: str) -> None:
    problem = Problem.of(uniform(40, 96), nm)
    deals = make(problem, 8)
    scores = [problem.score(deals.order)]
    for _ in range(30):
        deals.round(0.0)
        scores.append(problem.score(deals.order))
    assert all(after >= before * (1 - 1e-9) for before, after in itertools.pairwise(scores))
    assert scores[-1] > scores[0]


def test_noise_makes_worse_ones_possible() -> None:
    problem = Problem.of(uniform(40, 96))
    deals = make(problem, 24)
    for _ in range(40):
        deals.round(0.0)
    good = problem.score(deals.order)
    assert deals.round(deals.mean_loss) > 0
    assert problem.score(deals.order) < good


@pytest.mark.parametrize(("cols", "block", "count"), [(64, 4, 4), (64, 16, 1), (64, 512, 1), (100, 10, 2), (8, 2, 1)])
def test_the_blocks_cover_all_groups(cols: int, block: int, count: int) -> None:
    assert make(Problem.of(uniform(5, cols)), block).count == count


@pytest.mark.parametrize("block", [8, 32])
def test_the_number_of_threads_changes_nothing(block: int) -> None:
    """Whether blocks go side by side or threads share one."""
    problem = Problem.of(uniform(700, 128))
    orders = []
    for n_jobs in (1, 2, 3, 7):
        deals = make(problem, block, n_jobs)
        for temperature in (0.5, 0.1, 0.0):
            deals.round(temperature)
        orders.append(deals.order.tolist())
        deals.run._core.close()
    assert orders[1:] == orders[:1] * 3


def test_the_sampled_mean_loss_is_that_of_all_groups_where_there_are_few() -> None:
    problem = Problem.of(uniform(33, 64))
    state = make_state(problem.packed, 2)
    refresh_all(state, np.arange(64), 4, 2)
    assert make(problem, 16).mean_loss == pytest.approx(state.losses.mean(), rel=1e-5)


def test_a_round_that_the_time_ends_leaves_a_permutation() -> None:
    problem = Problem.of(uniform(3000, 1024))
    deals = make(problem, 256, stop=MaxRuntime(0.05))
    moved: int | None = 0
    while moved is not None:
        moved = deals.round(0.0)
    assert sorted(deals.order) == list(range(1024))
