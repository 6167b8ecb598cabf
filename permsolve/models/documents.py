"""JSON documents of plans: schema ``permsolve.plan/1``."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permsolve import documents
from permsolve._version import __version__
from permsolve.documents import HiNMSolutionDocument, PatternDocument, PermutationSolution
from permsolve.errors import DocumentError, InputError
from permsolve.models.group import Group
from permsolve.models.grouping import Movement, Refusal
from permsolve.models.plan import Plan
from permsolve.models.sides import Side, side_of
from permsolve.models.spaces import Ints

SCHEMA = "permsolve.plan/1"
#: Positions are stored as runs; a document may not ask for more entries than this in all.
_LARGEST = 1 << 28

_Size = Annotated[int, Field(ge=1)]
_Run = Annotated[list[int], Field(min_length=3, max_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class MovementDocument(_Strict):
    """What a group's permutation does to one parameter, buffer or index.

    ``positions`` has a list of runs [start, step, count] for each occurrence of the channels.
    """

    name: str
    role: Literal["consumer", "maker", "carried", "producer", "follower", "index", "pointed"]
    view: list[_Size]
    axes: list[Annotated[int, Field(ge=0)]]
    masks: list[str]
    positions: Annotated[list[list[_Run]], Field(min_length=1)]


class GroupDocument(_Strict):
    """Channels that one permutation moves."""

    name: str
    blocks: Annotated[list[_Size], Field(min_length=1)]
    movements: Annotated[list[MovementDocument], Field(min_length=1)]
    solution: PermutationSolution | HiNMSolutionDocument | None
    result: dict[str, Any] | None


class RefusalDocument(_Strict):
    """A weight that stays."""

    name: str
    axis: int
    reason: str


class PlanDocument(_Strict):
    """A plan."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, populate_by_name=True)

    schema_: Annotated[Literal["permsolve.plan/1"], Field(alias="schema")]
    version: str
    pattern: PatternDocument
    model: str
    parameters: Annotated[int, Field(ge=0)]
    groups: list[GroupDocument]
    frozen: list[RefusalDocument]
    unknown: dict[str, int]


