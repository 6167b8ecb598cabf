"""Journals: files of lines, each on disk before what it tells counts as done.

A process may be killed at any moment. What is lost is at most the line being written: a last line without an end is cut
off when the journal is opened again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType

from permsolve.errors import FileError, InputError


class LineFile:
    """An open file of lines; only one process can have it open.

    Parameters
    ----------
    path
        The file; made if it is not there.
    busy
        What to say if another process has it open.

    Raises
    ------
    InputError
        If another process has it open.
    FileError
        If it cannot be opened, or is no ordinary file.
    """

    def __init__(self, path: Path, *, busy: str) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        try:
            self._file = os.open(path, flags, 0o666)
        except OSError as error:
            raise FileError(path, f"cannot be opened for writing: {error.strerror}") from error
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise FileError(path, "is no ordinary file; name another one")
            self._lock(busy)
        except BaseException:
            self.close()
            raise

    def content(self) -> bytes:
        """Return all that stands in the file, a torn last line too.

        Returns
        -------
        bytes
            The bytes.
        """
        return self.path.read_bytes()

    def append(self, line: bytes) -> None:
        """Write a line; it is on disk when this returns.

        Parameters
        ----------
        line
            The line, without its end.

        Raises
        ------
        FileError
            If it cannot be written; the file is as it was.
        """
        before = os.fstat(self._file).st_size
        rest = memoryview(line + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with contextlib.suppress(OSError):  # what was written of it would be a torn line
                os.ftruncate(self._file, before)
            raise FileError(self.path, f"cannot be written: {error.strerror}") from error

    def cut_torn_line(self) -> None:
        """Cut off a last line without an end."""
        os.ftruncate(self._file, self.content().rfind(b"\n") + 1)

    def close(self) -> None:
        """Close the file, which also lets other processes have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> LineFile:
        """Use the file in a ``with`` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _lock(self, busy: str) -> None:
        try:
            import fcntl
        except ModuleNotFoundError:  # no such locks on this system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(busy) from None


def whole_lines(content: bytes) -> list[bytes]:
    """Return the lines of a journal without a torn last one.

    Parameters
    ----------
    content
        The file's bytes.

    Returns
    -------
    list
        The lines, without their ends.
    """
    return content.split(b"\n")[:-1]  # what follows the last line end is torn, or nothing
