"""The benchmark library: real matrices that ship with the package, seeded synthetic ones, and the best known of each.

`library` lists the instances, `entry` finds one: a matrix and a pattern, the best solution known, its score, and a
bound. ``README.md`` beside this file describes them; `checks` verifies and `updates` improves them.

`names` lists the stored matrices, `info` describes one and `load` reads it; `generators` draws synthetic ones. The
stored matrices are weights, shape (rows, input channels), float32; ``ATTRIBUTION.md`` beside this file says whose
they are, and ``build.py`` makes them.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, fields
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from permsolve.errors import FileError, InputError

from . import generators
from .entries import Best, Entry, entry, library

__all__ = ["Best", "Entry", "Instance", "entry", "generators", "info", "library", "load", "names"]


@dataclass(frozen=True)
class Instance:
    """What the index says of one stored matrix.

    Attributes
    ----------
    name
        What `load` takes.
    file
        Path of the file inside this package, with forward slashes.
    shape
        Rows and columns of the matrix; columns are input channels.
    dtype
        NumPy's name of the element type.
    family
        Which group of matrices it belongs to: ``"digits"`` or ``"minilm"``.
    layer
        Name of the parameter in the network it comes from.
    original_shape
        Shape of that parameter before it became a matrix.
    change
        What was done to the parameter.
    made
        How the network was trained, or where in its package the parameter was read.
    script
        The script that wrote the file.
    seed
        Seed of the training; None where this project trained nothing.
    test_accuracy
        Accuracy of the trained network on held-out images, from 0 to 1; None where this project trained nothing.
    source
        Where the data come from.
    licence
        SPDX identifier of the licence of the matrix.
    sha256
        Checksum of the matrix: its little-endian bytes in C order, without the file's header.
    """

    name: str
    file: str
    shape: tuple[int, int]
    dtype: str
    family: str
    layer: str
    original_shape: tuple[int, ...]
    change: str
    made: str
    script: str
    seed: int | None
    test_accuracy: float | None
    source: str
    licence: str
    sha256: str


def names() -> tuple[str, ...]:
    """List the stored matrices.

    Returns
    -------
    Their names, in the order of the index.

    Raises
    ------
    FileError
        If the index is missing or damaged.
    """
    return tuple(_index())


def info(name: str) -> Instance:
    """Describe a stored matrix without reading it.

    Parameters
    ----------
    name
        One of `names`.

    Returns
    -------
    Its entry in the index.

    Raises
    ------
    InputError
        If there is no matrix of this name.
    FileError
        If the index is missing or damaged.
    """
    index = _index()
    if name not in index:
        raise InputError(f"no stored matrix is called {name!r}; there are: {', '.join(index)}")
    return index[name]


def load(name: str) -> npt.NDArray[np.float32]:
    """Read a stored matrix and verify that it is the published one.

    Parameters
    ----------
    name
        One of `names`.

    Returns
    -------
    Weights of either sign, shape (rows, input channels), in C order; the caller's own to modify.

    Raises
    ------
    InputError
        If there is no matrix of this name.
    FileError
        If its file is missing, or its shape, type or checksum is not the one in the index.
    """
    about = info(name)
    raw = _read(about.file)
    stream = io.BytesIO(raw)
    try:
        npy.read_magic(stream)
        shape, fortran_order, dtype = npy.read_array_header_1_0(stream)
    except Exception as error:  # a damaged header trips the parser in many ways; all mean the same to the caller
        raise _damaged(about.file, f"its header cannot be read ({error})") from error
    # The header is checked before anything of the size it claims is allocated.
    found, expected = (shape, dtype, fortran_order), (about.shape, np.dtype(about.dtype).newbyteorder("<"), False)
    if found != expected:
        raise _damaged(about.file, f"it holds (shape, dtype, Fortran order) {found}, the index says {expected}")
    payload = raw[stream.tell() :]
    digest = hashlib.sha256(payload).hexdigest()
    if digest != about.sha256:
        raise _damaged(about.file, f"its sha256 is {digest}, the index says {about.sha256}")
    # A copy in native byte order: what frombuffer answers cannot be written to.
    return np.frombuffer(payload, dtype).astype(np.float32).reshape(about.shape)


def _index() -> dict[str, Instance]:
    """Read the index, in its own order."""
    raw = _read("index.json")
    try:
        instances = [_instance(record) for record in json.loads(raw)]
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged("index.json", f"it cannot be read ({error!r})") from error
    return {instance.name: instance for instance in instances}


def _instance(record: dict[str, Any]) -> Instance:
    """Turn an entry of the index into its dataclass; KeyError if a field is missing."""
    values = {field.name: record[field.name] for field in fields(Instance)}
    values["shape"] = tuple(values["shape"])
    values["original_shape"] = tuple(values["original_shape"])
    return Instance(**values)


def _read(file: str) -> bytes:
    """Read a file of this package."""
    try:
        return _root().joinpath(file).read_bytes()
    except OSError as error:
        raise _damaged(file, f"it cannot be opened ({error})") from error


def _root() -> Traversable:
    """Find the folder of this package, which may lie in an archive."""
    return resources.files(__name__)


def _damaged(file: str, why: str) -> FileError:
    """Say which file is damaged, how, and what to do."""
    return FileError(f"{__name__}/{file}", f"the file is damaged: {why}; reinstall the package")
