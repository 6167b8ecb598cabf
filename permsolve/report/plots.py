"""Pictures of results: anytime curves and maps of what a permutation keeps."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from permsolve.errors import FileError, MissingDependencyError
from permsolve.io import write_atomically
from permsolve.patterns import HiNM
from permsolve.problem import Problem
from permsolve.result import Result
from permsolve.scoring import efficacy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Pictures that can be written.
SUFFIXES = (".png", ".svg", ".pdf")
#: Colours that people with colour vision deficiencies can tell apart (Okabe and Ito, 2008).
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
    "#8C564B",
    "#7F7F7F",
    "#BCBD22",
)
#: Cells of a map along one axis; larger matrices are averaged down to it.
_CELLS = 256


def anytime(results: Mapping[str, Sequence[Result]], title: str) -> Figure:
    """Draw efficacy against time, a step curve per method.

    Parameters
    ----------
    results
        For each method its results, one per seed; of several the middle curve is drawn and the range shaded.
    title
        Heading.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.
    """
    figure = _figure(8.0, 4.8)
    axes = figure.subplots()
    end = max(max(run.runtime for run in runs) for runs in results.values())
    start = max(min(1e-3, end / 10), 1e-5)
    times = np.geomspace(start, max(end, 2 * start), 400)
    for k, (name, runs) in enumerate(results.items()):
        curves = np.array([_curve(run, times) for run in runs])
        middle = np.median(curves, axis=0)
        colour = _COLOURS[k % len(_COLOURS)]
        # A method that has ended keeps its answer: its curve goes on as a thin line.
        running = times <= max(run.runtime for run in runs)
        axes.step(times, middle, where="post", color=colour, linewidth=0.8, alpha=0.6)
        axes.step(times[running], middle[running], where="post", color=colour, linewidth=2.0, label=_legend(name, runs))
        if len(runs) > 1:
            axes.fill_between(times, curves.min(axis=0), curves.max(axis=0), step="post", color=colour, alpha=0.15)
    axes.set_xscale("log")
    axes.set_xlabel("solver run time, seconds")
    axes.set_ylabel("efficacy, % of the way to the rows bound")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    return figure


def before_after(problem: Problem, result: Result) -> Figure:
    """Draw the pruned weights without and with the permutations, and what each group of columns loses.

    Rows and columns are in the order that the pattern uses: for HiNM every tile has its own, the columns that it keeps
    first, and a line parts them from those that it drops.

    Parameters
    ----------
    problem
        The problem.
    result
        Its result.

    Returns
    -------
    matplotlib.figure.Figure
        The picture.
    """
    pattern = problem.pattern
    cases = [("as it is", problem.start, result.baseline), ("permuted", result.solution, result.score)]
    saliency = problem.saliency
    masks = [pattern.mask(saliency, solution) for _, solution, _ in cases]
    total = float(saliency.sum(dtype=np.float64)) or 1.0
    values = np.sort(problem.columns.ravel())
    # The more is pruned, the larger are the entries that are.
    top = float(values[int(0.99 * (len(values) - 1))] * (1 - masks[0].mean())) or 1.0
    figure = _figure(9.0, 6.0)
    maps = figure.subplots(2, 2, gridspec_kw={"height_ratios": [3, 1]}, sharex="col", sharey="row")
    pruned = []
    for k, (name, solution, score) in enumerate(cases):
        lost = pattern.permute(np.where(masks[k], 0.0, saliency), solution)
        pruned.append(lost.sum(axis=0, dtype=np.float64).reshape(-1, pattern.m).sum(axis=1) / total * 100)
        extent = (0, problem.cols, problem.rows, 0)
        image = maps[0, k].imshow(
            _reduced(lost), aspect="auto", cmap="magma_r", vmin=0, vmax=top, interpolation="nearest", extent=extent
        )
        maps[0, k].set_title(f"{name}: {100 * score / total:.2f} % kept", loc="left", fontsize=11)
    for k, share in enumerate(pruned):
        edges = np.arange(len(share) + 1) * pattern.m
        maps[1, k].stairs(share, edges, fill=True, color=_COLOURS[k])
        maps[1, k].axhline(share.mean(), color="black", linewidth=0.8)
        maps[1, k].set_xlabel(_order(problem))
        if isinstance(pattern, HiNM):
            for axes in maps[:, k]:
                axes.axvline(cases[k][1].columns.shape[1], color=_COLOURS[5], linewidth=1.2)
    maps[0, 0].set_ylabel("row, in the order used" if pattern.moves_rows else "row")
    maps[1, 0].set_ylabel("% of all saliency\nlost per group")
    figure.colorbar(image, ax=maps[0, :], label="saliency pruned", fraction=0.03, pad=0.02)
    figure.suptitle(
        f"{pattern} of {' x '.join(map(str, problem.shape))}: efficacy {result.efficacy:.2f} % by {result.method}",
        x=0.02,
        ha="left",
    )
    return figure


def _order(problem: Problem) -> str:
    """Say in which order the columns are drawn."""
    if isinstance(problem.pattern, HiNM):
        return "column, in each tile's order: kept, then dropped"
    return "column (input channel), in the order used"


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a picture atomically; the kind follows from the suffix.

    Parameters
    ----------
    figure
        The picture.
    path
        Where to: .png, .svg or .pdf.

    Raises
    ------
    FileError
        If the suffix is unknown or the file cannot be written.
    """
    kind = check_suffix(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    write_atomically(path, buffer.getvalue())


def check_suffix(path: str | os.PathLike[str]) -> str:
    """Return the kind of picture that a path asks for.

    Parameters
    ----------
    path
        Where a picture shall go.

    Returns
    -------
    str
        ``"png"``, ``"svg"`` or ``"pdf"``.

    Raises
    ------
    FileError
        If it is none of these.
    MissingDependencyError
        If matplotlib is not installed.
    """
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in SUFFIXES:
        raise FileError(name, f"a picture ends in one of {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pictures need matplotlib: pip install 'permsolve[plot]'") from error
    return suffix[1:]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure  # no pyplot: no global state, no window system

    return Figure(figsize=(width, height), layout="constrained")


def _curve(result: Result, times: Any) -> Any:
    """Return the efficacy of the incumbent at each time."""
    points = np.array([point.time for point in result.trace])
    values = np.array([efficacy(point.score, result.baseline, result.rows_bound) for point in result.trace])
    return values[np.maximum(np.searchsorted(points, times, side="right") - 1, 0)]


def _legend(name: str, runs: Sequence[Result]) -> str:
    return f"{name} ({np.median([run.efficacy for run in runs]):.2f})"


def _reduced(matrix: Any) -> Any:
    """Average a matrix down to at most `_CELLS` cells along each axis."""
    for axis in (0, 1):
        size = matrix.shape[axis]
        if size > _CELLS:
            edges = np.linspace(0, size, _CELLS + 1).astype(int)[:-1]
            counts = np.diff(np.append(edges, size))
            matrix = np.add.reduceat(matrix, edges, axis=axis) / np.expand_dims(counts, 1 - axis)
    return matrix
