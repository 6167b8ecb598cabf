"""Files of tensors: read, loaded into a model strictly, written back under the names and in the types they had."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from permsolve.errors import FileError, ModelError
from permsolve.models.tensors import INDEX

#: Name of the weights that are written.
WEIGHTS = "model.safetensors"
#: Suffixes of torch checkpoints.
TORCH = (".pt", ".pth", ".bin")
#: Where training scripts keep the state_dict among other things.
_KEYS = ("state_dict", "model_state_dict", "model")
#: Names listed in a message.
_NAMED = 3

Tensors = dict[str, torch.Tensor]


def first_line(error: BaseException) -> str:
    """Return what an error says first.

    Parameters
    ----------
    error
        The error.

    Returns
    -------
    str
        One line of at most 300 characters.
    """
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (said[0] if said else type(error).__name__)[:300]


def read_tensors(path: Path) -> Tensors:
    """Read a state_dict. Nothing in a file is ever executed.

    Parameters
    ----------
    path
        A .safetensors file or a torch checkpoint: the state_dict itself, or a dictionary with one under
        ``"state_dict"``, ``"model_state_dict"`` or ``"model"``.

    Returns
    -------
    dict
        Tensors by name, on the CPU.

    Raises
    ------
    FileError
        If the file cannot be read or is no state_dict.
    """
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors(path)
    loaded = _read_torch(path)
    if isinstance(loaded, Mapping):
        inside = next((loaded[key] for key in _KEYS if isinstance(loaded.get(key), Mapping)), loaded)
        if inside and all(isinstance(value, torch.Tensor) for value in inside.values()):
            return {str(name): value.detach() for name, value in inside.items()}
        others = [str(name) for name, value in inside.items() if not isinstance(value, torch.Tensor)]
        raise FileError(path, f"is no state_dict: {listing(others) or 'nothing'} in it is no tensor")
    raise FileError(path, f"is no state_dict: it holds a {type(loaded).__name__}")


def read_example(path: Path) -> object:
    """Read example inputs.

    Parameters
    ----------
    path
        A torch file with a tensor, a tuple of arguments or a dict of keyword arguments, or a .safetensors file whose
        names are those of keyword arguments.

    Returns
    -------
    object
        What `permsolve.models.analyze` takes.

    Raises
    ------
    FileError
        If the file cannot be read or holds something else.
    """
    if not path.is_file():
        raise FileError(path, "is not a file" if path.exists() else "no such file")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return dict(_read_safetensors(path))
    if suffix not in TORCH:
        raise FileError(path, f"unknown kind of file {suffix!r}; example inputs are .pt or .safetensors")
    loaded = _read_torch(path)
    parts = (
        loaded.values() if isinstance(loaded, Mapping) else loaded if isinstance(loaded, (tuple, list)) else [loaded]
    )
    if not any(isinstance(part, torch.Tensor) for part in parts):
        raise FileError(path, f"holds no example inputs: a {type(loaded).__name__} without tensors")
    return tuple(loaded) if isinstance(loaded, list) else loaded


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        raise FileError(
            path, f"not a readable .safetensors file (damaged or truncated): {first_line(error)}"
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds here: pickle, zip, runtime and end-of-file errors
        # Only the first sentence: what follows may advise to load the file without that protection.
        first = first_line(error).partition(". ")[0]
        raise FileError(
            path, f"not a checkpoint that loads with weights_only (damaged, or it holds code): {first}"
        ) from error


def check_storable(path: Path, tensors: Tensors) -> None:
    """Refuse tensors that a .safetensors file cannot hold, before any work.

    Parameters
    ----------
    path
        Where they are from.
    tensors
        The tensors.

    Raises
    ------
    FileError
        If there is one.
    """
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            kind = tensor.dtype if tensor.is_quantized else tensor.layout
            raise FileError(path, f"{name} is stored as {kind}; give the checkpoint with dense weights")
    for dtype in {tensor.dtype for tensor in tensors.values()}:
        try:
            save({"x": torch.empty(0, dtype=dtype)})
        except Exception as error:  # whatever it raises, it cannot be written
            raise FileError(path, f"holds tensors of type {dtype}, which .safetensors cannot") from error


def load_(model: nn.Module, tensors: Tensors, path: Path) -> None:
    """Load a state_dict strictly: every tensor has its place, its shape, and a type that loses nothing.

    Of tensors that the model ties, one name is enough.

    Parameters
    ----------
    model
        The model.
    tensors
        The state_dict.
    path
        Where it is from, for messages.

    Raises
    ------
    ModelError
        If it does not fit.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.is_meta:
            raise ModelError(
                f"the model has {name} on the meta device, where nothing can be loaded: build it on the CPU"
            )
    shared = [name for name in tensors if name in state and not torch.nn.parameter.is_lazy(state[name])]
    reshaped = [
        f"{name}: {_shape(tensors[name])}, in the model {_shape(state[name])}"
        for name in shared
        if tensors[name].shape != state[name].shape
    ]
    missing, unexpected = [], []
    if not reshaped:
        _check_types(path, {name: (tensors[name], state[name]) for name in shared})
        try:
            keys = model.load_state_dict(tensors, strict=False)
        except Exception as error:  # modules may have loaders of their own
            raise ModelError(f"{path} cannot be loaded into {type(model).__name__}: {first_line(error)}") from error
        present = _tied(path, tensors, state)
        missing = [name for name in keys.missing_keys if _memory(state.get(name)) not in present]
        unexpected = keys.unexpected_keys
    else:
        missing = [name for name in state if name not in tensors]
        unexpected = [name for name in tensors if name not in state]
    faults = [
        f"{len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {what} ({listing(names)})"
        for names, what in (
            (missing, "missing"),
            (unexpected, "not the model's"),
            (reshaped, "of another shape"),
        )
        if names
    ]
    if faults:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {'; '.join(faults)}")


