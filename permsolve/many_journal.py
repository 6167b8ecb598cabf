"""The journal of `permsolve.solve_many`: a line of settings, then one line per finished problem.

Each line is a JSON object: first ``{"schema": "permsolve.many/1", "version": ..., "settings": {...}}``, then
``{"name": ..., "result": {...}}`` with a document of schema ``permsolve.permutation/1``.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from permsolve._version import __version__
from permsolve.documents import parse
from permsolve.errors import DocumentError, FileError, InputError
from permsolve.journal import LineFile, whole_lines
from permsolve.problem import Problem
from permsolve.result import Result

if TYPE_CHECKING:
    from permsolve.solved import SolvedMany

SCHEMA = "permsolve.many/1"


class JournalError(FileError):
    """A journal that could not be written any more, on a full disk say; what was finished is not lost.

    Parameters
    ----------
    path
        The journal.
    problem
        What is wrong with it, and what to do.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(path, problem)
        #: Everything that was finished by then, the problem that could not be written included.
        self.solved: SolvedMany | None = None


class ManyJournal:
    """The open journal of a call; only one process can have it open.

    Parameters
    ----------
    path
        The file; made if it is not there.
    settings
        What decides on the results, as plain JSON values.

    Raises
    ------
    InputError
        If the file holds results of other settings, or another process has it open.
    FileError
        If it cannot be used, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        busy = f"another process is writing the journal {self.path}; wait for it or name another file"
        self._file = LineFile(self.path, busy=busy)
        try:
            content = self._file.content()
            self._check_kind(content)
            self._file.cut_torn_line()
            lines = whole_lines(content)
            if lines:
                self._check_settings(lines[0], settings)
            else:
                self._file.append(_line({"schema": SCHEMA, "version": __version__, "settings": dict(settings)}))
            #: The results of earlier calls by name.
            self.results = self._read(lines[1:])
        except BaseException:
            self._file.close()
            raise

    def append(self, name: str, result: Result) -> None:
        """Write down a result; it is on disk when this returns.

        Parameters
        ----------
        name
            Name of its problem.
        result
            The result.

        Raises
        ------
        JournalError
            If it cannot be written; the file holds what it held before.
        """
        try:
            self._file.append(_line({"name": name, "result": json.loads(result.to_json())}))
        except FileError as error:
            reason = str(error).removeprefix(f"{self.path}: ")
            raise JournalError(
                self.path,
                f"{reason}; what it holds is whole: make room, and the same call goes on from there",
            ) from error

    def check(self, name: str, problem: Problem) -> None:
        """Check that a problem is the one whose result the journal holds under its name.

        Parameters
        ----------
        name
            A name in ``results``.
        problem
            The problem.

        Raises
        ------
        InputError
            If it is another one.
        """
        result = self.results[name]
        pairs: dict[str, tuple[object, object]] = {
            "shape": (result.shape, problem.shape),
            "pattern": (str(result.pattern), str(problem.pattern)),
            "blocks": (result.blocks, problem.blocks),
            "saliency": (result.saliency, problem.saliency_name),
            "fingerprint": (result.fingerprint[:16], problem.fingerprint[:16]),
        }
        if result.fingerprint == problem.fingerprint and not math.isclose(
            result.baseline, problem.baseline, rel_tol=1e-9
        ):  # saliencies of one name may differ in their entries
            pairs["unpermuted score"] = (result.baseline, problem.baseline)
        found = [f"{what} {old} there, {new} now" for what, (old, new) in pairs.items() if old != new]
        if found:
            raise InputError(
                f"{self.path} holds the result of another problem {name!r} ({'; '.join(found)}); name another file"
            )

    def close(self) -> None:
        """Close the file, which also lets other processes have it."""
        self._file.close()

    def _check_kind(self, content: bytes) -> None:
        """Refuse a file of somebody else's before anything is cut off from it."""
        start = _line({"schema": SCHEMA})[:-1]
        if not (content.startswith(start) or start.startswith(content)):
            raise FileError(self.path, f"is no journal of schema {SCHEMA!r}; name another file")

    def _check_settings(self, header: bytes, settings: Mapping[str, Any]) -> None:
        try:
            old = dict(json.loads(header)["settings"])
        except (ValueError, KeyError, TypeError) as error:
            raise FileError(self.path, "the first line is damaged; delete the file, or name another one") from error
        names = dict.fromkeys([*old, *settings])
        found = [f"{name} {old.get(name)} there, {settings.get(name)} now" for name in names]
        found = [text for text, name in zip(found, names, strict=True) if old.get(name) != settings.get(name)]
        if found:
            raise InputError(
                f"{self.path} holds results of other settings ({'; '.join(found)}); give the same settings to go on "
                f"with it, or name another file"
            )

    def _read(self, lines: list[bytes]) -> dict[str, Result]:
        results: dict[str, Result] = {}
        for number, line in enumerate(lines, start=2):
            try:
                record = json.loads(line)
                name, document = record["name"], json.dumps(record["result"])
                results.setdefault(name, parse(document))
            except (ValueError, KeyError, TypeError) as error:  # a DocumentError is a ValueError
                said = str(error) if isinstance(error, DocumentError) else "no record of a result"
                raise FileError(self.path, f"line {number} is damaged ({said}); delete that line to go on") from error
        return results


def plain(value: object) -> Any:
    """Return a value as JSON holds it, so that it equals itself when it is read again.

    Parameters
    ----------
    value
        A setting.

    Returns
    -------
    Any
        The value itself where it is a plain one, its elements' where it is a list or dictionary, else its repr.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return repr(value)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()
