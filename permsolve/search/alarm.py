"""Ending compiled work in time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from permsolve.run import Run

#: Blocks of work, as long as the longest so far, that the end of the time may be away and still be watched for.
HORIZON = 10.0


class Alarm:
    """Sets a flag, which kernels look at, when a run's time is over.

    Kernels release the GIL, so a timer's thread runs beside them. Where the end is far away, there is no timer.

    Parameters
    ----------
    run
        The run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        #: bool (1,): whether the time is over.
        self.halt = np.zeros(1, dtype=np.bool_)
        #: Seconds that a block of work takes: until one is known, the end is near.
        self.longest = float("inf")

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Set the flag when the time is over, should that come before the end of the block."""
        left = self._run.remaining()
        if left == float("inf") or left > HORIZON * self.longest:
            yield
            return
        timer = threading.Timer(left, self.halt.fill, (True,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def took(self, seconds: float) -> None:
        """Note how long a block of work took.

        Parameters
        ----------
        seconds
            Its time.
        """
        self.longest = seconds if self.longest == float("inf") else max(self.longest, seconds)
