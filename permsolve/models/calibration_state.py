"""The state of a calibration in a file, so that a killed run can go on."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from permsolve.errors import FileError, InputError, ModelError
from permsolve.models.calibration import Calibration
from permsolve.models.calibration_sums import NEVER, Book
from permsolve.models.tensors import tensors_of

#: Seconds between two states on disk, and how many times as long as writing one takes they are at least.
_SAVE_EVERY, _SLOW = 30.0, 10.0


class State:
    """The state of a calibration in a file."""

    def __init__(self, path: Path, model: nn.Module, book: Book) -> None:
        if not path.absolute().parent.is_dir():  # found out now, not when everything is computed
            raise FileError(path, f"cannot be written: there is no folder {path.absolute().parent}")
        self._path, self._book = path, book
        self._model = _fingerprint(model)
        self._digest = hashlib.sha256()
        self._before: Calibration | None = None
        #: Batches that are done.
        self.done = 0
        if path.exists():
            self._before = before = Calibration.load(path)
            self._check(before)
            self.done = before.samples
            book.take(before)
        self._written, self._pause = time.perf_counter(), _SAVE_EVERY

    def digest(self, batch: Any, count: int) -> None:
        """Take note of a batch; the last of those that are done shows whether they are the same as then."""
        for leaf in pytree.tree_leaves(dict(batch) if isinstance(batch, Mapping) else batch):
            if isinstance(leaf, torch.Tensor):
                self._digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
                self._digest.update(_bytes(leaf))
            else:
                self._digest.update(repr(leaf).encode())
        if self._before is not None and count == self.done and self._digest.hexdigest() != self._before.batches:
            raise InputError(
                f"{self._path} was saved after {self.done} batches that are not these, or in another order: pass the "
                f"same (a loader that does not shuffle), or another file to begin anew"
            )

    def save(self, count: int) -> None:
        """Write the state now and then."""
        if time.perf_counter() - self._written < self._pause:
            return
        self.finish(self._book.calibration(count, {}))

    def finish(self, found: Calibration) -> None:
        """Write a calibration."""
        begun = time.perf_counter()
        if self._before is None or found.samples > self.done:
            found.model, found.batches = self._model, self._digest.hexdigest()
            found.save(self._path)
        self._written = time.perf_counter()
        self._pause = max(_SAVE_EVERY, _SLOW * (self._written - begun))

    def _check(self, before: Calibration) -> None:
        if before.model != self._model:
            raise ModelError(
                f"{self._path} holds the calibration of another model, or of this one with other weights: name another "
                f"file, or pass the model that it was begun with"
            )
        if before.covariance != self._book.covariance:
            raise InputError(f"{self._path} was begun with covariance={before.covariance}: go on with that, or anew")
        known = {*before.names, *(path for path, reason in before.unseen.items() if reason == NEVER)}
        if known != set(self._book.weights):
            raise InputError(f"{self._path} was begun with other layers: go on with the same, or name another file")


def _fingerprint(model: nn.Module) -> str:
    """Return the sha256 of a model's parameters and buffers."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in tensors_of(model).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> Any:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
