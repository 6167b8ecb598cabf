"""The folder that ``permsolve model`` writes into: whose it is, how far it is, and files that appear whole or not."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from permsolve._version import __version__
from permsolve.errors import DocumentError, FileError, InputError
from permsolve.io import write_atomically
from permsolve.models.plan import Plan

RUN = "run.json"
PLAN = "plan.json"
_STAGE = ".part-"


class RunDocument(BaseModel):
    """What a folder holds: a run with these settings on this checkpoint, finished if it has outputs."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)

    schema_: Annotated[Literal["permsolve.run/1"], Field(alias="schema")] = "permsolve.run/1"
    version: str = __version__
    checkpoint: str
    sha256: dict[str, str]
    settings: dict[str, Any]
    outputs: list[str] | None = None


class OutputFolder:
    """The folder of one run. Nothing is written before `claim`.

    Parameters
    ----------
    path
        The folder; it need not exist.
    checkpoint
        The checkpoint, a file or a folder.
    sha256
        Fingerprints of what the model is made from.
    settings
        What decides on the results. Settings that an earlier run did not have to decide are not compared.

    Raises
    ------
    FileError
        If the folder cannot be used.
    InputError
        If it is the checkpoint's, or holds other files, or a run with other settings or on another checkpoint.
    """

    def __init__(self, path: Path, checkpoint: Path, sha256: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        home = checkpoint if checkpoint.is_dir() else checkpoint.parent
        if path.resolve() == home.resolve():
            raise InputError(f"--out {path} is the checkpoint's own folder; name another one")
        if path.exists() and not path.is_dir():
            raise FileError(path, "is no folder; name another --out")
        self.path = path
        self._document = RunDocument(checkpoint=str(checkpoint), sha256=dict(sha256), settings=dict(settings))
        before = self._read()
        if before is not None:
            self._compare(before)
            # A run that had less to decide (--plan-only) does not take back what a later one has decided.
            self._document = self._document.model_copy(
                update={"settings": {**before.settings, **settings}, "outputs": before.outputs}
            )

    @property
    def finished(self) -> bool:
        """Whether the run is done and all its files are there."""
        outputs = self._document.outputs
        return outputs is not None and all((self.path / name).is_file() for name in outputs)

    def about(self) -> dict[str, Any]:
        """Return what the run is of.

        Returns
        -------
        dict
            Checkpoint, fingerprints and settings.
        """
        return self._document.model_dump(include={"checkpoint", "sha256", "settings"})

    def plan(self) -> Plan | None:
        """Read the plan of an earlier run.

        Returns
        -------
        Plan or None
            The plan; groups whose solve was interrupted are to be solved again.

        Raises
        ------
        DocumentError
            If it is damaged.
        """
        file = self.path / PLAN
        if not (self.path / RUN).is_file() or not file.is_file():
            return None
        try:
            plan = Plan.load(file)
        except DocumentError as error:
            raise DocumentError(f"{file}: {error}; delete the file to start anew") from error
        for group in plan.groups:
            if group.result is not None and group.result.stopped_by == "interrupt":
                group.result = group.solution = None
        return plan

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Make the folder, keep other processes out of it, and write down whose it is.

        Yields
        ------
        None
            While the folder is this process's.

        Raises
        ------
        FileError
            If it cannot be written to.
        InputError
            If another process is at work in it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with _locked(self.path):
                for left in self.path.glob(f"{_STAGE}*"):  # of a run that was killed
                    shutil.rmtree(left, ignore_errors=True)
                self._write()
                yield
        except OSError as error:
            raise FileError(self.path, f"cannot be written to: {error.strerror or error}") from error

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Provide a folder for new files, which all come into place when the block ends without an error.

        Yields
        ------
        pathlib.Path
            The folder, inside this one and so on the same disk.
        """
        stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=self.path))
        try:
            yield stage
            for file in sorted(each for each in stage.rglob("*") if each.is_file()):
                target = self.path / file.relative_to(stage)
                target.parent.mkdir(parents=True, exist_ok=True)
                _onto_disk(file)
                os.replace(file, target)
        finally:
            shutil.rmtree(stage, ignore_errors=True)

    def finish(self, outputs: list[str]) -> None:
        """Write down that the run is done.

        Parameters
        ----------
        outputs
            Names of its files in the folder.
        """
        self._document = self._document.model_copy(update={"outputs": outputs})
        self._write()

    def _write(self) -> None:
        text = self._document.model_dump_json(by_alias=True, indent=1)
        write_atomically(self.path / RUN, text.encode() + b"\n")

    def _read(self) -> RunDocument | None:
        file = self.path / RUN
        try:
            if not self.path.exists():
                return None
            if not file.exists():
                if any(not each.name.startswith(_STAGE) for each in self.path.iterdir()):
                    raise FileError(self.path, "holds other files already; name a new --out")
                return None
            return RunDocument.model_validate_json(file.read_bytes())
        except OSError as error:
            raise FileError(self.path, f"cannot be read: {error.strerror or error}") from error
        except ValidationError as error:
            raise FileError(
                file, "is no record of a run of permsolve model, or damaged or of another version; name a new --out"
            ) from error

    def _compare(self, before: RunDocument) -> None:
        advice = f"give the same to go on with it, name a new --out, or delete {self.path}"
        old, new = before.settings, self._document.settings
        changed = [
            f"{name} {_show(old[name])}, now {_show(new[name])}"
            for name in new
            if old.get(name, new[name]) != new[name]
        ]
        if changed:
            raise InputError(f"{self.path} holds a run with other settings ({'; '.join(changed)}); {advice}")
        changed = [name for name, digest in self._document.sha256.items() if before.sha256.get(name) != digest]
        if changed or len(before.sha256) != len(self._document.sha256):
            named = ", ".join(changed[:3]) or "fewer files"
            raise InputError(f"{self.path} holds a run on other files (changed: {named}); {advice}")


def _show(value: object) -> str:
    return "none" if value is None else str(value)


def _onto_disk(file: Path) -> None:
    handle = os.open(file, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(file, 0o666 & ~umask)  # some writers make private files


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ModuleNotFoundError:  # no such locks on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is at work in {folder}; wait for it, or name another --out") from error
        yield
    finally:
        os.close(handle)
