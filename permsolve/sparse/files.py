"""Compressed weights on disk: safetensors, with the patterns in the file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes

from permsolve.errors import InputError
from permsolve.io import write_atomically
from permsolve.patterns import parse
from permsolve.sparse.compressed import Compressed

SCHEMA = "permsolve.sparse/1"
_PARTS = ("values", "positions", "index", "rows")


def save(
    weights: Mapping[str, Compressed], path: str | Path, *, others: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write compressed weights, atomically.

    Parameters
    ----------
    weights
        Compressed weights by name.
    path
        The file, a ``.safetensors``.
    others
        Further tensors by name, such as biases.

    Raises
    ------
    InputError
        If two tensors would have the same name.
    """
    tensors: dict[str, torch.Tensor] = dict(others or {})
    about: dict[str, Any] = {}
    for name, each in weights.items():
        about[name] = {"pattern": str(each.pattern), "shape": list(each.shape)}
        for part in _PARTS:
            if f"{name}.{part}" in tensors:
                raise InputError(f"two tensors are named {name}.{part}")
            tensors[f"{name}.{part}"] = getattr(each, part)
    metadata = {"schema": SCHEMA, "compressed": json.dumps(about, sort_keys=True)}
    write_atomically(
        Path(path), to_bytes({name: each.detach().cpu().contiguous() for name, each in tensors.items()}, metadata)
    )


def load(path: str | Path, device: str = "cpu") -> tuple[dict[str, Compressed], dict[str, torch.Tensor]]:
    """Read compressed weights and check them.

    Parameters
    ----------
    path
        The file.
    device
        Where the tensors go.

    Returns
    -------
    tuple
        Compressed weights by name, and the other tensors.

    Raises
    ------
    InputError
        If the file cannot be read, is of another kind, or what it holds does not fit together.
    """
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            about = _about(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    weights = {}
    for name, described in about.items():
        try:
            parts = {part: tensors.pop(f"{name}.{part}") for part in _PARTS}
        except KeyError as error:
            raise InputError(f"{path}: tensor {error} of compressed weight {name!r} is missing") from error
        try:
            pattern, shape = parse(described["pattern"]), (int(described["shape"][0]), int(described["shape"][1]))
            weights[name] = Compressed(pattern, shape, **parts).check()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InputError(f"{path}: compressed weight {name!r}: {error}") from error
    return weights, tensors


def _about(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a file of {SCHEMA!r}; its schema is {metadata.get('schema')!r}")
    try:
        about = json.loads(metadata["compressed"])
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: its list of compressed weights cannot be read: {error}") from error
    if not isinstance(about, dict) or not all(isinstance(each, dict) for each in about.values()):
        raise InputError(f"{path}: its list of compressed weights is no mapping of descriptions")
    return about
