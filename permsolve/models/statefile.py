"""A state_dict in a file, and a function of the user's that builds its model."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from permsolve.errors import FileError, InputError
from permsolve.models.checkpoints import (
    TORCH,
    WEIGHTS,
    check_storable,
    first_line,
    load_,
    read_tensors,
    tensors_of_checkpoint,
    write_tensors,
)


class Loaded(NamedTuple):
    """A model with the weights of a checkpoint."""

    model: nn.Module
    #: Inputs to trace it with, or None.
    example: object
    #: Tensors of the checkpoint that the model does not use.
    unused: tuple[str, ...] = ()


class StateFile:
    """A state_dict in a file, and the function that builds its model.

    Parameters
    ----------
    path
        A .safetensors file, or a torch checkpoint (.pt, .pth, .bin).
    arch
        ``"file.py:function"``. The function returns the model, or the model and example inputs.

    Raises
    ------
    FileError
        If one of the files is not there.
    InputError
        If ``arch`` names no function.
    """

    def __init__(self, path: Path, arch: str) -> None:
        file, colon, function = arch.rpartition(":")
        if not colon or not file.endswith(".py") or not function.isidentifier():
            raise InputError(f"--arch {arch!r} is neither 'transformers' nor of the form file.py:build")
        if path.is_dir():
            raise FileError(path, "is a folder; --arch file.py:build needs a file that holds a state_dict")
        if path.suffix.lower() not in (".safetensors", *TORCH):
            known = ", ".join((".safetensors", *TORCH))
            raise FileError(path, f"unknown kind of file {path.suffix!r}; known: {known}")
        self.path = path
        self.build_file = Path(file)
        self.function = function
        self._dtypes: dict[str, torch.dtype] = {}
        for each in (path, self.build_file):
            if not each.is_file():
                raise FileError(each, "is not a file" if each.exists() else "no such file")

    @property
    def files(self) -> dict[str, Path]:
        """What a model is made from, by name."""
        return {self.path.name: self.path, self.build_file.name: self.build_file}

    @property
    def names(self) -> set[str]:
        """Names of the checkpoint's tensors, once it is loaded."""
        return set(self._dtypes)

    def load(self, given: object = None) -> Loaded:
        """Build the model and load the checkpoint into it.

        Parameters
        ----------
        given
            Example inputs of the user, in place of those that the function may return.

        Returns
        -------
        Loaded
            The model and example inputs.

        Raises
        ------
        FileError
            If a file cannot be read, or the function fails.
        ModelError
            If the checkpoint does not fit the model.
        """
        model, example = build(self.build_file, self.function)
        example = example if given is None else given
        if example is None:
            raise InputError(
                f"{self.build_file}: {self.function}() returns a model without inputs to trace it with; let it return "
                f"(model, example_inputs), or give a file of inputs by --example"
            )
        tensors = read_tensors(self.path)
        check_storable(self.path, tensors)
        load_(model, tensors, self.path)
        self._dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
        return Loaded(model, example)

    def write(self, model: nn.Module, folder: Path, *, indices: bool) -> str:
        """Write the weights under the names and in the types that the checkpoint has.

        Parameters
        ----------
        model
            A model of `load`, permuted or pruned since.
        folder
            Where to.
        indices
            Whether the plan has put indices into the model.

        Returns
        -------
        str
            How to load what was written.
        """
        write_tensors(folder / WEIGHTS, tensors_of_checkpoint(model, self._dtypes))
        return loading_code(indices)


def loading_code(indices: bool) -> str:
    """Return the lines of Python that load written weights into a fresh model.

    Parameters
    ----------
    indices
        Whether the plan has put indices into the model.

    Returns
    -------
    str
        Lines.
    """
    load = f"model.load_state_dict(safetensors.torch.load_file('{WEIGHTS}'))"
    return f"permsolve.models.Plan.load('plan.json').attach_(model)\n{load}" if indices else load


def build(file: Path, function: str) -> tuple[nn.Module, object]:
    """Call a function of a Python file that returns a model.

    Parameters
    ----------
    file
        The file; it may import its neighbours.
    function
        Name of the function; it takes no arguments.

    Returns
    -------
    tuple
        The model, and example inputs or None.

    Raises
    ------
    FileError
        If the file or function fails, or returns something else.
    """
    name = f"permsolve_arch_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    neighbours = str(file.resolve().parent)
    sys.modules[name] = module  # dataclasses look up the module they are defined in
    sys.path.append(neighbours)  # last: a neighbour named like an installed module must not hide it
    try:
        spec.loader.exec_module(module)
        make = getattr(module, function, None)
        if not callable(make):
            raise FileError(file, f"has no function {function!r}")
        made = make()
    except FileError:
        raise
    except Exception as error:
        raise FileError(file, _explain(error, file)) from error
    finally:
        sys.path.remove(neighbours)
    model, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise FileError(file, f"{function}() returns a {type(model).__name__}, not a torch.nn.Module")
    return model, example


def _explain(error: Exception, file: Path) -> str:
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file.absolute()
    ]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return f"{f'line {lines[-1]}: ' if lines else ''}{type(error).__name__}: {first_line(error)}"
