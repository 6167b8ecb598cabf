"""Calibrations on disk: safetensors, with a document of schema ``permsolve.calibration/1`` in the file's metadata."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from permsolve._version import __version__
from permsolve.errors import DocumentError, FileError
from permsolve.io import write_atomically
from permsolve.models.calibration import Calibration
from permsolve.models.calibration_sites import Site, Total, sum_shape

_Count = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


class SiteDocument(BaseModel):
    """A weight and its sum."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    path: str
    names: list[str]
    shape: Annotated[list[_Positive], Field(min_length=2, max_length=5)]
    axis: Annotated[int, Field(ge=0, le=1)]
    groups: _Positive
    total: _Count


class CalibrationDocument(BaseModel):
    """What a file says beside its tensors, which are named by the numbers of sums and weights."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    schema_: Annotated[Literal["permsolve.calibration/1"], Field(alias="schema")] = "permsolve.calibration/1"
    version: str = __version__
    samples: _Positive
    covariance: bool
    sites: list[SiteDocument]
    counts: list[_Positive]
    unseen: dict[str, str]
    model: str
    batches: str


def write(calibration: Calibration, path: str | os.PathLike[str]) -> None:
    """Write a calibration, atomically.

    Parameters
    ----------
    calibration
        The calibration.
    path
        The file.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    document = CalibrationDocument(
        samples=calibration.samples,
        covariance=calibration.covariance,
        sites=[
            SiteDocument(
                path=site.path,
                names=list(site.names),
                shape=list(site.shape),
                axis=site.axis,
                groups=site.groups,
                total=site.total,
            )
            for site in calibration.sites
        ],
        counts=[total.count for total in calibration.totals],
        unseen=calibration.unseen,
        model=calibration.model,
        batches=calibration.batches,
    )
    tensors = {str(k): np.ascontiguousarray(total.values) for k, total in enumerate(calibration.totals)}
    tensors |= {f"columns.{k}": calibration.columns[site.path] for k, site in enumerate(calibration.sites)}
    write_atomically(path, save(tensors, {"calibration": document.model_dump_json(by_alias=True)}))


def read(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration and check it.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    Calibration
        The calibration.

    Raises
    ------
    FileError
        If the file cannot be read.
    DocumentError
        If it is no calibration, or its parts do not fit together.
    """
    file = Path(path)
    if not file.is_file():
        raise FileError(file, "is not a file" if file.exists() else "no such file")
    try:
        with safe_open(file, framework="numpy") as archive:
            about = (archive.metadata() or {}).get("calibration")
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise FileError(file, f"not a readable .safetensors file (damaged or truncated): {error}") from error
    if about is None:
        raise DocumentError(f"{file}: holds no calibration; permsolve.models.calibrate(..., save=) writes one")
    try:
        document = CalibrationDocument.model_validate_json(about)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        raise DocumentError(f"{file}: not a valid permsolve.calibration/1 document: {where}: {first['msg']}") from error
    sites = [
        Site(each.path, tuple(each.names), tuple(each.shape), each.axis, each.groups, each.total)
        for each in document.sites
    ]
    _check(file, document, sites, tensors)
    totals = [Total(count, tensors[str(k)]) for k, count in enumerate(document.counts)]
    columns = {site.path: tensors[f"columns.{k}"] for k, site in enumerate(sites)}
    return Calibration(
        document.samples, document.covariance, sites, totals, document.unseen, columns, document.model, document.batches
    )


def _check(file: Path, document: CalibrationDocument, sites: list[Site], tensors: dict[str, np.ndarray]) -> None:
    count = len(document.counts)
    if {site.total for site in sites} != set(range(count)) or len(tensors) != count + len(sites):
        raise DocumentError(f"{file}: its weights name other sums than those it holds")
    if len({site.path for site in sites}) != len(sites):
        raise DocumentError(f"{file}: names a weight twice")
    for k, site in enumerate(sites):
        columns = tensors.get(f"columns.{k}")
        if columns is None or columns.dtype != np.float64 or columns.shape != (site.channels,):
            raise DocumentError(f"{file}: the columns of {site.path} are not a float64 array of its channels")
        values = tensors.get(str(site.total))
        if values is None or values.dtype != np.float64 or values.shape != sum_shape(site, document.covariance):
            raise DocumentError(f"{file}: the sum of {site.path} is not a float64 array of its shape")
        diagonal = np.diagonal(values, axis1=1, axis2=2) if document.covariance else values
        if not np.isfinite(values).all() or (diagonal < 0).any():
            raise DocumentError(f"{file}: the sum of {site.path} holds what no sum of squares can be")
