"""Finished layers on disk, so that a killed run goes on after them."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from permsolve.errors import DocumentError, FileError, InputError
from permsolve.io import write_atomically
from permsolve.models.compensation.fitting import Compensation, Fitted
from permsolve.models.prunable import PrunableWeight
from permsolve.patterns import Pattern

SCHEMA = "permsolve.compensation/1"

#: How far measurements of the same inputs may differ, relatively: sums in float32 depend on the number of threads.
_ALIKE = 1e-4


class Journal:
    """A folder with a file for every finished stage.

    Parameters
    ----------
    folder
        The folder; made if it is not there. None keeps nothing.
    fingerprint
        What the run depends on.

    Raises
    ------
    FileError
        If the folder cannot be made.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, fingerprint: str) -> None:
        self._folder = None if folder is None else Path(folder)
        self._fingerprint = fingerprint
        self._facts: dict[str, float] = {}
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise FileError(self._folder, f"cannot be made a folder: {error.strerror}") from error

    def read(self, stage: int, weights: Mapping[str, PrunableWeight]) -> dict[str, Fitted] | None:
        """Return what a stage has found, if it is finished.

        Parameters
        ----------
        stage
            Its number.
        weights
            The weights of the stage by path.

        Returns
        -------
        dict or None
            The results by path.

        Raises
        ------
        FileError, DocumentError
            If the file cannot be read or is damaged.
        InputError
            If it is of another run.
        """
        if self._folder is None or not self._file(stage).exists():
            return None
        path = self._file(stage)
        try:
            with safe_open(str(path), framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise FileError(path, f"cannot be read: {error}; delete it") from error
        if about.get("schema") != SCHEMA:
            raise DocumentError(f"{path} is not of schema {SCHEMA!r}; delete it, or name another folder in save=")
        if about.get("fingerprint") != self._fingerprint:
            raise InputError(
                f"{path} is of another run: other weights, masks or settings; delete the folder, or name "
                f"another in save="
            )
        try:
            errors = json.loads(about["errors"])
            self._facts |= {str(what): float(value) for what, value in json.loads(about["facts"]).items()}
            return {name: _unpacked(name, weight, tensors, errors) for name, weight in weights.items()}
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise DocumentError(f"{path} is damaged ({error}); delete it") from error

    def agree(self, facts: Mapping[str, float]) -> None:
        """Check that what is known of the calibration inputs is as it was at other stages, or in the run before.

        Parameters
        ----------
        facts
            Numbers by what they count or measure.

        Raises
        ------
        InputError
            If one of them is another now.
        """
        for what, value in facts.items():
            before = self._facts.setdefault(what, value)
            if not math.isclose(before, value, rel_tol=_ALIKE):
                folder = "" if self._folder is None else f", or name another folder than {self._folder} in save="
                raise InputError(
                    f"the calibration inputs are not those that other layers were fitted with: {what} was {before:.8g} "
                    f"and is {value:.8g} now; pass a list or a DataLoader that gives the same every time{folder}"
                )

    def write(self, stage: int, found: Mapping[str, Fitted], facts: Mapping[str, float]) -> None:
        """Write what a stage has found, atomically.

        Parameters
        ----------
        stage
            Its number.
        found
            The results by path.
        facts
            As in `agree`.

        Raises
        ------
        FileError
            If it cannot be written.
        """
        if self._folder is None:
            return
        tensors: dict[str, torch.Tensor] = {}
        for name, each in found.items():
            tensors[f"{name}.mask"] = torch.from_numpy(np.packbits(each.mask.numpy()))
            tensors[f"{name}.values"] = each.values[each.mask]
            if each.bias is not None:
                tensors[f"{name}.bias"] = each.bias
        about = {
            "schema": SCHEMA,
            "fingerprint": self._fingerprint,
            "errors": json.dumps({name: each.error for name, each in found.items()}),
            "facts": json.dumps(dict(facts)),
        }
        write_atomically(self._file(stage), to_bytes(tensors, about))

    def _file(self, stage: int) -> Path:
        assert self._folder is not None
        return self._folder / f"stage-{stage:04d}.safetensors"


def fingerprint(
    model: nn.Module,
    pattern: Pattern,
    how: Compensation,
    masks: Mapping[str, npt.NDArray[np.uint8] | None],
) -> str:
    """Return what a run depends on, but for the calibration inputs (`Journal.agree`): their order may change.

    Parameters
    ----------
    model
        The dense model.
    pattern
        The pattern.
    how
        The settings.
    masks
        What is kept at first, by path, packed into bits.

    Returns
    -------
    str
        sha256.
    """
    digest = hashlib.sha256(repr((SCHEMA, str(pattern), how)).encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    for path, mask in masks.items():
        digest.update(path.encode())
        digest.update(b"" if mask is None else mask.tobytes())
    return digest.hexdigest()


def _unpacked(
    name: str, weight: PrunableWeight, tensors: Mapping[str, torch.Tensor], errors: Mapping[str, float]
) -> Fitted:
    size = int(np.prod(weight.shape))
    bits = np.unpackbits(tensors[f"{name}.mask"].numpy(), count=size)
    mask = torch.from_numpy(bits.astype(np.bool_)).reshape(weight.shape)
    kept = tensors[f"{name}.values"]
    values = torch.zeros(weight.shape, dtype=kept.dtype)
    values[mask] = kept
    return Fitted(mask, values, tensors.get(f"{name}.bias"), float(errors[name]))
