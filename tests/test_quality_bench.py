"""The quality benchmark: its grid, its journal, its tables on known figures, and a short run on real digits."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import quality  # type: ignore[import-not-found]  # noqa: E402
from quality_cells import FULL, Bench, Way, grid  # type: ignore[import-not-found]  # noqa: E402
from quality_summary import Table, compensation, learned, recipes, recovery  # type: ignore[import-not-found]  # noqa: E402
from quality_tasks import digits  # type: ignore[import-not-found]  # noqa: E402

MLP = "digits_mlp"


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return dataclasses.replace(digits(MLP, 0, tmp_path_factory.mktemp("cache"), steps=150), search=0.3)


def table(figures: dict[Way, list[dict[str, float]]]) -> Table:
    return Table({(way, seed): each for way, rows in figures.items() for seed, each in enumerate(rows)})


def losses(*values: float) -> list[dict[str, float]]:
    return [{"loss": value, "mse": 10 * value} for value in values]


def test_grid_is_a_product_that_can_be_narrowed() -> None:
    ways = grid(["saliencies", "updates"], MLP, {})
    assert len(set(ways)) == len(ways)
    assert ways[0] == Way(MLP)
    assert Way(MLP, "4:8", "obs", "ours") in ways
    assert Way(MLP, "1:4", "wanda", "ours-free", FULL) in ways
    assert not any(way.saliency == "output_error" and way.permutation == "ria" for way in ways)
    narrow = grid(["updates"], MLP, {"nm": ["2:4"], "update": ["none", FULL], "saliency": ["magnitude"]})
    assert len(narrow) == 4 * 2
    assert {way.nm for way in narrow} == {"2:4"}


def test_a_repeated_run_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    class Fake:
        def __init__(self, task: Any, work: Path) -> None:
            self.task = task

        def measure(self, way: Way) -> dict[str, float]:
            measured.append(way)
            return {"loss": 1.0, "mse": 2.0}

    monkeypatch.setattr(quality, "Bench", Fake)
    monkeypatch.setattr(quality, "build", lambda name, seed, *_: type("T", (), {"name": name, "seed": seed}))
    journal = tmp_path / "cells.jsonl"
    cells = [(Way(MLP), 0), (Way(MLP, "2:4"), 0), (Way(MLP, "2:4"), 1)]
    quality.run(cells[:2], journal, tmp_path, None)
    journal.write_text(journal.read_text() + '\n{"way": {"task": "digits_m')  # killed while writing
    quality.run(cells, journal, tmp_path, None)
    assert measured == [each[0] for each in cells]
    assert list(quality.finished(journal)) == cells


def test_recovery_is_the_share_of_the_added_loss() -> None:
    plain = Way(MLP, "2:4")
    found = recovery(
        table(
            {
                Way(MLP): losses(1.0, 1.0),
                plain: losses(2.0, 3.0),
                plain._replace(permutation="ria"): losses(1.5, 2.5),
                plain._replace(permutation="ours"): losses(1.4, 2.6),
                plain._replace(permutation="ours", update=FULL): losses(1.1, 1.2),
                plain._replace(update=FULL): losses(1.2, 1.2),
            }
        )
    )
    alone, whole = found
    assert (alone["what"], alone["permutation"], alone["update"]) == ("permutation alone", "ours", "none")
    assert alone["recovered %"] == pytest.approx(100 * 0.5 / 1.5)
    assert alone["recovered % sd"] == pytest.approx(100 * np.std([0.6, 0.2], ddof=1))
    assert alone["loss with ria's"] == pytest.approx(2.0)
    assert alone["below ria's on"] == "1 of 2"
    assert (whole["what"], whole["update"], whole["loss with ria's"]) == ("all together", FULL, None)
    assert whole["recovered %"] == pytest.approx(100 * 1.35 / 1.5)


def test_cuts_of_the_error() -> None:
    plain = Way(MLP, "2:4")
    full = plain._replace(update=FULL)
    (row,) = compensation(
        table({plain: losses(1.0, 2.0), full: losses(0.1, 0.4), full._replace(permutation="ours"): losses(0.05, 0.4)})
    )
    assert row["cut %"] == pytest.approx((90 + 80) / 2)
    assert row["of the rest %"] == pytest.approx((50 + 0) / 2)


def test_learned_and_recipes_are_compared_seed_by_seed() -> None:
    start = Way(MLP, "2:4", "wanda", "ours")
    end = start._replace(permutation="ours+sinkhorn")
    masked, decay = (Way(MLP, "2:4", recipe=recipe) for recipe in ("masked", "mask_decay"))
    held = [{"loss": loss, "mse": 0.0, "held-out start": 0.5, "held-out end": 0.4} for loss in (1.0, 3.0)]
    both = table({start: losses(2.0, 2.0), end: held, masked: losses(1.0, 2.0), decay: losses(0.5, 2.5)})
    (row,) = learned(both)
    assert (row["from"], row["method"], row["lower on"], row["test lower on"]) == (
        "ours",
        "sinkhorn",
        "2 of 2",
        "1 of 2",
    )
    apart = {row["recipe"]: row["minus masked"] for row in recipes(both)}
    assert apart == {"masked": 0.0, "mask_decay": 0.0}


def test_short_run_on_digits(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quality, "build", lambda *_: task)
    words = ["quality.py", "--tasks", MLP, "--seeds", "1", "--parts", "updates", "--cache", str(tmp_path)]
    narrow = ["--nm", "2:4", "dense", "--saliency", "magnitude", "--permutation", "none", "ours"]
    out, plot = tmp_path / "quality.json", tmp_path / "quality.png"
    monkeypatch.setattr(sys, "argv", [*words, *narrow, "--out", str(out), "--plot", str(plot)])
    quality.main()
    report = json.loads(out.read_text())
    rows = {(row["nm"], row["permutation"], row["update"]): row for row in report["cells"]["rows"]}
    assert len(rows) == 1 + 2 * 4
    assert rows["dense", "none", "none"]["mse"] == 0
    error = {key[1:]: row["mse"] for key, row in rows.items()}
    assert error["none", FULL] < error["none", "refit"] < error["none", "none"]
    assert error["ours", FULL] < error["ours", "none"]
    assert report["compensation"]["rows"][0]["cut %"] > 50
    assert plot.stat().st_size > 10_000
    capsys.readouterr()
    quality.main()
    assert "9 cells, 0 to do" in capsys.readouterr().out


def test_every_saliency_and_learned_permutation_runs(task: Any, tmp_path: Path) -> None:
    bench = Bench(task, tmp_path)
    dense = bench.measure(Way(MLP))
    for saliency in ("wanda", "ria", "obs", "output_error"):
        assert bench.measure(Way(MLP, "1:4", saliency))["loss"] > dense["loss"]
