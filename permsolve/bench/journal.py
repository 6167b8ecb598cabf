"""The journal of a bench: one line per finished run, on disk before the next run is counted.

A bench may be killed at any moment. What is lost is at most the run being written: a last line without an end is cut
off when the bench goes on.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from permsolve.bench.records import Record, Settings, Task
from permsolve.errors import FileError, InputError
from permsolve.io import write_atomically
from permsolve.journal import LineFile, whole_lines

SETTINGS = "settings.json"
RUNS = "runs.jsonl"


class Journal:
    """The open journal of a bench; only one process can have it open.

    Parameters
    ----------
    folder
        Folder of the bench; made if it is not there.
    settings
        The bench's settings. A folder that holds a bench of other settings is refused.

    Raises
    ------
    InputError
        If the folder belongs to a bench with other settings, or another process is running it.
    FileError
        If the folder cannot be used, or a file in it is damaged.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(folder, f"cannot hold a bench: {error.strerror}; name another folder") from error
        busy = f"another process is running the bench in {folder}; wait for it or name another folder"
        self._file = LineFile(folder / RUNS, busy=busy)
        try:
            if (folder / SETTINGS).exists():
                _check_same(folder, read_settings(folder), settings)
            elif (folder / RUNS).stat().st_size:
                raise FileError(folder, f"holds {RUNS} but no {SETTINGS}; name another folder")
            else:
                write_atomically(folder / SETTINGS, dump_settings(settings))
            #: The runs finished so far, in the order in which they ended.
            self.records = read_runs(folder, settings)
            self._file.cut_torn_line()
        except BaseException:
            self._file.close()
            raise

    def append(self, record: Record) -> None:
        """Write down a finished run; it is on disk when this returns.

        Parameters
        ----------
        record
            The run.
        """
        self._file.append(record.model_dump_json().encode())
        self.records.append(record)

    def done(self) -> set[Task]:
        """Return the runs that need not be made again.

        Returns
        -------
        set
            The finished ones, failed ones among them.
        """
        return {record.task for record in self.records}

    def __enter__(self) -> Journal:
        """Use the journal in a ``with`` block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, which also lets other processes have it."""
        self._file.close()


def dump_settings(settings: Settings) -> bytes:
    """Return the settings as a JSON document.

    Parameters
    ----------
    settings
        The settings.

    Returns
    -------
    bytes
        The document.
    """
    return settings.model_dump_json(by_alias=True, indent=1).encode() + b"\n"


def read_settings(folder: Path) -> Settings:
    """Read the settings of the bench in a folder.

    Parameters
    ----------
    folder
        Folder of the bench.

    Returns
    -------
    Settings
        The settings.

    Raises
    ------
    FileError
        If there is no bench, or its settings are damaged.
    """
    file = folder / SETTINGS
    try:
        return Settings.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise FileError(folder, f"holds no bench: there is no {SETTINGS} in it") from None
    except OSError as error:
        raise FileError(file, f"cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise FileError(file, f"is damaged or of another version: {_first(error)}") from error


def read_runs(folder: Path, settings: Settings) -> list[Record]:
    """Read the finished runs of a bench, without a torn last line.

    Parameters
    ----------
    folder
        Folder of the bench.
    settings
        Its settings.

    Returns
    -------
    list
        The records; of a run that is recorded twice the first.

    Raises
    ------
    FileError
        If a whole line is damaged, or is of a run that the bench does not have.
    """
    file = folder / RUNS
    try:
        lines = whole_lines(file.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FileError(file, f"cannot be read: {error.strerror}") from error
    planned = set(settings.tasks())
    records: dict[Task, Record] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = Record.model_validate_json(line)
        except ValidationError as error:
            raise FileError(file, f"line {number} is damaged ({_first(error)}); delete that line to go on") from error
        if record.task not in planned:
            raise FileError(file, f"line {number} is of a run that {SETTINGS} does not name; delete that line to go on")
        records.setdefault(record.task, record)
    return list(records.values())


def _check_same(folder: Path, old: Settings, new: Settings) -> None:
    found = old.differences(new)
    if found:
        raise InputError(
            f"{folder} holds a bench with other settings ({'; '.join(found)}); "
            f"give the same settings to go on with it, or name a new folder, for example {folder.name}-2"
        )


def _first(error: ValidationError) -> str:
    fault = error.errors()[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'document'}: {fault['msg']}"
