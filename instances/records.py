"""The index as a file: schema ``permsolve.instances/1``, JSON with one instance to a line.

Reading validates everything that can be told without the matrices and never guesses; `permsolve.instances.checks` tells
whether the figures are true.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permsolve.errors import FileError, InputError, PermsolveError
from permsolve.patterns import parse as parse_pattern

from .entries import Best, Entry
from .solutions import decode, encode
from .sources import GENERATORS

SCHEMA = "permsolve.instances/1"

_Text = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class BestRecord(_Strict):
    """The best solution known; besides these fields it has one for each array of the pattern's solution."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, str]

    score: float
    method: _Text
    version: _Text

    def solution(self) -> dict[str, str]:
        """Return the arrays' texts by name."""
        return self.__pydantic_extra__


class CertificateRecord(_Strict):
    """Feasible integer duals, one per column, in units of ``2**-exponent``."""

    exponent: int
    duals: list[int]


class BoundRecord(_Strict):
    """The best upper bound known and what proves it."""

    value: float
    kind: Literal["rows", "lp", "exact"]
    certificate: CertificateRecord | None


class Record(_Strict):
    """One instance."""

    name: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    family: _Text
    rows: Annotated[int, Field(ge=1)]
    cols: Annotated[int, Field(ge=2, le=65536)]
    nm: str
    saliency: Literal["magnitude", "energy"]
    source: dict[str, int | float | str]
    licence: _Text
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    baseline: Annotated[float, Field(ge=0)]
    rows_bound: Annotated[float, Field(ge=0)]
    best: BestRecord | None
    bound: BoundRecord


def parse(raw: bytes, file: str) -> tuple[Entry, ...]:
    """Read an index.

    Parameters
    ----------
    raw
        The file's content.
    file
        Its name, for errors.

    Returns
    -------
    tuple of Entry
        The instances.

    Raises
    ------
    FileError
        If it is not JSON, follows another schema, or an instance is not valid; the message names the instance.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FileError(file, f"the index is damaged: not JSON ({error})") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise FileError(file, f"unknown schema: this version reads {SCHEMA!r}")
    records = document.get("instances")
    if set(document) != {"schema", "instances"} or not isinstance(records, list):
        raise FileError(file, "an index holds a schema, a list of instances, and nothing else")
    entries: dict[str, Entry] = {}
    for number, record in enumerate(records, start=1):
        name = record.get("name") if isinstance(record, dict) else None
        try:
            entry = _entry(Record.model_validate(record))
        except ValidationError as error:
            raise FileError(file, f"instance {name or f'number {number}'}: {_explain(error)}") from error
        except PermsolveError as error:
            raise FileError(file, f"instance {name}: {error}") from error
        if entry.name in entries:
            raise FileError(file, f"instance {name}: listed twice")
        entries[entry.name] = entry
    return tuple(entries.values())


def dump(entries: Iterable[Entry]) -> bytes:
    """Write an index.

    Parameters
    ----------
    entries
        The instances, in order.

    Returns
    -------
    bytes
        JSON with one instance to a line, so that a changed instance is a changed line.
    """
    lines = ",\n".join(json.dumps(_record(entry)) for entry in entries)
    return f'{{"schema": {json.dumps(SCHEMA)}, "instances": [\n{lines}\n]}}\n'.encode()


def _entry(record: Record) -> Entry:
    """Turn a record into an instance; InputError where its parts do not fit together."""
    pattern, shape = parse_pattern(record.nm), (record.rows, record.cols)
    if str(pattern) != record.nm:
        raise InputError(f"nm: {record.nm!r} must be written {str(pattern)!r}")
    pattern.validate(shape)
    _check_source(record.source)
    best, proof = None, record.bound.certificate
    if record.best is not None:
        solution = decode(pattern, record.best.solution(), shape)
        best = Best(record.best.score, solution, record.best.method, record.best.version)
    if pattern.moves_rows and (record.bound.kind == "lp" or proof is not None):
        raise InputError(f"bound: LP bounds and certificates are of plain n:m, not of {pattern}")
    if proof is not None and len(proof.duals) != record.cols:
        raise InputError(f"bound.certificate has {len(proof.duals)} duals for {record.cols} columns")
    if record.bound.kind == "lp" and proof is None:
        raise InputError("bound of kind lp: it needs its certificate")
    if record.bound.kind == "rows" and proof is not None:
        raise InputError("bound of kind rows: it takes no certificate")
    certificate = None
    if proof is not None:
        from permsolve.certificates import Certificate

        certificate = Certificate.from_dict(proof.model_dump())
    return Entry(
        name=record.name,
        family=record.family,
        shape=shape,
        pattern=pattern,
        saliency=record.saliency,
        source=dict(record.source),
        licence=record.licence,
        sha256=record.sha256,
        baseline=record.baseline,
        rows_bound=record.rows_bound,
        best=best,
        bound=record.bound.value,
        bound_kind=record.bound.kind,
        certificate=certificate,
    )


def _check_source(source: dict[str, Any]) -> None:
    if set(source) == {"stored"} and isinstance(source["stored"], str):
        return
    if source.get("generator") not in GENERATORS or not isinstance(source.get("seed"), int):
        raise InputError(
            f"source {source} must be a stored matrix or a generator with its seed; generators: {', '.join(GENERATORS)}"
        )


def _record(entry: Entry) -> dict[str, Any]:
    best, certificate = entry.best, entry.certificate
    return {
        "name": entry.name,
        "family": entry.family,
        "rows": entry.shape[0],
        "cols": entry.shape[1],
        "nm": str(entry.pattern),
        "saliency": entry.saliency,
        "source": dict(entry.source),
        "licence": entry.licence,
        "sha256": entry.sha256,
        "baseline": entry.baseline,
        "rows_bound": entry.rows_bound,
        "best": None if best is None else _best(best, entry),
        "bound": {
            "value": entry.bound,
            "kind": entry.bound_kind,
            "certificate": None if certificate is None else certificate.to_dict(),
        },
    }


def _best(best: Best, entry: Entry) -> dict[str, Any]:
    solution = encode(entry.pattern, best.solution, entry.shape)
    return {"score": best.score, **solution, "method": best.method, "version": best.version}


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where or 'record'}: {first['msg']}{more}"
