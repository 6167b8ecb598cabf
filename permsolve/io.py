"""Files: matrices in, documents in and out."""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from permsolve.errors import DocumentError, FileError, MissingDependencyError
from permsolve.result import Result

#: Deepest nesting of dictionaries in a checkpoint that is followed.
_DEEPEST = 16
#: Types of a safetensors file that NumPy has too.
_NUMPY_KINDS = ("F16", "F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL")
#: Suffixes `read_matrix` knows.
SUFFIXES = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".bin")


def save(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a result as a JSON document, atomically: the file is either the old one or the whole new one.

    Parameters
    ----------
    result
        The result.
    path
        Where to; an existing file is replaced.

    Raises
    ------
    FileError
        If the file cannot be written.
    """
    write_atomically(path, result.to_json().encode())


def load(path: str | os.PathLike[str]) -> Result:
    """Read a result from a JSON document.

    Parameters
    ----------
    path
        The document.

    Returns
    -------
    Result
        The result.

    Raises
    ------
    FileError
        If the file cannot be read.
    DocumentError
        If it is no valid document; the message names the file.
    """
    from permsolve.documents import parse

    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise FileError(path if isinstance(path, (str, Path)) else os.fspath(path), _reason(error)) from error
    try:
        return parse(text)
    except DocumentError as error:
        raise DocumentError(f"{os.fspath(path)}: {error}") from error


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file by way of a temporary one beside it, so that no reader ever sees half of it.

    Parameters
    ----------
    path
        Where to.
    data
        What.

    Raises
    ------
    FileError
        If it cannot be written; nothing is left behind.
    """
    target = Path(os.path.realpath(path))  # what a link points to is replaced, not the link
    temporary = ""
    try:
        if target.exists() and not target.is_file():
            raise OSError(errno.EINVAL, "exists and is no ordinary file")
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; a document is an ordinary one
        os.replace(temporary, target)
    except OSError as error:
        raise FileError(target, f"cannot be written: {_reason(error)}") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def read_matrix(path: str | os.PathLike[str], tensor: str | None = None) -> Any:
    """Read one weight matrix from a file. Nothing in a file is ever executed.

    Parameters
    ----------
    path
        A .npy file, a .npz archive, a .safetensors file, or a torch checkpoint (.pt, .pth, .bin) that holds a tensor or
        a (nested) dictionary of tensors.
    tensor
        Name of the tensor in a file that holds several; may be left out where there is only one of two or more axes.

    Returns
    -------
    numpy.ndarray or torch.Tensor
        The matrix.

    Raises
    ------
    FileError
        If the file does not exist, is damaged, is of an unknown kind, or does not hold the tensor.
    MissingDependencyError
        If the kind of file needs a package that is not installed.
    """
    file = Path(path)
    readers: dict[str, Callable[[Path, str | None], Any]] = {
        ".npy": _read_npy,
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
    }
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise FileError(file, f"unknown kind of file {suffix!r}; known: {', '.join(SUFFIXES)}")
    if not file.is_file():
        raise FileError(file, "is not a file" if file.exists() else "no such file")
    try:
        return readers.get(suffix, _read_torch)(file, tensor)
    except OSError as error:
        raise FileError(file, _reason(error)) from error


def _read_npy(file: Path, tensor: str | None) -> Any:
    if tensor is not None:
        raise FileError(file, f"an .npy file holds one array without a name; leave out the name {tensor!r}")
    try:
        with file.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # the header's parser has errors of its own: tokens, types, overflow
        raise FileError(
            file, f"not a readable .npy array (damaged, truncated or of Python objects): {error}"
        ) from error


def _read_npz(file: Path, tensor: str | None) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
            if tensor is None:  # the headers tell which member it must be; one that is named need not be looked for
                shapes = {name: _shape_of(archive, member) for name, member in members.items()}
            else:
                shapes = dict.fromkeys(members, ())
            name = _choose(file, shapes, tensor)
            with archive.open(members[name]) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
    except FileError:
        raise
    except Exception as error:  # zip, zlib, NumPy and the header's parser each have errors of their own
        raise FileError(file, f"not a readable .npz archive (damaged or truncated): {error}") from error


def _shape_of(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    """Read the shape of an archive's member from its header, and no more."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(stream)[0]


def _read_safetensors(file: Path, tensor: str | None) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as archive:
            shapes = {name: tuple(archive.get_slice(name).get_shape()) for name in archive.keys()}  # noqa: SIM118 (no mapping)
            name = _choose(file, shapes, tensor)
            kind = archive.get_slice(name).get_dtype()
            if kind in _NUMPY_KINDS:
                return archive.get_tensor(name)
            if kind != "BF16":
                raise FileError(
                    file, f"tensor {name!r} is of type {kind}; readable are {', '.join(_NUMPY_KINDS)}, BF16"
                )
    except SafetensorError as error:
        raise FileError(file, f"not a readable .safetensors file (damaged or truncated): {error}") from error
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{file}: tensor {name!r} is of type {kind}, which needs torch: pip install 'permsolve[torch]'"
        ) from error
    with safe_open(file, framework="pt") as archive:
        return archive.get_tensor(name)


def _read_torch(file: Path, tensor: str | None) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{file}: a torch checkpoint needs torch: pip install 'permsolve[torch]'"
        ) from error
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here: pickle, zip, runtime and end-of-file errors
        # Only the first sentence: what follows may advise to load the file without that protection.
        first = (str(error).strip() or type(error).__name__).splitlines()[0].partition(". ")[0][:200]
        raise FileError(
            file, f"not a checkpoint that loads with weights_only (damaged, or it holds code): {first}"
        ) from error
    tensors = _flatten(loaded)
    name = _choose(file, {name: tuple(value.shape) for name, value in tensors.items()}, tensor)
    return tensors[name]


def _flatten(value: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Collect the tensors of nested dictionaries under dotted names, as a state_dict has them."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in value.items() if depth < _DEEPEST else ():  # a damaged file may nest without end
            found.update(_flatten(item, f"{prefix}.{key}" if prefix else str(key), depth + 1))
        return found
    return {prefix or "tensor": value} if hasattr(value, "shape") else {}


def _choose(file: Path, shapes: Mapping[str, tuple[int, ...]], tensor: str | None) -> str:
    if tensor is not None:
        if tensor in shapes:
            return tensor
        raise FileError(file, f"holds no tensor {tensor!r}; it holds {_listing(shapes)}")
    candidates = [name for name, shape in shapes.items() if len(shape) >= 2]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise FileError(file, f"holds no tensor of two or more axes; it holds {_listing(shapes)}")
    raise FileError(file, f"holds {len(candidates)} matrices; name one with --tensor: {_listing(candidates)}")


def _listing(names: Any) -> str:
    names = list(names)
    shown = ", ".join(names[:8])
    return (shown + f" and {len(names) - 8} more" if len(names) > 8 else shown) or "nothing"


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
