"""The measures against numbers worked out by hand."""

import math

import numpy as np
import pytest

from permsolve.bench import measures

#: A run on an instance whose best known score is 100: gaps 20 %, 10 % from 1 s on, 0 from 3 s on.
TRACE = ((0.0, 80.0), (1.0, 90.0), (3.0, 100.0))


@pytest.mark.parametrize(
    ("score", "best", "gap"),
    [(90, 100, 10.0), (100, 100, 0.0), (0, 0, 0.0), (100 - 5e-8, 100, 0.0), (101, 100, 0.0), (0, 4, 100.0)],
    ids=["tenth below", "equal", "nothing to score", "rounding", "above", "nothing scored"],
)
def test_primal_gap(score, best, gap):
    assert measures.primal_gap(score, best) == pytest.approx(gap)


def test_the_score_at_a_time_is_that_of_the_last_improvement_until_then():
    assert measures.score_at(TRACE, [0.0, 0.99, 1.0, 2.9, 3.0, 1e9]).tolist() == [80, 80, 90, 90, 100, 100]


@pytest.mark.parametrize(
    ("limit", "integral"),
    [(4.0, (20 * 1 + 10 * 2 + 0 * 1) / 4), (2.0, (20 + 10) / 2), (0.5, 20.0), (3.0, 40 / 3)],
)
def test_primal_integral(limit, integral):
    assert measures.primal_integral(TRACE, 100.0, limit) == pytest.approx(integral)


def test_the_primal_integral_agrees_with_a_fine_sum():
    times = np.linspace(0, 4, 400_001)[:-1]
    gaps = 100 - measures.score_at(TRACE, times)
    assert measures.primal_integral(TRACE, 100.0, 4.0) == pytest.approx(gaps.mean(), rel=1e-4)


@pytest.mark.parametrize(("target", "time"), [(25, 0.0), (20, 0.0), (10, 1.0), (9.9, 3.0), (0, 3.0)])
def test_time_to_a_gap(target, time):
    assert measures.time_to(TRACE, 100.0, target) == time


def test_a_gap_that_was_never_reached_has_no_time():
    assert math.isinf(measures.time_to(TRACE, 200.0, 1.0))


def test_shifted_geometric_mean():
    assert measures.shifted_geometric_mean([1.0, 3.0], shift=1.0) == pytest.approx(math.sqrt(2 * 4) - 1)
    assert measures.shifted_geometric_mean([0.0, 0.0], shift=0.01) == 0.0
    assert measures.shifted_geometric_mean([5.0], shift=0.3) == pytest.approx(5.0)


def test_one_terrible_instance_moves_the_shifted_geometric_mean_less_than_the_plain_one():
    values = [0.1] * 9 + [100.0]
    assert measures.shifted_geometric_mean(values, 0.01) < 0.3 < np.mean(values)
