"""The geometry of anytime curves."""

import re

import pytest

from permsolve.report import charts


def test_a_curve_is_steps_between_the_ends_of_the_axes():
    chart = charts.chart({"a": [(0.0, 10.0), (0.1, 1.0), (1.0, 0.0)]}, start=0.01, end=10.0)
    width, height = chart["right"] - chart["left"], chart["bottom"] - chart["top"]
    x, y = {share: chart["left"] + share * width for share in (1 / 3, 2 / 3)}, chart["top"] + height / 4
    expected = [chart["left"], chart["top"], x[1 / 3], y, x[2 / 3], chart["bottom"], chart["right"]]
    assert re.sub(r"[\d. ]+", "", chart["paths"]["a"]) == "MHVHVH"
    assert [float(number) for number in re.findall(r"[\d.]+", chart["paths"]["a"])] == pytest.approx(expected, abs=0.06)


def test_steps_that_nobody_can_see_are_left_out():
    points = [(0.01 * k, 5.0 - 1e-6 * k) for k in range(1, 500)]
    assert len(charts.chart({"a": points}, 0.01, 10.0)["paths"]["a"]) < 40


def test_ticks_are_powers_of_ten_inside_the_frame():
    chart = charts.chart({"a": [(0.0, 3.0)], "b": [(0.0, 0.2)]}, start=0.002, end=2.0)
    assert [label for _, label in chart["x_ticks"]] == ["0.01", "0.1", "1"]
    assert [label for _, label in chart["y_ticks"]] == ["\u2264 0.001", "0.01", "0.1", "1", "10"]
    assert all(chart["left"] <= position <= chart["right"] for position, _ in chart["x_ticks"])
    assert all(chart["top"] <= position <= chart["bottom"] for position, _ in chart["y_ticks"])


@pytest.mark.parametrize("lines", [{}, {"a": [(0.0, 0.0)]}, {"a": [(0.0, 100.0)], "b": [(0.5, 0.0)]}])
def test_odd_curves_can_be_drawn(lines):
    chart = charts.chart(lines, 0.001, 0.1)
    assert set(chart["paths"]) == set(lines)
    assert "nan" not in str(chart)
