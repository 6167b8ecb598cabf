"""Tables of the quality benchmark: means and spreads over seeds, what they show, and the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from common import Row, record
from quality_cells import FULL, LEARNED, PERMUTATIONS, UPDATES, Way
from quality_tasks import NAMES

#: Figures of what was carried out, by way and seed.
Done = dict[tuple[Way, int], dict[str, float]]
OURS = ("ours", "ours-free", *LEARNED)


class Table:
    """Figures of cells, by way and by seed.

    Parameters
    ----------
    done
        What was carried out.
    """

    def __init__(self, done: Done) -> None:
        self.figures: dict[Way, dict[int, dict[str, float]]] = {}
        for way, seed in sorted(done, key=lambda cell: (cell[0].order, cell[1])):
            self.figures.setdefault(way, {})[seed] = done[way, seed]

    def over(self, figure: str, *ways: Way) -> Any:
        """Return a figure of several ways on the seeds that all of them share, (ways, seeds)."""
        seeds = set.intersection(*(set(self.figures.get(way, {})) for way in ways))
        return np.array([[self.figures[way][seed][figure] for seed in sorted(seeds)] for way in ways], dtype=float)

    def rows(self) -> list[Row]:
        """Return mean and standard deviation of all figures, one row per way."""
        rows = []
        for way, by_seed in self.figures.items():
            row: Row = way._asdict() | {"seeds": len(by_seed)}
            for figure in next(iter(by_seed.values())):
                values = [each[figure] for each in by_seed.values()]
                row[figure], row[f"{figure} sd"] = float(np.mean(values)), _spread(values)
            rows.append(row)
        return rows


def recovery(table: Table) -> list[Row]:
    """Return, per task and pattern, the share of the loss that one-shot pruning causes which permutations win back.

    First by the permutation alone: the same saliency and update without and with it. Then by everything together,
    against plain magnitude. Of all combinations that were carried out on every seed the one of the largest share,
    beside RIA's permutation, equally free, on the same seeds.
    """
    rows = []
    for task in NAMES:
        for nm in ("2:4", "1:4"):
            ways = [each for each in table.figures if each[:2] == (task, nm) and each.permutation in OURS]
            ways = [each for each in ways if each.recipe == "none"]
            for what in ("permutation alone", "all together"):
                found = [_recovered(what, table, way) for way in ways]
                rows += sorted((row for row in found if row), key=lambda row: -row["recovered %"])[:1]
    return rows


def _free(way: Way) -> bool:
    """Return whether a way's channels may go anywhere: what RIA's permutation needs to be compared with it fairly."""
    return "gather" in PERMUTATIONS[way.permutation]


def _recovered(what: str, table: Table, way: Way) -> Row:
    """Return the row of one combination; an empty one where it is not there, or where nothing is to be won back.

    Something is if pruning without the permutation adds loss on every seed, and on average at least a tenth of what
    plain magnitude adds.
    """
    magnitude = Way(way.task, way.nm)
    plain = way._replace(permutation="none") if what == "permutation alone" else magnitude
    loss = table.over("loss", way, plain, Way(way.task), magnitude)
    if not loss.size or loss.shape[1] < len(table.figures[Way(way.task)]):
        return {}
    added, most = loss[1] - loss[2], loss[3] - loss[2]
    if not (added > 0).all() or added.mean() < 0.1 * most.mean():
        return {}
    ria = table.over("loss", way, way._replace(permutation="ria-free" if _free(way) else "ria"))
    return {
        "task": way.task,
        "nm": way.nm,
        "what": what,
        "saliency": way.saliency,
        "permutation": way.permutation,
        "update": way.update,
        "seeds": loss.shape[1],
        "dense loss": float(loss[2].mean()),
        "plain loss": float(loss[1].mean()),
        "loss": float(loss[0].mean()),
        "recovered %": float(100 * (loss[1] - loss[0]).mean() / added.mean()),
        "recovered % sd": _spread(100 * (loss[1] - loss[0]) / added),
        "loss with ria's": float(ria[1].mean()) if ria.size else None,
        "below ria's on": f"{int((ria[0] < ria[1]).sum())} of {ria.shape[1]}" if ria.size else None,
    }


def compensation(table: Table) -> list[Row]:
    """Return how far updates, and permutations after them, cut the output error of plain magnitude pruning."""
    rows = []
    for way in table.figures:
        plain, full = Way(way.task, way.nm), way._replace(permutation="none")
        error = table.over("mse", plain, full, way)
        if way.permutation == "none" or way.update != FULL or not error.size:
            continue
        cut, rest = 100 * (1 - error[1] / error[0]), 100 * (1 - error[2] / error[1])
        rows.append(
            {
                "task": way.task,
                "nm": way.nm,
                "saliency": way.saliency,
                "seeds": error.shape[1],
                "mse magnitude": float(error[0].mean()),
                f"mse {FULL}": float(error[1].mean()),
                "cut %": float(cut.mean()),
                "cut % sd": _spread(cut),
                "permutation": way.permutation,
                "mse permuted": float(error[2].mean()),
                "of the rest %": float(rest.mean()),
                "of the rest % sd": _spread(rest),
            }
        )
    return rows


def learned(table: Table) -> list[Row]:
    """Return what learning adds to the permutation it starts from: on the data it selects by, and on the test data."""
    rows = []
    for way in table.figures:
        if way.permutation not in LEARNED or way.update != "none":
            continue
        how = PERMUTATIONS[way.permutation]
        start = "none" if "method" not in how else "ours-free" if "gather" in how else "ours"
        loss = table.over("loss", way._replace(permutation=start), way)
        if loss.size:
            held = [table.over(figure, way)[0] for figure in ("held-out start", "held-out end")]
            rows.append(
                {
                    "task": way.task,
                    "nm": way.nm,
                    "method": how["learn"],
                    "from": "identity" if start == "none" else start,
                    "seeds": loss.shape[1],
                    "held-out start": float(held[0].mean()),
                    "held-out end": float(held[1].mean()),
                    "lower on": f"{int((held[1] < held[0]).sum())} of {len(held[0])}",
                    "test start": float(loss[0].mean()),
                    "test end": float(loss[1].mean()),
                    "test lower on": f"{int((loss[1] < loss[0]).sum())} of {loss.shape[1]}",
                }
            )
    return rows


def recipes(table: Table) -> list[Row]:
    """Return every recipe's test loss against masked fine-tuning of equal length, seed by seed."""
    rows = []
    for way in table.figures:
        masked = way._replace(recipe="masked")
        loss = table.over("loss", way, masked if masked in table.figures else way)
        if way.recipe != "none":
            rows.append(
                {
                    "task": way.task,
                    "nm": way.nm,
                    "permutation": way.permutation,
                    "recipe": way.recipe,
                    "seeds": loss.shape[1],
                    "loss": float(loss[0].mean()),
                    "loss sd": _spread(loss[0]),
                    "minus masked": float((loss[0] - loss[1]).mean()),
                    "minus masked sd": _spread(loss[0] - loss[1]),
                }
            )
    return rows


