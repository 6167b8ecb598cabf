"""Models with compressed layers on disk: safetensors, and a JSON document of schema ``permsolve.sparse_model/1``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, type_before_parametrizations

from permsolve._version import __version__
from permsolve.errors import DocumentError, FileError, InputError, ModelError
from permsolve.io import write_atomically
from permsolve.models import documents
from permsolve.models.checkpoints import WEIGHTS, fingerprints, listing, load_
from permsolve.models.grouping import Movement
from permsolve.models.owner import memory
from permsolve.models.plan import Plan
from permsolve.models.sparsify import attached_like, has_hooks, replaceable, swap
from permsolve.models.tensors import INDEX, permute_
from permsolve.patterns import Pattern, parse
from permsolve.sparse.compressed import Compressed
from permsolve.sparse.files import load, save
from permsolve.sparse.linear import SparseLinear

SCHEMA = "permsolve.sparse_model/1"
#: Name of the document beside the weights.
DOCUMENT = "sparse.json"

_PARTS = ("values", "positions", "index", "rows")


class LayerDocument(BaseModel):
    """A compressed layer; ``same`` names the one that it shares its weight with."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    pattern: str
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    same: str | None


class SparseModelDocument(BaseModel):
    """What a folder holds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    schema_: Annotated[Literal["permsolve.sparse_model/1"], Field(alias="schema")] = "permsolve.sparse_model/1"
    version: str = __version__
    model: str
    sha256: str
    layers: Annotated[dict[str, LayerDocument], Field(min_length=1)]
    indices: list[str]
    plan: dict[str, Any] | None


@dataclass(frozen=True)
class SparseModel:
    """What was saved or loaded; iterating over ``layers`` gives the names of the compressed layers.

    Parameters
    ----------
    layers
        Patterns of the compressed layers, by their names.
    plan
        The plan that was saved with them, or None.
    """

    layers: dict[str, Pattern]
    plan: Plan | None = None


def save_sparse(model: nn.Module, folder: str | Path, *, plan: Plan | None = None) -> SparseModel:
    """Save a model with compressed layers: ``model.safetensors`` and ``sparse.json``.

    Parameters
    ----------
    model
        A model that `sparsify_` was applied to. Tensors that are tied are written once, those of layers that read them
        by different indices once for each.
    folder
        Where to; made if it is not there. Files of these names are replaced.
    plan
        A plan to keep in the document.

    Returns
    -------
    SparseModel
        What was saved.

    Raises
    ------
    InputError
        If no layer is compressed, the model itself is one, or the plan is none.
    FileError
        If the folder cannot be written to.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"need a torch.nn.Module, got a {type(model).__name__}")
    if isinstance(model, SparseLinear):
        raise InputError("the model itself is a compressed layer: use permsolve.sparse.save")
    if plan is not None and not isinstance(plan, Plan):
        raise InputError(f"plan = {plan!r} is no plan of permsolve.models.analyze")
    found = _sparse_layers(model)
    if not found:
        raise InputError(f"{type(model).__name__} has no compressed layer: call permsolve.models.sparsify_ first")
    folder = Path(folder)
    first: dict[tuple[int, bytes], str] = {}
    layers, weights = {}, {}
    for name, layer in found.items():
        # Layers that share their values may still read other channels: each has the indices before it in its own.
        same = first.setdefault((id(layer.values), layer.index.cpu().numpy().tobytes()), name)
        if same == name:
            weights[name] = layer.compressed
        shape = [layer.out_features, layer.in_features]
        layers[name] = LayerDocument(pattern=str(layer.pattern), shape=shape, same=None if same == name else same)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(folder, f"cannot be made: {error.strerror or error}") from error
    save(weights, folder / WEIGHTS, others=_others(model, found))
    document = SparseModelDocument(
        model=type(model).__name__,
        sha256=fingerprints({WEIGHTS: folder / WEIGHTS})[WEIGHTS],
        layers=layers,
        indices=[name for name, module in model.named_modules() if INDEX in module._buffers],
        plan=None if plan is None else json.loads(plan.to_json()),
    )
    text = json.dumps(document.model_dump(by_alias=True), indent=1, allow_nan=False)
    write_atomically(folder / DOCUMENT, f"{text}\n".encode())
    return SparseModel({name: layer.pattern for name, layer in found.items()}, plan)


