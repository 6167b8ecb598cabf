"""The process that runs methods for a bench: one core, one run at a time.

Started as ``python -m permsolve.bench.worker CORE``; reads one JSON line per run from standard input and answers each
with one line. It ends when its input does, in the middle of a run too: a bench that is killed leaves nothing behind.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import traceback

from permsolve.bench.records import Answer, Record, Source, Task
from permsolve.errors import MissingDependencyError, UnsupportedProblemError
from permsolve.problem import Problem

#: Seconds of an unmeasured run that comes before the first run of a method on an instance: it compiles, imports and
#: touches what the measured runs need.
WARM_UP = 0.05


def main() -> None:
    """Serve runs until the input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(sys.argv[1])})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a method prints must not be taken for an answer
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    bench = _Bench()
    while True:
        order = json.loads(orders.get())
        record = bench.run(Task.model_validate(order["task"]), Source.model_validate_json(json.dumps(order["source"])))
        answers.write(record.model_dump_json() + "\n")
        answers.flush()


def _listen(orders: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        orders.put(line)
    os._exit(0)


class _Bench:
    """The runs of one process: keeps the last instance and knows what is warm."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._problem: Problem | None = None
        self._warm: set[tuple[str, str]] = set()

    def run(self, task: Task, source: Source) -> Record:
        """Make one run; whatever a method raises becomes the reason of a failed one."""
        try:
            answer = self._solve(task, source)
        except (UnsupportedProblemError, MissingDependencyError) as error:
            return Record(task=task, outcome="unsupported", reason=str(error), answer=None)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {error} ({os.path.basename(where.filename)}, line {where.lineno})"
            return Record(task=task, outcome="failed", reason=reason, answer=None)
        return Record(task=task, outcome="ok", reason=None, answer=answer)

    def _solve(self, task: Task, source: Source) -> Answer:
        from permsolve import solve

        problem = self._problem_of(source)
        if (task.method, task.instance) not in self._warm:
            solve(
                problem,
                method=task.method,
                time_limit=min(task.limit, WARM_UP),
                seed=task.seed,
                n_jobs=1,
                display=False,
            )
            self._warm.add((task.method, task.instance))
        gc.collect()
        result = solve(problem, method=task.method, time_limit=task.limit, seed=task.seed, n_jobs=1, display=False)
        return Answer(
            solution=result.pattern.to_lists(result.solution),
            score=result.score,
            bound=result.bound,
            bound_kind=result.bound_kind,
            status=result.status.value,
            iterations=result.iterations,
            setup_time=result.setup_time,
            runtime=result.runtime,
            trace=tuple((point.time, point.score) for point in result.trace),
        )

    def _problem_of(self, source: Source) -> Problem:
        if self._problem is None or self._source != source:
            self._source, self._problem = source, None
            self._problem = source.problem()
        return self._problem


if __name__ == "__main__":
    main()