def _check_types(path: Path, pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    for name, (stored, own) in pairs.items():
        try:
            kept = torch.promote_types(stored.dtype, own.dtype) == own.dtype
        except RuntimeError:  # some types promote to nothing
            kept = stored.dtype == own.dtype
        if not kept:
            raise ModelError(
                f"{path}: {name} is of type {stored.dtype}, in the model {own.dtype}, which would lose digits; build "
                f"the model in the checkpoint's type, for example model.to({stored.dtype})"
            )


def _tied(path: Path, tensors: Tensors, state: Mapping[str, Any]) -> set[object]:
    """Return the memory of all tensors that were loaded; one memory must have been given one content."""
    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        key = _memory(state.get(name))
        if key is None:
            continue
        other = first.setdefault(key, name)
        if other != name and not torch.equal(tensor, tensors[other]):
            raise ModelError(f"{path}: the model ties {other} and {name}, but the checkpoint has two different tensors")
    return set(first)


def _memory(tensor: object) -> object:
    if not isinstance(tensor, torch.Tensor) or torch.nn.parameter.is_lazy(tensor) or not tensor.numel():
        return None
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def tensors_of_checkpoint(model: nn.Module, dtypes: Mapping[str, torch.dtype]) -> Tensors:
    """Return the tensors of a model as a checkpoint had them.

    Parameters
    ----------
    model
        The model.
    dtypes
        Names and types of the checkpoint's tensors. Where some are not the model's (it may have renamed them on
        loading), all of the model's own tensors are returned.

    Returns
    -------
    dict
        Dense copies, which share no memory, on the CPU; the indices of a plan are among them.
    """
    state = model.state_dict()
    names = list(dtypes) if dtypes and set(dtypes) <= set(state) else list(state)
    names += [name for name in state if name.rpartition(".")[2] == INDEX and name not in names]
    return {
        name: state[name]
        .detach()
        .to("cpu", dtypes.get(name, state[name].dtype))
        .clone(memory_format=torch.contiguous_format)
        for name in names
    }


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a .safetensors file.

    Parameters
    ----------
    path
        Where to.
    tensors
        Tensors that share no memory.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise FileError(path, f"cannot be written: {first_line(error)}") from error


def names_in(path: Path) -> set[str]:
    """Return the names of the tensors in a .safetensors file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    set
        The names.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as archive:
        return set(archive.keys())


def fingerprints(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the sha256 of files.

    Parameters
    ----------
    files
        Files by name.

    Returns
    -------
    dict
        Hexadecimal digests by name.

    Raises
    ------
    FileError
        If one cannot be read.
    """
    digests = {}
    for name, path in files.items():
        try:
            with path.open("rb") as stream:
                digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise FileError(path, f"cannot be read: {error.strerror or error}") from error
    return digests


def listing(names: Iterable[str]) -> str:
    """Return the first few of some names.

    Parameters
    ----------
    names
        The names.

    Returns
    -------
    str
        The names, and how many more there are.
    """
    listed: Sequence[str] = list(names)
    more = f" and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
    return ", ".join(listed[:_NAMED]) + more


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a scalar"
