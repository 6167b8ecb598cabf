"""Checkpoints in folders of the transformers library: loaded by its Auto classes, written so that they load again."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from permsolve.errors import FileError, InputError, MissingDependencyError, ModelError
from permsolve.models.checkpoints import (
    WEIGHTS,
    check_storable,
    first_line,
    listing,
    tensors_of_checkpoint,
    write_tensors,
)
from permsolve.models.statefile import Loaded, loading_code

#: What is traced where the folder has a tokenizer.
TEXT = "The quick brown fox jumps over the lazy dog, and five boxing wizards jump too."
#: Random tokens that are traced where it has none.
_TOKENS = 16
#: Files of which any tells that there is a tokenizer.
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
#: Small files that are copied as they are; what holds weights is none of them.
_COPIED = (".json", ".jinja", ".model", ".txt", ".tiktoken")
#: Files of an earlier run in such a folder.
_OWN = ("run.json", "plan.json", "report.json", "report.txt")


class Pretrained:
    """A folder with config.json and weights.

    Parameters
    ----------
    path
        The folder.
    text
        A sentence to trace with, in place of the usual one.

    Raises
    ------
    FileError
        If it is none.
    MissingDependencyError
        If transformers is not installed.
    """

    def __init__(self, path: Path, text: str | None = None) -> None:
        if not path.is_dir():
            raise FileError(path, "is not a folder; --arch transformers takes one with config.json and weights")
        if not (path / "config.json").is_file():
            raise FileError(path, "is no folder of transformers: it has no config.json")
        try:
            self._library: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise MissingDependencyError("--arch transformers needs transformers: pip install transformers") from error
        self.path = path
        self._text = text
        self._dtypes: dict[str, torch.dtype] = {}
        self._weights = _weight_files(path)

    @property
    def files(self) -> dict[str, Path]:
        """What a model is made from, by name."""
        return {file.name: file for file in (self.path / "config.json", *self._weights)}

    @property
    def names(self) -> set[str]:
        """Names of the checkpoint's tensors, once it is loaded."""
        return set(self._dtypes)

    def load(self, given: object = None) -> Loaded:
        """Load the model that config.json names.

        Parameters
        ----------
        given
            Example inputs of the user; by default a sentence or random ones.

        Returns
        -------
        Loaded
            The model and example inputs.

        Raises
        ------
        FileError
            If transformers cannot load it.
        ModelError
            If weights are missing or of another shape.
        InputError
            If there is no tokenizer for the sentence, or no example can be made.
        """
        with _quiet(self._library):
            self._dtypes = _dtypes(self._weights)
            model, unused = self._model()
            example = given if given is not None else self._example(model)
        return Loaded(model, example, unused)

    def write(self, model: nn.Module, folder: Path, *, indices: bool) -> str:
        """Write the model and copy everything else that the folder has, so that the new one loads as the old one did.

        Parameters
        ----------
        model
            A model of `load`, permuted or pruned since.
        folder
            Where to.
        indices
            Whether the plan has put indices into the model. ``from_pretrained`` would leave them out without an error,
            and the model would be wrong: then only the weights are written, without a config.json to load them by.

        Returns
        -------
        str
            How to load what was written.
        """
        kind = type(model).__name__
        if indices:
            write_tensors(folder / WEIGHTS, tensors_of_checkpoint(model, {}))
            fresh = f"model = transformers.{kind}.from_pretrained({str(self.path.resolve())!r})  # not this folder"
            return f"{fresh}\n{loading_code(indices)}"
        writer: Any = model
        with _quiet(self._library):
            try:
                # One file: its size is no limit of the format, and names then do not depend on it.
                writer.save_pretrained(folder, max_shard_size=1 << 60)
            except (OSError, RuntimeError, ValueError) as error:
                raise FileError(folder, f"cannot be written: {first_line(error)}") from error
        _restore_types(folder / WEIGHTS, self._dtypes)
        _copy_rest(self.path, folder)
        return f"model = transformers.{kind}.from_pretrained('.')"

    def _model(self) -> tuple[nn.Module, tuple[str, ...]]:
        library = self._library
        local = {"local_files_only": True, "trust_remote_code": False}  # else transformers asks on the terminal
        floating = {dtype for dtype in self._dtypes.values() if dtype.is_floating_point}
        widest: torch.dtype | None = None
        for dtype in floating:
            widest = dtype if widest is None else torch.promote_types(widest, dtype)
        try:
            config = library.AutoConfig.from_pretrained(str(self.path), **local)
            named = [getattr(library, name, None) for name in getattr(config, "architectures", None) or ()]
            kind = next((each for each in named if each is not None), library.AutoModel)
            if kind is not library.AutoModel:
                del local["trust_remote_code"]
            model, info = kind.from_pretrained(
                str(self.path),
                config=config,
                dtype=widest or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are told of below, all at once
                **local,
            )
        except Exception as error:  # transformers and the parsers below it raise every kind there is
            raise FileError(self.path, f"transformers cannot load it: {first_line(error)}") from error
        missing = sorted(info["missing_keys"])
        reshaped = sorted(
            f"{name}: {_shape(one)}, in the model {_shape(two)}" for name, one, two in info["mismatched_keys"]
        )
        missing = [name for name in missing if not any(text.startswith(f"{name}: ") for text in reshaped)]
        faults = [
            f"{len(names)} {'tensor is' if len(names) == 1 else 'tensors are'} {what} ({listing(names)})"
            for names, what in ((missing, "missing"), (reshaped, "of another shape"))
            if names
        ]
        if faults:
            raise ModelError(f"{self.path} does not fit {type(model).__name__}: {'; '.join(faults)}")
        model.eval()
        return model, tuple(sorted(info["unexpected_keys"]))

    def _example(self, model: nn.Module) -> dict[str, torch.Tensor]:
        network: Any = model
        config, main = network.config, getattr(network, "main_input_name", "input_ids")
        example: dict[str, torch.Tensor] = {}
        if main == "input_ids":
            example.update(self._tokens(model, config))
        elif self._text is not None:
            raise InputError(f"--example-text: {type(model).__name__} reads {main}, not text; use --example")
        if main == "pixel_values" or getattr(config, "vision_config", None) is not None:
            example["pixel_values"] = _pixels(config).to(network.dtype)
        if not example:
            raise InputError(
                f"{type(model).__name__} reads {main}; no example can be made of its config: give one by --example"
            )
        if getattr(config, "is_encoder_decoder", False) and "input_ids" in example:
            example["decoder_input_ids"] = example["input_ids"]
        return example

    def _tokens(self, model: nn.Module, config: Any) -> dict[str, torch.Tensor]:
        settings = config.get_text_config()
        vocabulary = int(getattr(settings, "vocab_size", 0) or 0)
        if any((self.path / name).is_file() for name in _TOKENIZERS):
            try:
                tokenizer = self._library.AutoTokenizer.from_pretrained(
                    str(self.path), local_files_only=True, trust_remote_code=False
                )
                tokens = dict(tokenizer(TEXT if self._text is None else self._text, return_tensors="pt"))
            except Exception as error:  # as above
                raise FileError(
                    self.path, f"its tokenizer does not work ({first_line(error)}); give inputs by --example"
                ) from error
            ids = tokens["input_ids"]
            if ids.numel() and int(ids.max()) < vocabulary:
                taken = inspect.signature(model.forward).parameters
                return {name: tensor for name, tensor in tokens.items() if name in taken}
            raise FileError(
                self.path, f"its tokenizer makes {ids.numel()} tokens that do not fit a vocabulary of {vocabulary}"
            )
        if self._text is not None:
            raise InputError(f"--example-text: {self.path} has no tokenizer; give inputs by --example")
        if not vocabulary:
            return {}
        longest = getattr(settings, "max_position_embeddings", None) or _TOKENS + 2
        length = max(1, min(_TOKENS, longest - 2))  # some models count positions from 2
        random = torch.Generator().manual_seed(0)
        return {"input_ids": torch.randint(vocabulary, (2, length), generator=random)}


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Keep transformers from drawing progress bars and logging advice."""
    logs = library.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that `from_pretrained` reads the weights from."""
    for whole in (WEIGHTS, "pytorch_model.bin"):
        if (folder / whole).is_file():
            return [folder / whole]
        index = folder / f"{whole}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                raise FileError(index, f"is damaged: {first_line(error)}") from error
            return [index, *(folder / str(shard) for shard in shards)]
    raise FileError(folder, f"holds no weights: neither {WEIGHTS} nor pytorch_model.bin nor shards of them")


