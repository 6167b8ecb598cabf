"""The sums of a calibration that is going on, and which weights share one."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from permsolve.errors import DeviceError, ModelError
from permsolve.models.calibration import Calibration
from permsolve.models.calibration_sites import Site, Total, column_sums, needed_bytes, sum_shape
from permsolve.models.patches import Reading, real
from permsolve.models.prunable import PrunableWeight

logger = logging.getLogger("permsolve")

#: Why a weight was not seen that nothing speaks against.
NEVER = "never called with these batches, or not by way of its module"


class Book:
    """The sums, and who reads what.

    Parameters
    ----------
    weights
        The weights.
    covariance
        Whether second moments are summed, or only squares.
    """

    def __init__(self, weights: Iterable[PrunableWeight], covariance: bool) -> None:
        self.weights = {weight.path: weight for weight in weights}
        self.covariance = covariance
        self.columns = {
            path: column_sums(each.to_channels(each.values()), each.groups) for path, each in self.weights.items()
        }
        #: The weights that were seen, by path.
        self.sites: dict[str, Site] = {}
        #: Sums by number: rows, and values on some device.
        self.sums: dict[int, tuple[int, torch.Tensor]] = {}
        #: Whether it is known who reads the same tensors.
        self.shared = False
        #: Whether only that is to be found out.
        self.dry = False
        #: Where the sums are.
        self.home = torch.device("cpu")
        self._batch = 0
        self._reads: dict[str, list[tuple[int, Reading]]] = {}
        self._added: dict[int, list[tuple[int, Reading]]] = {}

    def begin(self, batch: int) -> None:
        """Begin a forward pass.

        Parameters
        ----------
        batch
            Number of the batch, from 1.
        """
        self._batch = batch
        self._reads, self._added = {}, {}

    def observe(self, path: str, given: Any, token: int, reading: Reading) -> None:
        """Take note of what a weight is given, and add it up unless another weight had the same.

        Parameters
        ----------
        path
            The weight.
        given
            What it is given.
        token
            A number that equal inputs of one forward pass share.
        reading
            How it reads them.
        """
        reads = self._reads.setdefault(path, [])
        reads.append((token, reading))
        if self.dry:
            return
        if path not in self.sites:
            self.sites[path] = self._site(path, max((site.total for site in self.sites.values()), default=-1) + 1)
        number = self.sites[path].total
        added = self._added.setdefault(number, [])
        if len(reads) > len(added):
            added.append((token, reading))
            self._add(path, number, real(given, path), reading)
        elif added[len(reads) - 1] != reads[-1]:
            raise self._diverged(path)

    def end(self) -> None:
        """End a forward pass.

        Raises
        ------
        ModelError
            If weights that had the same inputs before have not any more.
        """
        for path, site in self.sites.items():
            if len(self._reads.get(path, ())) != len(self._added.get(site.total, ())) and not self.dry:
                raise self._diverged(path)

    def share(self, copies: int) -> None:
        """Let weights that were given the same in a dry pass have one sum, and check that there is memory for all.

        Parameters
        ----------
        copies
            How often the sums must fit into memory.

        Raises
        ------
        DeviceError
            If there is not enough.
        """
        numbers: dict[object, int] = {}
        for path, weight in self.weights.items():
            if path in self._reads:
                key = tuple(self._reads[path]), weight.groups, weight.cols, weight.shape[2:]
                self.sites[path] = self._site(path, numbers.setdefault(key, len(numbers)))
        self.shared, self.dry = True, False
        needed = needed_bytes(list(self.sites.values()), self.covariance)
        logger.info("calibration: %d sums of %d weights take %.3g MB", len(numbers), len(self.sites), needed / 1e6)
        device = next(iter(self.weights.values())).parameter.device
        if device.type == "cuda" and 2 * needed < torch.cuda.mem_get_info(device)[0]:
            self.home = device  # the model's activations need their part
        available = _available()
        if available is not None and needed * copies > available:
            raise DeviceError(
                f"the second moments of {len(self.sites)} weights take {needed * copies / 1e9:.3g} GB of memory, "
                f"{available / 1e9:.3g} GB are available: calibrate some layers at a time (layers=), or only norms "
                f"(covariance=False)"
            )

    def calibration(self, samples: int, unseen: dict[str, str]) -> Calibration:
        """Return what was found.

        Parameters
        ----------
        samples
            Number of batches.
        unseen
            Weights that cannot be calibrated, and why.

        Returns
        -------
        Calibration
            The sums on the CPU.
        """
        numbers = {number: k for k, number in enumerate(sorted(self.sums))}
        sites = [replace(site, total=numbers[site.total]) for site in self.sites.values() if site.total in numbers]
        order = list(self.weights)
        sites.sort(key=lambda site: order.index(site.path))
        totals = [Total(self.sums[number][0], self.sums[number][1].cpu().numpy()) for number in numbers]
        seen = {site.path for site in sites}
        never = {path: NEVER for path in self.weights if path not in seen}
        return Calibration(samples, self.covariance, sites, totals, unseen | never, self.columns)

    def take(self, before: Calibration) -> None:
        """Go on from a calibration.

        Parameters
        ----------
        before
            What was found so far.
        """
        self.sites = {site.path: site for site in before.sites}
        self.sums = {k: (each.count, torch.from_numpy(each.values.copy())) for k, each in enumerate(before.totals)}
        self.shared = True

    def _site(self, path: str, number: int) -> Site:
        weight = self.weights[path]
        return Site(path, weight.names, weight.shape, weight.axis, weight.groups, number)

    def _add(self, path: str, number: int, inputs: torch.Tensor, reading: Reading) -> None:
        """Add an input up."""
        site = self.sites[path]
        rows = reading.rows(inputs)
        if not rows:  # an expert without tokens
            return
        if number not in self.sums:
            self.sums[number] = 0, torch.zeros(sum_shape(site, self.covariance), dtype=torch.float64, device=self.home)
        count, values = self.sums[number]
        with torch.autocast(inputs.device.type, enabled=False), _exact_products():
            for part in reading.moments(inputs) if self.covariance else [reading.squares(inputs)]:
                diagonal = part.diagonal(dim1=-2, dim2=-1) if self.covariance else part
                if not bool(torch.isfinite(diagonal).all()):
                    raise self._not_finite(path, inputs)
                values += part.to(values.device)
        self.sums[number] = count + rows, values

    def _not_finite(self, path: str, inputs: torch.Tensor) -> ModelError:
        bad = int((~torch.isfinite(inputs)).sum())
        what = f"{bad} NaN or infinite activations" if bad else "activations whose squares overflow"
        return ModelError(
            f"batch {self._batch}: {path} is given {what}; look for the layer that makes them, or leave the batch out"
        )

    def _diverged(self, path: str) -> ModelError:
        number = self.sites[path].total
        others = [other for other, site in self.sites.items() if site.total == number and other != path]
        return ModelError(
            f"batch {self._batch}: {path} and {', '.join(others[:3])} read the same tensors in the first batch, and "
            f"different ones in this one; calibrate them in calls of their own (layers=)"
        )


@contextmanager
def _exact_products() -> Iterator[None]:
    """Multiply float32 as float32, where a user has allowed TF32 or bfloat16: second moments need all their digits."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def _available() -> int | None:
    """Return how many bytes of memory are free or can be freed, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return found[0] if found else None
