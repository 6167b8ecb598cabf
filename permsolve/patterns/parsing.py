"""What a user may write for a pattern."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from permsolve.errors import InputError
from permsolve.patterns.base import Hierarchical, Pattern
from permsolve.patterns.hinm import HiNM
from permsolve.patterns.nm import NM
from permsolve.patterns.transposable import Transposable
from permsolve.patterns.vnm import VNM

_KINDS: dict[str, type[Hierarchical]] = {"hinm": HiNM, "vnm": VNM, "transposable": Transposable}
_USAGE = "'2:4', 'hinm(32, 0.5, 2:4)', '64:2:8' (V:N:M) or 'transposable(2:4)'"


def parse(spec: object) -> Pattern:
    """Make a pattern of what a user writes.

    Parameters
    ----------
    spec
        A pattern, a pair ``(n, m)``, or a string: ``"n:m"``, ``"V:N:M"``, or a name with parameters in their order or
        by name, such as ``"hinm(32, 0.5, 2:4)"``, ``"vnm(vector=64, n=2, m=8)"``, ``"transposable(2:4)"``.

    Returns
    -------
    Pattern
        The pattern.

    Raises
    ------
    InputError
        If the specification is none of these.
    """
    if isinstance(spec, Pattern):
        return spec
    if not isinstance(spec, str):
        return NM.parse(spec)
    text = re.sub(r"\s", "", spec).lower()
    if re.fullmatch(r"\d{1,6}:\d{1,6}:\d{1,6}", text):
        return VNM(*map(int, text.split(":")))
    match = re.fullmatch(r"([a-z]+)(?:\((.*)\))?", text)
    if match is None and text.count(":") == 1 and "(" not in text:
        return NM.parse(spec)
    if match is None or match[1] not in _KINDS:
        raise InputError(f"{spec!r} is no pattern; write {_USAGE}")
    return _KINDS[match[1]](**_arguments(spec, _KINDS[match[1]], match[2] or ""))


def _arguments(spec: str, kind: type[Hierarchical], text: str) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if kind is Transposable and re.fullmatch(r"\d{1,6}:\d{1,6}", text):
        text = text.replace(":", ",")
    given: dict[str, Any] = {}
    for position, part in enumerate(text.split(",") if text else []):
        name, equals, value = part.rpartition("=")
        if not equals:
            name = names[position] if position < len(names) else ""
        if name not in names or name in given:
            raise InputError(f"{spec!r} is no pattern: the parameters of {kind.__name__} are {', '.join(names)}")
        given[name] = _value(spec, value)
    return given


def _value(spec: str, text: str) -> object:
    if re.fullmatch(r"\d{1,9}", text):
        return int(text)
    if re.fullmatch(r"(\d*\.\d+|\d+\.|\d+(?=e))(e[+-]?\d{1,3})?", text):
        return float(text)
    if re.fullmatch(r"\d{1,6}:\d{1,6}", text):
        return text
    raise InputError(f"{spec!r} is no pattern: {text!r} is neither a number nor n:m; write {_USAGE}")
