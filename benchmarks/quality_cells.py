"""Cells of the quality benchmark: one way to prune one task, carried out and measured."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from common import Row
from quality_nets import cross_entropy
from quality_tasks import NAMES, Task
from torch import nn, optim

from permsolve import models
from permsolve.models.prunable import catalogue
from permsolve.models.pruning import holds
from permsolve.patterns import parse

PATTERNS = ("dense", "2:4", "4:8", "1:4")
SALIENCIES = ("magnitude", "energy", "wanda", "ria", "obs", "output_error")
#: How permutations are learned: as published, and as we found best: from more data, by logits, in small steps.
LEARNING = {
    "sinkhorn": {"method": "sinkhorn", "steps": 200},
    "transport": {"method": "transport", "steps": 200},
    "tuned": {"method": "sinkhorn", "steps": 400, "loss": "kl", "lr": 5e-4},
}
#: Batches that the tuned way learns from, where the task has training data.
LESSONS = 64
#: How the channels are permuted: by which method, with explicit gathers, and what a learned permutation starts from.
PERMUTATIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "ria": {"method": "ria"},
    "ours": {"method": "auto"},
    "ria-free": {"method": "ria", "gather": "layer"},
    "ours-free": {"method": "auto", "gather": "layer"},
    "sinkhorn": {"learn": "sinkhorn"},
    "transport": {"learn": "transport"},
    "ours+sinkhorn": {"method": "auto", "learn": "sinkhorn"},
    "ours+transport": {"method": "auto", "learn": "transport"},
    "ours-free+tuned": {"method": "auto", "gather": "layer", "learn": "tuned"},
}
LEARNED = tuple(name for name, how in PERMUTATIONS.items() if "learn" in how)
FULL = "refit+dense+swap"
UPDATES: dict[str, dict[str, Any]] = {
    "none": {},
    "sparsegpt": {"update": "sparsegpt"},
    "refit": {"update": "refit"},
    FULL: {"update": "refit", "target": "dense", "swap": 8},
}


class Way(NamedTuple):
    """One way to prune a task.

    Parameters
    ----------
    task
        The task.
    nm
        The pattern, or ``"dense"``.
    saliency, permutation, update
        As in the tables above; the permutation maximises the saliency that the mask is chosen by.
    recipe
        How the model is trained after the permutation, instead of being pruned at once; ``"none"`` for no training.
    """

    task: str
    nm: str = "dense"
    saliency: str = "magnitude"
    permutation: str = "none"
    update: str = "none"
    recipe: str = "none"

    @property
    def order(self) -> tuple[Any, ...]:
        """Its place in tables and runs: ways of one permuted model are next to each other."""
        known = (NAMES, PATTERNS, SALIENCIES, [*PERMUTATIONS], [*UPDATES])
        return *(places.index(value) for places, value in zip(known, self[:5], strict=True)), self.recipe


def grid(parts: Iterable[str], task: str, only: dict[str, list[str]]) -> list[Way]:
    """Return the ways of some parts of the table; of a field that ``only`` restricts, with those values."""
    ways = {Way(task)}.union(*(_ways(part, task) for part in parts))
    kept = (way for way in ways if all(getattr(way, field) in allowed for field, allowed in only.items() if allowed))
    return sorted(kept, key=lambda way: way.order)


def _ways(part: str, task: str) -> Iterator[Way]:
    if part == "saliencies":
        for nm, saliency, permutation in product(PATTERNS[1:], SALIENCIES, ("none", "ria", "ours")):
            if (saliency, permutation) != ("output_error", "ria"):  # which ranks entries one by one
                yield Way(task, nm, saliency, permutation)
    if part == "updates":
        saliencies = ("magnitude", "wanda", "obs") if task.startswith("digits") else ("magnitude", "obs")
        permutations = (
            "none",
            "ria",
            "ours",
            *(() if task == "digits_cnn" else ("ours-free",)),
        )  # it has no such norms
        for nm, saliency in product(("2:4", "1:4"), saliencies):
            for permutation, update in product(permutations, UPDATES):
                yield Way(task, nm, saliency, permutation, update)
    if part == "learned":
        for nm, permutation in product(("2:4", "1:4"), ("none", "ria", "ria-free", "ours", "ours-free", *LEARNED)):
            yield Way(task, nm, "wanda", permutation)
            if task.startswith("digits") and permutation != "ours-free+tuned":
                yield Way(task, nm, "wanda", permutation, FULL)
    if part == "recipes" and task != "minilm":
        from permsolve.training import RECIPES

        yield Way(task, recipe="dense")
        for nm, permutation, recipe in product(("2:4", "1:4"), ("none", "ours"), RECIPES):
            yield Way(task, nm, permutation=permutation, recipe=recipe)


class Bench:
    """Carries out the cells of one task and seed, and keeps what several of them need.

    Parameters
    ----------
    task
        The task.
    work
        Folder for the permutations found: a later run reads them.
    """

    def __init__(self, task: Task, work: Path) -> None:
        self.task = task
        self.work = work
        self._last: tuple[tuple[str, ...], nn.Module, models.Calibration, Row] | None = None

    @cached_property
    def calibration(self) -> models.Calibration:
        """What the dense model reads, in its own order."""
        return models.calibrate(self.task.model, self.task.calibration, layers=self.task.layers, display=False)

    def measure(self, way: Way) -> Row:
        """Carry out a cell and return its figures; the time is that of pruning or training, without the search."""
        if way.nm == "dense" and way.recipe == "none":
            return dict(self.task.measure(self.task.model))
        permuted, calibration, notes = self._permuted(way)
        model = copy.deepcopy(permuted)
        start = time.perf_counter()
        if way.recipe == "none":
            self._prune(model, way, calibration)
        else:
            self._train(model, way)
        seconds = time.perf_counter() - start
        if way.nm != "dense":
            self._check(model, way)
        return self.task.measure(model) | notes | {"seconds": seconds}

    def _permuted(self, way: Way) -> tuple[nn.Module, models.Calibration, Row]:
        """Return the dense model in the order that a cell wants, what it reads, and what its search says."""
        how, key = PERMUTATIONS[way.permutation], (way.nm, way.saliency, way.permutation)
        if not how:
            return self.task.model, self.calibration, {}
        if self._last is None or self._last[0] != key:
            model = copy.deepcopy(self.task.model)
            plan, notes = self._plan(way, model, how)
            plan.apply_(model, example_inputs=self.task.example)
            self._last = (key, model, self.calibration.permuted(plan), notes)
        return self._last[1:]

    def _plan(self, way: Way, model: nn.Module, how: dict[str, Any]) -> tuple[models.Plan, Row]:
        """Find the permutations of a way, or read them."""
        name = "-".join([way.task, str(self.task.seed), way.nm.replace(":", "of"), way.saliency, way.permutation])
        path = self.work / f"{name}.plan.json"
        notes = self.work / f"{name}.notes.json"
        if notes.exists():
            return models.Plan.load(path), json.loads(notes.read_text())
        start = time.perf_counter()
        plan = models.analyze(model, self.task.example, way.nm, gather=how.get("gather"))
        common = {"saliency": way.saliency, "calibration": self.calibration, "seed": self.task.seed, "display": False}
        if "method" in how:
            limit = None if how["method"] == "ria" else self.task.search
            plan.solve(model, method=how["method"], time_limit=limit, **common)
        found: Row = {}
        if "learn" in how:
            settings: dict[str, Any] = dict(LEARNING[how["learn"]])
            if self.task.training is None:  # hidden states are no logits
                settings.pop("loss", None)
            learned = plan.learn(
                model,
                self.task.lessons(LESSONS) if how["learn"] == "tuned" else self.task.calibration,
                layers=self.task.layers,
                start="solved" if "method" in how else "identity",
                held_out=self.task.validation,
                **settings,
                **common,
            )
            found = {"held-out start": learned.start_loss, "held-out end": learned.loss}
        found["search s"] = time.perf_counter() - start
        self.work.mkdir(parents=True, exist_ok=True)
        plan.save(path)
        notes.write_text(json.dumps(found))
        return plan, found

    def _prune(self, model: nn.Module, way: Way, calibration: models.Calibration) -> None:
        how = UPDATES[way.update]
        data = self.task.calibration if how.get("target") == "dense" else calibration
        models.prune_(model, way.nm, saliency=way.saliency, layers=self.task.layers, calibration=data, **how)

    def _train(self, model: nn.Module, way: Way) -> None:
        """Train by a recipe, or go on with the dense model for as long; the rate falls linearly to zero."""
        from permsolve.training import NMSchedule

        training = self.task.training
        assert training is not None
        optimizer = optim.Adam(model.parameters(), lr=training.rate)
        rates = optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / training.steps)
        sparse = None
        if way.nm != "dense":
            sparse = NMSchedule(way.recipe, steps=training.steps).attach(
                model, way.nm, optimizer, layers=self.task.layers
            )
        model.train()
        for _, (inputs, targets) in zip(range(training.steps), training.batches(5000 + self.task.seed), strict=False):
            cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            rates.step()
            if sparse is not None:
                sparse.step()
            optimizer.zero_grad()
        if sparse is not None:
            sparse.finish()
        model.eval()

    def _check(self, model: nn.Module, way: Way) -> None:
        """Check that every weight that can be pruned is exactly of the pattern."""
        pattern = parse(way.nm)
        for weight in catalogue(model, self.task.layers, pattern):
            if weight.reason is None and not holds(weight.to_matrix(weight.values()), pattern):
                raise AssertionError(f"{way}: {weight.path} is not {way.nm}")