def dump(plan: Plan) -> str:
    """Write a plan.

    Parameters
    ----------
    plan
        The plan.

    Returns
    -------
    str
        JSON, one line for each group.
    """
    head = {
        "schema": SCHEMA,
        "version": __version__,
        "pattern": {"kind": plan.nm.kind, **plan.nm.parameters()},
        "model": plan.model,
        "parameters": plan.parameters,
        "unknown": plan.unknown,
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    for key, entries in (
        ("groups", [_group_fields(group) for group in plan.groups]),
        ("frozen", [{"name": each.name, "axis": each.axis, "reason": each.reason} for each in plan.frozen]),
    ):
        listed = ",\n".join(json.dumps(entry) for entry in entries)
        lines.append(f'"{key}": [\n{listed}\n]' if entries else f'"{key}": []')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _group_fields(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "blocks": list(group.blocks),
        "movements": [
            {
                "name": move.name,
                "role": move.role,
                "view": list(move.view),
                "axes": list(move.axes),
                "masks": list(move.masks),
                "positions": [_runs(each) for each in move.positions],
            }
            for move in group.movements
        ],
        "solution": None if group.solution is None else group.nm.to_lists(group.solution),
        "result": None if group.result is None else json.loads(group.result.to_json()),
    }


def _runs(positions: Ints) -> list[list[int]]:
    """Write positions as runs [start, step, count]."""
    runs: list[list[int]] = []
    at = 0
    while at < positions.size:
        if at + 1 == positions.size:
            runs.append([int(positions[at]), 1, 1])
            break
        step = int(positions[at + 1] - positions[at])
        breaks = np.flatnonzero(np.diff(positions[at:]) != step)
        count = int(breaks[0]) + 1 if breaks.size else positions.size - at
        runs.append([int(positions[at]), step, count])
        at += count
    return runs


def parse(text: str | bytes) -> Plan:
    """Read a plan.

    Parameters
    ----------
    text
        JSON.

    Returns
    -------
    Plan
        The plan.

    Raises
    ------
    DocumentError
        If it is not JSON, follows another schema, or its parts do not fit together.
    """
    try:
        document = PlanDocument.model_validate_json(text)
    except ValidationError as error:
        raise DocumentError(_explain(error)) from error
    try:
        side = side_of(document.pattern.pattern())
    except InputError as error:
        raise DocumentError(f"the plan's pattern is not valid: {error}") from error
    groups = tuple(_read_group(each, side) for each in document.groups)
    names = [group.name for group in groups]
    if len(set(names)) < len(names):
        raise DocumentError("two groups of the plan have one name")
    return Plan(
        nm=side.pattern,
        model=document.model,
        parameters=document.parameters,
        groups=groups,
        frozen=tuple(Refusal(each.name, each.axis, each.reason) for each in document.frozen),
        unknown=dict(document.unknown),
    )


def _read_group(document: GroupDocument, side: Side) -> Group:
    if any(size % side.unit for size in document.blocks):
        raise DocumentError(f"group {document.name!r}: blocks {document.blocks} are not multiples of {side.unit}")
    if len(document.blocks) > 1 and not side.merges:
        raise DocumentError(f"group {document.name!r}: a group of {side.pattern} has one block, not {document.blocks}")
    channels = sum(document.blocks)
    movements = tuple(_read_movement(each, channels, document.name) for each in document.movements)
    group = Group(document.name, side.pattern, tuple(document.blocks), movements)
    if not group.gaining:
        raise DocumentError(f"group {document.name!r} has no {side.role}")
    _check_gaining(group)
    try:
        if document.solution is not None:
            group.solution = _read_solution(group, document.solution.model_dump())
        if document.result is not None:
            group.result = documents.parse(json.dumps(document.result))
    except InputError as error:
        raise DocumentError(f"group {document.name!r}: {error}") from error
    if group.result is not None and (
        group.solution is None or group.nm.to_lists(group.solution) != group.nm.to_lists(group.result.solution)
    ):
        raise DocumentError(f"group {document.name!r}: its solution is not that of its result")
    return group


def _check_gaining(group: Group) -> None:
    """Check that weights that gain have the axes they gain along, in whole units."""
    side, where = group.side, f"group {group.name!r}"
    for move in group.movements:
        if move.role in ("consumer", "maker") and move.role != side.role:
            raise DocumentError(f"{where}, {move.name!r}: a {move.role} cannot gain by {group.nm}")
    for move in group.gaining:
        channels = math.prod(move.view[axis] for axis in move.axes)
        units = np.sort(move.positions.reshape(-1, side.unit) // side.unit, axis=1)
        if fault := side.fault(move.view, channels // (move.view[0] if len(move.axes) > 1 else 1)):
            raise DocumentError(f"{where}, {move.name!r}: {fault}")
        if (units[:, 0] != units[:, -1]).any():
            raise DocumentError(f"{where}, {move.name!r}: its channels do not lie in whole {side.unit_name}s")


def _read_solution(group: Group, lists: dict[str, Any]) -> Any:
    if set(lists) != set(group.nm.parts):
        raise InputError(f"its solution holds {', '.join(lists)}, one of {group.nm} {', '.join(group.nm.parts)}")
    return group.check_solution(group.nm.from_lists(lists))


def _read_movement(document: MovementDocument, channels: int, group: str) -> Movement:
    where = f"group {group!r}, {document.name!r}"
    if sorted(set(document.axes)) != sorted(document.axes) or any(k >= len(document.view) for k in document.axes):
        raise DocumentError(f"{where}: axes {document.axes} are not axes of {document.view}")
    length = math.prod(document.view[axis] for axis in document.axes)
    total = [sum(run[2] for run in runs) for runs in document.positions]
    if any(count != channels for count in total) or channels * len(total) > min(length, _LARGEST):
        raise DocumentError(f"{where}: positions of {total[0]} channels do not fit a group of {channels}")
    if any(run[2] < 1 for runs in document.positions for run in runs):
        raise DocumentError(f"{where}: a run of positions is empty")
    positions = np.array(
        [
            np.concatenate([start + step * np.arange(count, dtype=np.int64) for start, step, count in runs])
            for runs in document.positions
        ]
    )
    if positions.min() < 0 or positions.max() >= length or np.unique(positions).size < positions.size:
        raise DocumentError(f"{where}: positions lie outside the axis or come twice")
    return Movement(
        document.name,
        document.role,
        tuple(document.view),
        tuple(document.axes),
        positions,
        tuple(document.masks),
    )


def _explain(error: ValidationError) -> str:
    first: Any = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return f"not a JSON document: {first['ctx']['error']}"
    if where == "schema":
        return f"unknown schema: this version reads {SCHEMA!r} ({first['msg']})"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"not a valid {SCHEMA} document: {where or 'top level'}: {first['msg']}{more}"
