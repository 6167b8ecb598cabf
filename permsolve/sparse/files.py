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
        The file, a ``.safetensors``. What shares memory is written under each of its names.
    others
        Further tensors by name, such as biases.

    Raises
    ------
    InputError
        If two tensors would have the same name, or something cannot be stored.
    """
    tensors: dict[str, torch.Tensor] = dict(others or {})
    about: dict[str, Any] = {}
    for name, each in weights.items():
        if not isinstance(each, Compressed):
            raise InputError(f"{name!r} is a {type(each).__name__}, not compressed weights: others go to others=")
        about[name] = {"pattern": str(each.pattern), "shape": list(each.shape)}
        for part in _PARTS:
            if f"{name}.{part}" in tensors:
                raise InputError(f"two tensors are named {name}.{part}")
            tensors[f"{name}.{part}"] = getattr(each, part)
    metadata = {"schema": SCHEMA, "compressed": json.dumps(about, sort_keys=True)}
    write_atomically(Path(path), to_bytes(_storable(tensors), metadata))


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
            weights[name] = Compressed(parse(described["pattern"]), _shape(described), **parts).check()
        except KeyError as error:
            raise InputError(f"{path}: compressed weight {name!r} is described without {error}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: compressed weight {name!r}: {error}") from error
    return weights, tensors


def _storable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors on the CPU, contiguous, no two of them in one memory: the format has no ties."""
    made: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, each in tensors.items():
        if not isinstance(each, torch.Tensor) or each.is_meta:
            what = "on the meta device, without data" if isinstance(each, torch.Tensor) else f"a {type(each).__name__}"
            raise InputError(f"{name} is {what} and cannot be stored")
        tensor = each.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        made[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return made


def _shape(described: Mapping[str, Any]) -> tuple[int, int]:
    shape = described["shape"]
    if not isinstance(shape, list) or len(shape) != 2 or any(type(size) is not int for size in shape):
        raise InputError(f"its shape is {shape!r}, not two whole numbers")
    return shape[0], shape[1]


def _about(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if metadata.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a file of {SCHEMA!r}; its schema is {metadata.get('schema')!r}")
    try:
        about = json.loads(metadata["compressed"])
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: its list of compressed weights cannot be read: {error}") from error
    if not isinstance(about, dict) or not all(isinstance(each, dict) for each in about.values()):
        raise InputError(f"{path}: its list of compressed weights is no mapping of descriptions")
    return about
