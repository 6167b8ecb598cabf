"""Tasks of the quality benchmark: a dense model, data to calibrate, select, train and test on, and what is measured."""

from __future__ import annotations

import ast
import os
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from quality_nets import GPT, Batches, cached, cnn, cross_entropy, mlp, train
from torch import Tensor, nn

#: Names of the tasks, in the order of the tables.
NAMES = ("digits_mlp", "digits_cnn", "gpt", "minilm")
Figures = dict[str, float]


@dataclass(frozen=True)
class Training:
    """How a task is fine-tuned.

    Parameters
    ----------
    batches
        Makes an endless iterator of (inputs, targets) from a seed.
    steps, rate
        Number of steps and learning rate of Adam.
    """

    batches: Callable[[int], Batches]
    steps: int
    rate: float


@dataclass(frozen=True, eq=False)
class Task:
    """A dense model with its data.

    Parameters
    ----------
    name, seed
        Which task it is, and the seed of everything random about it.
    model
        The dense model, in evaluation mode; nobody changes it.
    example
        What plans are traced and verified with.
    calibration, validation, test
        Lists of model inputs: to calibrate on, to choose among learned iterates, and to measure on. They are disjoint.
    judge
        A function of the outputs of a model and of the dense model on ``test``: the figures, of which ``loss`` is the
        task's.
    search
        Seconds that a plan is searched.
    layers
        Which weights are pruned, as in `permsolve.models.prune_`.
    training
        How to fine-tune, if it is done.
    """

    name: str
    seed: int
    model: nn.Module
    example: Any
    calibration: list[Any]
    validation: list[Any]
    test: list[Any]
    judge: Callable[[list[Tensor], list[Tensor]], Figures]
    search: float
    layers: str | None = None
    training: Training | None = field(default=None)

    @cached_property
    def dense(self) -> list[Tensor]:
        """Outputs of the dense model on the test inputs."""
        return run(self.model, self.test)

    def lessons(self, count: int) -> list[Any]:
        """Return batches of training inputs, or what is calibrated on where there is no training."""
        if self.training is None:
            return self.calibration
        batches = self.training.batches(9000 + self.seed)
        return [next(batches)[0] for _ in range(count)]

    def measure(self, model: nn.Module) -> Figures:
        """Return the figures of a model, and its mean squared output error against the dense model."""
        outputs = run(model, self.test)
        pairs = list(zip(outputs, self.dense, strict=True))
        error = sum(float((one - other).double().square().sum()) for one, other in pairs)
        return self.judge(outputs, self.dense) | {"mse": error / sum(each.numel() for each in outputs)}


def run(model: nn.Module, inputs: list[Any]) -> list[Tensor]:
    """Return the outputs of a model in evaluation mode, one tensor per input."""
    model.eval()
    with torch.inference_mode():
        found = [model(**each) if isinstance(each, dict) else model(each) for each in inputs]
    return [each if isinstance(each, Tensor) else each.last_hidden_state for each in found]


def build(name: str, seed: int, cache: Path, text: Path | None) -> Task:
    """Return a task by name; dense models that were trained before are read from ``cache``."""
    if name == "gpt":
        if text is None:
            raise SystemExit("the task gpt learns a text: give the file by --text, or choose other --tasks")
        return gpt(seed, cache, text)
    if name == "minilm":
        return minilm(seed)
    return digits(name, seed, cache)


