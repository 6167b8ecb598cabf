"""Running a bench: a pool of worker processes, each on a core of its own, replaced whenever a run goes wrong.

A fresh process for every run would pay for the imports and the loading of compiled code each time, more than many runs
take themselves. So workers live on from run to run, which share nothing but what is imported and compiled; a run that
raises, crashes its process or hangs is recorded as failed, and its worker is thrown away.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

from pydantic import ValidationError

from permsolve.bench.journal import Journal
from permsolve.bench.machine import cores
from permsolve.bench.records import Record, Settings, Source, Task
from permsolve.errors import InputError

#: Seconds beyond its limit after which a run counts as hung: start of the process, compilation and long steps included.
GRACE = 120.0
#: One thread, whatever a method calls.
_ONE_THREAD = {
    name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}


def run(
    settings: Settings,
    folder: Path,
    *,
    grace: float = GRACE,
    notify: Callable[[int], None] | None = None,
) -> list[Record]:
    """Make the runs of a bench that its folder does not hold yet.

    Parameters
    ----------
    settings
        The bench.
    folder
        Where its journal is, or will be.
    grace
        Seconds beyond its limit after which a run is killed.
    notify
        Called with the number of finished runs at the start and after each.

    Returns
    -------
    list
        All records, those of earlier sittings first.

    Raises
    ------
    InputError
        If the folder belongs to a bench with other settings, or the bench asks for more cores than there are.
    FileError
        If a file of the bench is damaged or cannot be written.
    """
    usable = cores()
    if not 1 <= settings.jobs <= len(usable):
        raise InputError(
            f"{settings.jobs} runs at a time need as many cores, this process may use {len(usable)}; "
            f"give --jobs 1 to {len(usable)}"
        )
    sources = {source.name: source for source in settings.instances}
    with Journal(folder, settings) as journal:
        done = journal.done()
        pending = deque(task for task in settings.tasks() if task not in done)
        workers = [_Worker(core, grace) for core in usable[: settings.jobs]]
        try:
            while True:
                if notify is not None:
                    notify(len(journal.records))
                for worker in workers:
                    if worker.task is None and pending:
                        task = pending.popleft()
                        worker.start(task, sources[task.instance])
                busy = [worker for worker in workers if worker.task is not None]
                if not busy:
                    return journal.records
                for record in _finished(busy):
                    journal.append(record)
        finally:
            for worker in workers:
                worker.stop()


def _finished(busy: list[_Worker]) -> list[Record]:
    """Wait until something happens, and return the runs that ended by it."""
    nearest = min(worker.deadline for worker in busy)
    wait([worker.output for worker in busy], timeout=max(nearest - time.monotonic(), 0.0))
    return [record for worker in busy if (record := worker.record()) is not None]


class _Worker:
    """One worker process and the run it is at."""

    def __init__(self, core: int, grace: float) -> None:
        self.task: Task | None = None
        self.deadline = 0.0
        self._core = core
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the worker)

    @property
    def output(self) -> int:
        """What to wait on for an answer, or for the end of the process."""
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    def start(self, task: Task, source: Source) -> None:
        """Begin a run, in a new process where there is none."""
        if self._process is None:
            self._process = self._spawn()
        self.task = task
        self.deadline = time.monotonic() + task.limit + self._grace
        order = {"task": task.model_dump(), "source": source.model_dump(mode="json")}
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died; reading its answer says how
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    def record(self) -> Record | None:
        """Return the record of the run if it has ended by now: answered, died or overdue."""
        assert self._process is not None and self._process.stdout is not None and self.task is not None
        task = self.task
        if wait([self.output], timeout=0):
            line = self._process.stdout.readline()
            record = _parse(line, task) or self._failed(self._cause_of_death())
        elif time.monotonic() >= self.deadline:
            record = self._failed(f"no answer {self._grace:g} s after its limit of {task.limit:g} s; it was killed")
        else:
            return None
        self.task = None
        if record.outcome == "failed":
            self.stop()
        return record

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own session: also whatever the method started
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _failed(self, reason: str) -> Record:
        assert self.task is not None
        return Record(task=self.task, outcome="failed", reason=reason, answer=None)

    def _spawn(self) -> subprocess.Popen[bytes]:
        # The same modules as here: also those that only this process was told where to find.
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._errors.seek(0)
        self._errors.truncate()
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "permsolve.bench.worker", str(self._core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the bench, which then ends its workers
        )

    def _cause_of_death(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "the process closed its output or answered nonsense"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"the process {how}" + (f": {said[-1][:300]}" if said else "")


def _parse(line: bytes, task: Task) -> Record | None:
    try:
        record = Record.model_validate_json(line)
    except ValidationError:
        return None
    return record if record.task == task else None