def write(done: Done, out: Path, plot: Path | None) -> None:
    """Print all tables, write them as JSON, and draw the picture."""
    table = Table(done)
    record(out, "cells", table.rows())
    for section in (recovery, compensation, learned, recipes):
        record(out, section.__name__, section(table))
    if plot is not None:
        draw(table, plot)


def draw(table: Table, path: Path) -> None:
    """Draw the output error of magnitude masks by update and permutation, one panel per task and pattern."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = [task for task in NAMES if any(way.task == task and way.update != "none" for way in table.figures)]
    if not tasks:
        return
    figure, axes = pyplot.subplots(2, len(tasks), figsize=(3.4 * len(tasks), 6), squeeze=False, sharex=True)
    for row, nm in zip(axes, ("2:4", "1:4"), strict=True):
        for axis, task in zip(row, tasks, strict=True):
            for k, permutation in enumerate(("none", "ria", "ours", "ours-free")):
                _bars(axis, table, Way(task, nm, permutation=permutation), k)
            if not axis.patches:
                axis.set_axis_off()
                continue
            axis.set_yscale("log")
            axis.set_ylim(1e-3, 2)
            axis.set_title(f"{task}, {nm}", fontsize=10)
            axis.set_xticks(range(len(UPDATES)), [each.replace("+", "\n+") for each in UPDATES], fontsize=8)
            axis.tick_params(axis="y", labelsize=8)
            axis.grid(axis="y", alpha=0.3)
        row[0].set_ylabel("output error (1: nothing done)", fontsize=9)
    for above, below in axes.T:
        above.tick_params(labelbottom=not below.patches)  # the picture ends there
    axes[0][0].legend(title="permutation", fontsize=8, title_fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _bars(axis: Any, table: Table, way: Way, k: int) -> None:
    for at, update in enumerate(UPDATES):
        error = table.over("mse", way._replace(update=update), Way(way.task, way.nm))
        if error.size:
            share = error[0] / error[1]
            label = way.permutation if at == 0 else None
            axis.bar(at + 0.2 * (k - 1.5), share.mean(), 0.18, yerr=_spread(share), color=f"C{k}", label=label)


def _spread(values: Any) -> float:
    """Return the standard deviation of a sample, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