def load_sparse_(model: nn.Module, folder: str | Path) -> SparseModel:
    """Load what `save_sparse` wrote into a dense model of the same architecture, in place.

    Parameters
    ----------
    model
        The model as it is before `sparsify_`, with data (any), on the device and in the type that it is to have: types
        that lose digits are refused. Its linear layers are replaced, its other tensors overwritten.
    folder
        The folder.

    Returns
    -------
    SparseModel
        Which layers are compressed now, and the plan that was saved with them.

    Raises
    ------
    FileError, InputError
        If a file cannot be read or is damaged, or the two files are not of one model.
    DocumentError
        If the document does not follow the schema.
    ModelError
        If the model is another; it is as it was then.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"need a torch.nn.Module, got {model!r}")
    path = Path(folder) / WEIGHTS
    document, plan = _read(Path(folder) / DOCUMENT)
    if type(model).__name__ != document.model:
        raise ModelError(f"{folder} holds a {document.model}, the model is a {type(model).__name__}")
    if fingerprints({WEIGHTS: path})[WEIGHTS] != document.sha256:
        raise FileError(path, f"is not the file that {DOCUMENT} was written for: damaged, or of another save")
    weights, others = load(path)
    _check_weights(path, document, weights)
    replaced = {name: _replaced(model, name, layer) for name, layer in document.layers.items()}
    made = _layers(document, weights, replaced)
    for name, compressed in weights.items():
        others |= {f"{name}.{part}": getattr(compressed, part) for part in _PARTS}
    fresh = {id(replaced[name]): layer for name, layer in made.items()}
    with _indices(path, model, document.indices, others):
        swap(model, fresh)
        try:
            _check_names(path, model, others)
            load_(model, others, path)
        except BaseException:
            swap(model, {id(layer): replaced[name] for name, layer in made.items()})
            raise
    return SparseModel({name: layer.pattern for name, layer in made.items()}, plan)


def _sparse_layers(model: nn.Module) -> dict[str, SparseLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLinear)}


def _others(model: nn.Module, found: dict[str, SparseLinear]) -> dict[str, torch.Tensor]:
    """Return the tensors of a model's state that are not in compressed weights, those that are tied once."""
    modules = set(map(id, found.values()))
    aliases = [name for name, module in model.named_modules(remove_duplicate=False) if id(module) in modules]
    inside = {f"{name}.{part}" for name in aliases for part in _PARTS}
    others: dict[str, torch.Tensor] = {}
    seen: set[object] = set()
    for name, tensor in model.state_dict().items():
        if name in inside:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"{name} of the model's state is no tensor and cannot be stored")
        if tensor.is_meta:
            raise InputError(f"{name} is on the meta device and has no data: load it first")
        key = memory(tensor)
        if key not in seen:
            seen.add(key)
            others[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return others


def _read(path: Path) -> tuple[SparseModelDocument, Plan | None]:
    try:
        text = path.read_bytes()
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error
    try:
        document = SparseModelDocument.model_validate_json(text)
    except ValidationError as error:
        first: Any = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        raise DocumentError(f"{path}: not a valid {SCHEMA} document: {where}: {first['msg']}") from error
    for name, layer in document.layers.items():
        try:
            parse(layer.pattern).validate((layer.shape[0], layer.shape[1]))
        except InputError as error:
            raise DocumentError(f"{path}: layer {name!r}: {error}") from error
        if layer.same is not None and (layer.same not in document.layers or document.layers[layer.same].same):
            raise DocumentError(
                f"{path}: layer {name!r} shares the weight of {layer.same!r}, which has none of its own"
            )
    try:
        return document, None if document.plan is None else documents.parse(json.dumps(document.plan))
    except DocumentError as error:
        raise DocumentError(f"{path}: the plan in it: {error}") from error


def _check_weights(path: Path, document: SparseModelDocument, weights: dict[str, Compressed]) -> None:
    own = {name: layer for name, layer in document.layers.items() if layer.same is None}
    if own.keys() != weights.keys():
        strangers = sorted(own.keys() ^ weights.keys())
        raise FileError(path, f"does not hold the layers that {DOCUMENT} names ({listing(strangers)})")
    for name, layer in own.items():
        found = weights[name]
        if parse(layer.pattern) != found.pattern or tuple(layer.shape) != found.shape:
            said = f"{layer.pattern} of {layer.shape[0]} x {layer.shape[1]}"
            raise FileError(
                path, f"{name} is {found.pattern} of {found.shape[0]} x {found.shape[1]}, {DOCUMENT} says {said}"
            )


def _check_names(path: Path, model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Check that the tensors are those of the model, before the first of them is written over."""
    state = model.state_dict()
    first: dict[object, str] = {}
    for name in tensors:
        other = first.setdefault(memory(state[name]), name) if name in state else name
        if other != name and not torch.equal(tensors[other], tensors[name]):
            raise ModelError(f"{path}: the model ties {other} and {name}, but the file has two different tensors")
    missing = [name for name, tensor in state.items() if memory(tensor) not in first]
    strangers = [name for name in tensors if name not in state]
    for names, what in ((missing, "lacks tensors of"), (strangers, "holds tensors that are not those of")):
        if names:
            raise ModelError(f"{path} {what} {type(model).__name__}: {listing(names)}")


def _replaced(model: nn.Module, name: str, layer: LayerDocument) -> nn.Module:
    """Return the layer of a model that a compressed one replaces."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise ModelError(f"the files are of another model: {type(model).__name__} has no layer {name!r}") from None
    if isinstance(module, SparseLinear):
        raise ModelError(f"{name} is compressed already: build the model anew, or call densify_ first")
    if not replaceable(type_before_parametrizations(module)) or is_parametrized(module, "bias"):
        raise ModelError(f"{name} is a {type(module).__name__}, not the linear layer that a compressed one replaces")
    if has_hooks(module):
        raise ModelError(f"{name} has hooks, which would be lost; remove them first, and add them to what replaces it")
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    own = tuple(weight.shape) if isinstance(module, nn.Linear) else tuple(weight.shape)[::-1]
    if own != tuple(layer.shape):
        raise ModelError(
            f"the files are of another model: {name} is {own[0]} x {own[1]} (outputs x inputs), the compressed layer "
            f"{layer.shape[0]} x {layer.shape[1]}"
        )
    if weight.is_meta:
        raise ModelError(f"{name} is on the meta device, where nothing can be loaded: build the model on the CPU")
    return module


def _layers(
    document: SparseModelDocument, weights: dict[str, Compressed], replaced: dict[str, nn.Module]
) -> dict[str, SparseLinear]:
    """Make the compressed layers, with the biases, types and devices of those that they replace."""
    made: dict[str, SparseLinear] = {}
    for name in sorted(document.layers, key=lambda name: document.layers[name].same is not None):
        old, layer = replaced[name], document.layers[name]
        weight: torch.Tensor = old.weight  # type: ignore[assignment]
        bias: nn.Parameter | None = old.bias  # type: ignore[assignment]
        if layer.same is not None:
            made[name] = attached_like(made[layer.same], bias)
        else:
            stored = weights[name]
            if torch.promote_types(stored.dtype, weight.dtype) != weight.dtype:
                raise ModelError(
                    f"{name} is stored as {stored.dtype}, in the model {weight.dtype}, which would lose digits; build "
                    f"the model in the stored type, for example model.to({stored.dtype})"
                )
            # A copy: the tensors that were read are loaded with all others.
            made[name] = SparseLinear(dataclasses.replace(stored.to(weight.device, weight.dtype, copy=True)))
            made[name].values.requires_grad_(weight.requires_grad)
            made[name].bias = bias
        made[name].train(old.training)
    return made


@contextmanager
def _indices(path: Path, model: nn.Module, names: list[str], tensors: dict[str, torch.Tensor]) -> Iterator[None]:
    """Give modules the indices that a plan put after them; take them away again if the rest fails."""
    done: list[tuple[Movement, Any]] = []
    try:
        for name in names:
            order = tensors.get(f"{name}.{INDEX}")
            if order is None or order.ndim != 1 or order.dtype != torch.int64:
                raise FileError(path, f"holds no index for {name}, which {DOCUMENT} names")
            perm, whole = order.numpy().copy(), np.arange(order.numel())
            if not np.array_equal(np.sort(perm), whole):
                raise FileError(path, f"the index of {name} is no permutation of 0 .. {perm.size - 1}")
            if INDEX in dict(model.named_modules()).get(name, nn.Identity())._buffers:
                raise ModelError(f"module {name!r} has an index already")
            move = Movement(name, "index", (perm.size,), (0,), whole[None])
            permute_(model, move, perm)
            done.append((move, perm))
        yield
    except BaseException:
        for move, perm in reversed(done):
            permute_(model, move, np.argsort(perm))
        raise
