"""JSON documents of results: schema ``permsolve.permutation/1``.

Every field is required and no other is allowed; reading a document validates it and never guesses. The solution is
checked to be a bijection here; whether the figures are true can only be told with the matrix (`Result.check`).
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permsolve._version import __version__
from permsolve.certificates import Certificate
from permsolve.errors import CertificateError, DocumentError, InputError
from permsolve.patterns import NM, VNM, HiNM, Pattern, Transposable
from permsolve.result import Result
from permsolve.run import TracePoint
from permsolve.solver import Status

SCHEMA = "permsolve.permutation/1"

_Option = bool | int | float | str | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class NMDocument(_Strict):
    """The sparsity pattern: n of every m are kept."""

    kind: Literal["nm"]
    n: int
    m: int

    def pattern(self) -> NM:
        """Return the pattern."""
        return NM(self.n, self.m)


class HiNMDocument(_Strict):
    """Per tile of rows a share of the columns is dropped, n of every m kept columns are kept in each row."""

    kind: Literal["hinm"]
    vector: int
    vector_sparsity: float
    n: int
    m: int

    def pattern(self) -> HiNM:
        """Return the pattern."""
        return HiNM(self.vector, self.vector_sparsity, NM(self.n, self.m))


class VNMDocument(_Strict):
    """Per tile of rows four of every m columns are kept, and n of these in each row."""

    kind: Literal["vnm"]
    vector: int
    n: int
    m: int

    def pattern(self) -> VNM:
        """Return the pattern."""
        return VNM(self.vector, self.n, self.m)


class TransposableDocument(_Strict):
    """In every m x m block n entries of each row and of each column are kept."""

    kind: Literal["transposable"]
    n: int
    m: int

    def pattern(self) -> Transposable:
        """Return the pattern."""
        return Transposable(self.n, self.m)


PatternDocument = Annotated[NMDocument | HiNMDocument | VNMDocument | TransposableDocument, Field(discriminator="kind")]


class PermutationSolution(_Strict):
    """Of plain n:m: ``matrix[:, perm]`` is the permuted matrix."""

    perm: list[int]


class HiNMSolutionDocument(_Strict):
    """Of HiNM: the order of the rows, and the columns that each tile keeps, in groups."""

    rows: list[int]
    columns: list[list[int]]


class VNMSolutionDocument(_Strict):
    """Of V:N:M: both permutations, and the positions that each tile keeps of every group."""

    rows: list[int]
    columns: list[int]
    kept: list[list[list[int]]]


class TransposableSolutionDocument(_Strict):
    """Of transposable n:m: both permutations."""

    rows: list[int]
    columns: list[int]


_SOLUTIONS: dict[str, type[_Strict]] = {
    "nm": PermutationSolution,
    "hinm": HiNMSolutionDocument,
    "vnm": VNMSolutionDocument,
    "transposable": TransposableSolutionDocument,
}


class MatrixDocument(_Strict):
    """The weights the document belongs to."""

    shape: list[Annotated[int, Field(ge=1)]]
    dtype: str
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class TraceDocument(_Strict):
    """A point of the anytime curve."""

    time: float
    score: float
    bound: float


class CertificateDocument(_Strict):
    """A dual solution in integers that proves the LP bound."""

    exponent: int
    duals: list[int]


class PermutationDocument(_Strict):
    """A permutation, what it belongs to, what it scores and how it was found."""

    schema_: Annotated[Literal["permsolve.permutation/1"], Field(alias="schema")]
    version: str
    pattern: PatternDocument
    solution: dict[str, Any]
    saliency: str
    blocks: list[Annotated[int, Field(ge=1)]] | None
    matrix: MatrixDocument
    score: float
    baseline: float
    rows_bound: float
    efficacy: float
    bound: float
    bound_kind: Literal["rows", "lp", "exact"]
    gap: float
    status: Literal["optimal", "local optimum", "completed", "stopped"]
    stopped_by: str | None
    method: str
    options: dict[str, _Option]
    seed: Annotated[int, Field(ge=0)] | None
    iterations: Annotated[int, Field(ge=0)]
    setup_time: Annotated[float, Field(ge=0)]
    runtime: Annotated[float, Field(ge=0)]
    trace: list[TraceDocument]
    certificate: CertificateDocument | None


def dump(result: Result) -> str:
    """Write a result as a document.

    Parameters
    ----------
    result
        The result.

    Returns
    -------
    str
        JSON, ending in a newline.

    Raises
    ------
    DocumentError
        If the result holds something the schema has no place for, such as an option that is no plain value.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "version": __version__,
        "pattern": {"kind": result.pattern.kind, **result.pattern.parameters()},
        "solution": result.pattern.to_lists(result.solution),
        "saliency": result.saliency,
        "blocks": None if result.blocks is None else list(result.blocks),
        "matrix": {"shape": list(result.shape), "dtype": result.dtype, "fingerprint": result.fingerprint},
        "score": result.score,
        "baseline": result.baseline,
        "rows_bound": result.rows_bound,
        "efficacy": result.efficacy,
        "bound": result.bound,
        "bound_kind": result.bound_kind,
        "gap": result.gap,
        "status": result.status.value,
        "stopped_by": result.stopped_by,
        "method": result.method,
        "options": result.options,
        "seed": result.seed,
        "iterations": result.iterations,
        "setup_time": result.setup_time,
        "runtime": result.runtime,
        "trace": [point._asdict() for point in result.trace],
        "certificate": None if result.certificate is None else result.certificate.to_dict(),
    }
    try:
        _validated(PermutationDocument.model_validate(fields))  # what is written can be read
    except ValidationError as error:
        raise DocumentError(f"the result cannot be written: {_explain(error)}") from error
    # One line per field: readable, and a permutation of thousands of columns does not fill thousands of lines.
    return "{\n" + ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in fields.items()) + "\n}\n"