def _dtypes(files: list[Path]) -> dict[str, torch.dtype]:
    """Return the types of the stored tensors without reading them where that can be."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, torch.dtype] = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt") as archive:
                    for name in archive.keys():  # noqa: SIM118 (no mapping)
                        part = archive.get_slice(name)
                        found[name] = (part[:0] if part.get_shape() else archive.get_tensor(name)).dtype
            elif file.suffix == ".bin":
                tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                check_storable(file, tensors)
                found.update({name: tensor.dtype for name, tensor in tensors.items()})
        except FileError:
            raise
        except (SafetensorError, OSError) as error:
            raise FileError(file, f"not a readable file of weights: {first_line(error)}") from error
        except Exception as error:  # torch raises many kinds here
            said = first_line(error).partition(". ")[0]
            raise FileError(file, f"not a checkpoint that loads with weights_only: {said}") from error
    return found


def _restore_types(file: Path, dtypes: dict[str, torch.dtype]) -> None:
    """Give tensors back the type they had, where transformers has one type for all of a model."""
    from safetensors.torch import load_file

    if any(dtypes.get(name, dtype) != dtype for name, dtype in _dtypes([file]).items()):
        again = file.with_name(f"{file.name}.again")  # what was read may be a map of the file: never write over it
        write_tensors(again, {name: each.to(dtypes.get(name, each.dtype)) for name, each in load_file(file).items()})
        os.replace(again, file)


def _copy_rest(source: Path, target: Path) -> None:
    """Copy config, tokenizer and the like byte by byte: another version of transformers may read them."""
    for file in sorted(source.iterdir()):
        hidden = file.name.startswith(".") or file.name.endswith(".index.json")
        if file.is_file() and file.suffix in _COPIED and not hidden and file.name not in _OWN:
            shutil.copyfile(file, target / file.name)
    try:
        modules = json.loads((source / "modules.json").read_bytes())  # parts that sentence-transformers adds
        paths = [str(part["path"]) for part in modules]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in paths:
        if name and Path(name).name == name and (source / name).is_dir():
            shutil.copytree(source / name, target / name)


def _pixels(config: Any) -> torch.Tensor:
    settings = getattr(config, "vision_config", None) or config
    size = getattr(settings, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = int(getattr(settings, "num_channels", 3) or 3)
    return torch.randn((2, channels, height, width), generator=torch.Generator().manual_seed(0))


def _shape(size: Any) -> str:
    return " x ".join(map(str, size))