def digits(name: str, seed: int, cache: Path, steps: int = 600) -> Task:
    """Return a classifier of scikit-learn's digits, another dense net for every seed."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.RandomState(seed).permutation(len(images))
    x = torch.tensor(images[order] / 16, dtype=torch.float32)
    y = torch.tensor(labels[order], dtype=torch.int64)
    x = x.reshape(-1, 1, 8, 8) if name == "digits_cnn" else x
    learn, hold = slice(0, 1100), slice(1100, 1300)  # and 497 images to test on
    batches = partial(_samples, x[learn], y[learn])

    def fit(model: nn.Module) -> None:
        train(model, batches(seed), steps, 3e-3)

    torch.manual_seed(seed)
    model = cached(cache / f"{name}-{seed}-{steps}.safetensors", cnn if name == "digits_cnn" else mlp, fit)
    return Task(
        name=name,
        seed=seed,
        model=model,
        example=x[:2],
        calibration=list(x[:512].split(64)),
        validation=[x[hold]],
        test=[x[1300:]],
        judge=partial(_classified, [y[1300:]]),
        search=3.0,
        training=Training(batches, 300, 1e-3),
    )


def gpt(seed: int, cache: Path, text: Path, steps: int = 800) -> Task:
    """Return a character model of a text: one dense net; the seed draws what is calibrated on and searched."""
    raw = text.read_text(encoding="utf-8")
    characters = sorted(set(raw))
    index = {character: k for k, character in enumerate(characters)}
    tokens = torch.tensor([index[character] for character in raw])
    cut, context = int(0.9 * len(tokens)), 64
    batches = partial(_windows, tokens[:cut], context)

    def fit(model: nn.Module) -> None:
        train(model, batches(0), steps, 3e-3)

    torch.manual_seed(0)
    model = cached(cache / f"gpt-{steps}.safetensors", lambda: GPT(len(characters), context=context), fit)
    drawn = batches(1000 + seed)
    calibration = [next(drawn)[0] for _ in range(8)]
    validation = [next(drawn)[0] for _ in range(2)]
    tested = [tokens[cut + k : cut + k + context + 1] for k in range(0, 96 * context, context)]
    test = torch.stack(tested)
    return Task(
        name="gpt",
        seed=seed,
        model=model,
        example=calibration[0][:2],
        calibration=calibration,
        validation=validation,
        test=[test[:, :-1]],
        judge=partial(_classified, [test[:, 1:]]),
        search=12.0,
        training=Training(batches, 150, 1e-3),
    )


def minilm(seed: int) -> Task:
    """Return the sentence encoder all-MiniLM-L6-v2; the seed draws the sentences that are calibrated on."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from models import SENTENCES, minilm_folder
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    folder = minilm_folder()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    known = _documentation()
    kept = np.random.RandomState(0).permutation(len(known))
    tested = SENTENCES + [known[k] for k in kept[:104]]
    others = sorted({known[k] for k in kept[104:]} | _docstrings() - set(tested))
    drawn = [others[k] for k in np.random.RandomState(1 + seed).permutation(len(others))]
    return Task(
        name="minilm",
        seed=seed,
        model=model,
        example=dict(tokenizer(SENTENCES[:2], padding=True, return_tensors="pt")),
        calibration=_equal_lengths(tokenizer, drawn[:2048]),
        validation=_equal_lengths(tokenizer, drawn[2048:2112]),
        test=_equal_lengths(tokenizer, tested),
        judge=_embedded,
        search=15.0,
        layers="encoder.*",
    )


def _samples(x: Tensor, y: Tensor, seed: int) -> Batches:
    rng = np.random.default_rng(seed)
    while True:
        drawn = torch.from_numpy(rng.integers(len(x), size=64))
        yield x[drawn], y[drawn]


def _windows(tokens: Tensor, context: int, seed: int) -> Batches:
    rng = np.random.default_rng(seed)
    while True:
        starts = rng.integers(len(tokens) - context - 1, size=32)
        windows = torch.stack([tokens[start : start + context + 1] for start in starts])
        yield windows[:, :-1], windows[:, 1:]


def _classified(targets: list[Tensor], outputs: list[Tensor], dense: list[Tensor]) -> Figures:
    """Judge logits by their cross-entropy."""
    logits, truth = (
        torch.cat([each.flatten(0, -2) for each in outputs]),
        torch.cat([each.flatten() for each in targets]),
    )
    right = (logits.argmax(1) == truth).double().mean()
    return {"loss": float(cross_entropy(logits.double(), truth)), "accuracy": float(right)}


def _embedded(outputs: list[Tensor], dense: list[Tensor]) -> Figures:
    """Judge embeddings (means over tokens) by their distance to the dense ones and by the neighbours they share."""
    found, wanted = (torch.cat([each.mean(1) for each in tensors]).double() for tensors in (outputs, dense))
    found, wanted = (torch.nn.functional.normalize(each) for each in (found, wanted))
    return {
        "loss": float((1 - (found * wanted).sum(1)).mean()),
        "overlap": float(np.mean([len(a & b) / 10 for a, b in zip(_near(found), _near(wanted), strict=True)])),
    }


def _near(embedded: Tensor) -> Iterator[set[int]]:
    """Return the ten nearest other sentences of each."""
    similar = (embedded @ embedded.T).fill_diagonal_(-2)
    return (set(each.tolist()) for each in similar.topk(10).indices)


def _equal_lengths(tokenizer: Any, sentences: list[str]) -> list[dict[str, Tensor]]:
    """Return batches of sentences of equal numbers of tokens, so that nothing is padded."""
    by_length: dict[int, list[list[int]]] = {}
    for tokens in tokenizer(sentences)["input_ids"]:
        by_length.setdefault(len(tokens), []).append(tokens)
    batches = [torch.tensor(by_length[length]) for length in sorted(by_length)]
    return [{"input_ids": each, "attention_mask": torch.ones_like(each)} for each in batches]


def _documentation() -> list[str]:
    """Return sentences of the documentation that Python carries with it: real English that needs no download."""
    from pydoc_data.topics import topics

    return list(dict.fromkeys(sentence for text in topics.values() for sentence in _sentences(text)))


def _docstrings() -> set[str]:
    """Return sentences of the docstrings of Python's standard library."""
    found: set[str] = set()
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.update(_sentences(ast.get_docstring(node) or ""))
    return found


def _sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith(" ") or "**" in paragraph:
            continue
        for sentence in re.split(r"(?<=[.!?])\s+", " ".join(paragraph.split())):
            if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;'()\"-]{40,160}[.!?]", sentence):
                yield sentence
