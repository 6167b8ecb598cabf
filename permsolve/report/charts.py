"""The geometry of anytime curves: gap against time, both logarithmic, as paths of an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Size of a picture and its margins, in its own units (pixels on a narrow screen).
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 56, 10, 10, 36
#: Smallest gap drawn, per cent; what lies below is drawn here.
FLOOR = 0.001

Points = Sequence[tuple[float, float]]


def chart(lines: Mapping[str, Points], start: float, end: float) -> dict[str, Any]:
    """Lay out one picture.

    Parameters
    ----------
    lines
        Times in seconds, ascending, and gaps in per cent by method; a gap holds until the next time.
    start
        Left end of the time axis, above 0; what happened before is drawn there.
    end
        Right end.

    Returns
    -------
    dict
        ``paths`` by method, ``x_ticks`` and ``y_ticks`` as (position, label), and the frame.
    """
    highest = max((gap for points in lines.values() for _, gap in points), default=1.0)
    top = max(math.ceil(math.log10(max(highest, FLOOR))), math.log10(FLOOR) + 1)
    across, down = _Axis(start, end, LEFT, WIDTH - RIGHT), _Axis(FLOOR, 10.0**top, HEIGHT - BOTTOM, TOP)
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "paths": {name: _path(points, across, down) for name, points in lines.items() if points},
        "x_ticks": [(across.at(tick), f"{tick:g}") for tick in across.decades()],
        "y_ticks": [
            (down.at(tick), f"{tick:g}" if tick > FLOOR * 1.5 else f"\u2264 {FLOOR:g}") for tick in down.decades()
        ],
    }


class _Axis:
    """A logarithmic axis."""

    def __init__(self, low: float, high: float, begin: float, finish: float) -> None:
        self._low, self._high = low, high
        self._begin, self._finish = begin, finish

    def at(self, value: float) -> float:
        """Return the position of a value; those beyond the axis lie on its ends."""
        value = min(max(value, self._low), self._high)
        share = math.log(value / self._low) / math.log(self._high / self._low)
        return round(self._begin + share * (self._finish - self._begin), 1)

    def decades(self) -> list[float]:
        """Return the powers of ten on the axis."""
        first = math.ceil(math.log10(self._low) - 1e-9)
        last = math.floor(math.log10(self._high) + 1e-9)
        return [10.0**power for power in range(first, last + 1)]


def _path(points: Points, across: _Axis, down: _Axis) -> str:
    """Draw steps, leaving out those that nobody can see."""
    height = down.at(points[0][1])
    steps = [f"M{across.at(points[0][0])} {height}"]
    for time, gap in points[1:]:
        if (lower := down.at(gap)) != height:
            steps.append(f"H{across.at(time)}V{lower}")
            height = lower
    return "".join(steps) + f"H{across.at(math.inf)}"