def parse(text: str | bytes) -> Result:
    """Read a document.

    Parameters
    ----------
    text
        JSON.

    Returns
    -------
    Result
        The result it describes.

    Raises
    ------
    DocumentError
        If it is not JSON, follows another schema, lacks or adds a field, or its parts do not fit together.
    """
    try:
        document = _validated(PermutationDocument.model_validate_json(text))
    except ValidationError as error:
        raise DocumentError(_explain(error)) from error
    shape = tuple(document.matrix.shape)
    if len(shape) < 2:
        raise DocumentError(f"the document's matrix has shape {shape}: a matrix has rows and columns")
    cols = shape[1]
    blocks = None if document.blocks is None else tuple(document.blocks)
    if blocks is not None and (sum(blocks) != cols or any(size % max(document.pattern.m, 1) for size in blocks)):
        raise DocumentError(f"the document's blocks {list(blocks)} do not divide {cols} columns into groups")
    try:
        pattern = document.pattern.pattern()
        solution = _solution(document, pattern, shape, blocks)
    except InputError as error:
        raise DocumentError(f"the document's solution is not valid: {error}") from error
    result = Result(
        solution=solution,
        pattern=pattern,
        score=document.score,
        baseline=document.baseline,
        rows_bound=document.rows_bound,
        bound=document.bound,
        bound_kind=document.bound_kind,
        status=Status(document.status),
        stopped_by=document.stopped_by,
        method=document.method,
        options=dict(document.options),
        seed=document.seed,
        iterations=document.iterations,
        setup_time=document.setup_time,
        runtime=document.runtime,
        trace=tuple(TracePoint(point.time, point.score, point.bound) for point in document.trace),
        saliency=document.saliency,
        blocks=blocks,
        shape=shape,
        dtype=document.matrix.dtype,
        fingerprint=document.matrix.fingerprint,
        certificate=_certificate(document, cols),
    )
    for name in ("efficacy", "gap"):
        claimed, derived = getattr(document, name), getattr(result, name)
        if abs(claimed - derived) > 1e-9 * max(1.0, abs(derived)):
            raise DocumentError(f"the document says {name} = {claimed!r}, its own scores give {derived!r}")
    return result


def _validated(document: PermutationDocument) -> PermutationDocument:
    """Validate the solution, whose fields are the pattern's."""
    solution = _SOLUTIONS[document.pattern.kind]
    try:
        solution.model_validate(document.solution)
    except ValidationError as error:
        details: Any = [
            {
                "type": each["type"],
                "loc": ("solution", *each["loc"]),
                "input": each["input"],
                "ctx": each.get("ctx", {}),
            }
            for each in error.errors()
        ]
        raise ValidationError.from_exception_data(solution.__name__, details) from None
    return document


def _solution(
    document: PermutationDocument, pattern: Pattern, shape: tuple[int, ...], blocks: tuple[int, ...] | None
) -> Any:
    matrix = math.prod(shape) // shape[1], shape[1]
    pattern.validate(matrix)
    return pattern.check_solution(pattern.from_lists(document.solution), matrix, blocks)


def _certificate(document: PermutationDocument, cols: int) -> Certificate | None:
    if document.certificate is None:
        return None
    if len(document.certificate.duals) != cols:
        count = len(document.certificate.duals)
        raise DocumentError(f"the document's certificate has {count} duals for {cols} columns")
    try:
        return Certificate.from_dict(document.certificate.model_dump())
    except CertificateError as error:
        raise DocumentError(f"the document's certificate is not valid: {error}") from error


def _explain(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in _SOLUTIONS)
    if first["type"] == "json_invalid":
        return f"not a JSON document: {first['ctx']['error']}"
    if where == "schema":
        return f"unknown schema: this version reads {SCHEMA!r} ({first['msg']})"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"not a valid {SCHEMA} document: {where or 'top level'}: {first['msg']}{more}"
