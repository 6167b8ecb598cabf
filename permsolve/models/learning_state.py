"""The state of a run of `Plan.learn`: a safetensors file, written atomically, from which a killed run goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch.utils import _pytree as pytree

from permsolve.errors import DocumentError, FileError, InputError
from permsolve.io import write_atomically
from permsolve.learning.sites import Ints

SCHEMA = "permsolve.learning/1"


@dataclass(frozen=True)
class Settings:
    """What decides on the outcome of a run, as plain values; a run goes on only under the same."""

    method: str
    nm: str
    #: Its name, or ``"own"`` for one of the user's.
    loss: str
    steps: int
    lr: float
    saliency: str
    block: int | None
    start: str
    seed: int
    #: sha256 of what is pruned and where the permutations start.
    model: str


@dataclass
class State:
    """Where a run stands.

    Parameters
    ----------
    step
        Steps made.
    at
        Batches used of the present pass.
    loss
        Best loss on the held-out batches.
    best_step
        Step after which it was seen.
    history
        Steps and losses of all looks.
    perms
        The permutations of the best loss; None for groups that are not learned.
    used, held
        sha256 of the batches used of the present pass, and of the held-out ones; empty where nothing is saved.
    """

    step: int = 0
    at: int = 0
    loss: float = float("inf")
    best_step: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    perms: list[Ints | None] = field(default_factory=list)
    used: str = ""
    held: str = ""


def fingerprint(orders: Sequence[Ints | None], tensors: Iterable[torch.Tensor], names: Iterable[str] = ()) -> str:
    """Return a fingerprint of starting permutations, of tensors, and of what is called how.

    Parameters
    ----------
    orders
        Permutations, or None.
    tensors
        Weights and saliencies, whatever the outcome depends on.
    names
        Whose they are.

    Returns
    -------
    str
        Hexadecimal sha256.
    """
    digest = hashlib.sha256()
    for order in orders:
        digest.update(b"-" if order is None else np.asarray(order, dtype="<i8").tobytes())
    digest.update(repr(list(names)).encode())
    for tensor in tensors:
        digest.update(_described(tensor))
    return digest.hexdigest()


def _described(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return repr((tensor.shape, tensor.dtype)).encode() + flat.view(torch.uint8).numpy().tobytes()


def chained(before: str, batch: object) -> str:
    """Return a fingerprint of a batch and those before it.

    Parameters
    ----------
    before
        That of those before it; empty for the first.
    batch
        Tensors, numbers and strings in tuples, lists and mappings.

    Returns
    -------
    str
        Hexadecimal sha256.
    """
    digest = hashlib.sha256(before.encode())
    leaves = pytree.tree_leaves(batch, is_leaf=lambda each: isinstance(each, Mapping))
    for leaf in leaves:
        if isinstance(leaf, Mapping):
            digest.update(repr([(str(name), chained("", each)) for name, each in leaf.items()]).encode())
        elif isinstance(leaf, torch.Tensor):
            digest.update(_described(leaf))
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def write(path: str | os.PathLike[str], settings: Settings, state: State, tensors: dict[str, torch.Tensor]) -> None:
    """Write a state.

    Parameters
    ----------
    path
        Where to; an existing file is replaced.
    settings
        The run's settings.
    state
        Where it stands.
    tensors
        Parameters and the optimiser's state by name.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    plain = {key: value for key, value in dataclasses.asdict(state).items() if key != "perms"}
    about = {"schema": SCHEMA, "settings": json.dumps(dataclasses.asdict(settings)), "state": json.dumps(plain)}
    stored = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    for number, perm in enumerate(state.perms):
        if perm is not None:
            stored[f"perm.{number}"] = torch.from_numpy(np.array(perm))  # a copy: it may be read-only
    write_atomically(path, to_bytes(stored, about))


def read(path: str | os.PathLike[str], settings: Settings, groups: int) -> tuple[State, dict[str, torch.Tensor]] | None:
    """Read a state, if there is one.

    Parameters
    ----------
    path
        The file.
    settings
        The settings of the run that is to go on.
    groups
        Number of the plan's groups.

    Returns
    -------
    tuple or None
        The state and its tensors; None where there is no file.

    Raises
    ------
    FileError
        If it cannot be read.
    DocumentError
        If it is no such file.
    InputError
        If it is of a run with other settings.
    """
    if not Path(path).exists():
        return None
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except OSError as error:
        raise FileError(Path(path), f"cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise DocumentError(f"{os.fspath(path)} is no state of a learning run: {error}; delete it") from error
    try:
        if about.get("schema") != SCHEMA:
            raise ValueError(f"its schema is {about.get('schema')!r}, not {SCHEMA!r}")
        before = Settings(**json.loads(about["settings"]))
        state = _state(json.loads(about["state"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DocumentError(f"{os.fspath(path)} is no state of a learning run: {error}; name another file") from error
    for each in dataclasses.fields(Settings):
        then, now = getattr(before, each.name), getattr(settings, each.name)
        if then != now:
            what = f"{each.name} = {then!r}"
            if each.name == "model":
                what = "another model, saliency or starting permutation"
            raise InputError(f"{os.fspath(path)} holds a run with {what}: repeat its settings, or name another file")
    state.perms = [None] * groups
    for number in range(groups):
        if f"perm.{number}" in tensors:
            state.perms[number] = tensors.pop(f"perm.{number}").numpy().astype(np.int64)
    return state, tensors


def _state(plain: dict[str, Any]) -> State:
    history = [(int(step), float(loss)) for step, loss in plain.pop("history")]
    state = State(**plain, history=history)
    counts = (state.step, state.at, state.best_step)
    if not history or not all(isinstance(each, int) and each >= 0 for each in counts):
        raise ValueError("its counts are not valid")
    if not isinstance(state.used, str) or not isinstance(state.held, str):
        raise ValueError("its fingerprints of batches are not valid")
    return state
