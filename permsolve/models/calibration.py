"""What calibration has found: norms and second moments of the inputs of a model's weights."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from permsolve.errors import InputError, ModelError
from permsolve.models.calibration_sites import Array, Float, Ints, Site, Total, column_sums, input_order
from permsolve.models.selection import close_names

if TYPE_CHECKING:
    from permsolve.models.plan import Plan


class Calibration:
    """Norms and second moments of what the weights of a model were given; `calibrate` makes it.

    Weights go by their paths, such as ``"encoder.layer.0.intermediate.dense.weight"``; any other name of theirs will do
    if it is no other weight's. Every method raises `InputError` for a weight that is not among them.

    Parameters
    ----------
    samples
        Number of batches.
    covariance
        Whether there are second moments, and not only norms.
    sites
        The weights that were seen.
    totals
        The sums, as the sites number them.
    unseen
        The other weights, and why they were not seen.
    columns
        `column_sums` of the weights by path: they tell whether channels have moved since.
    model
        sha256 of the model's tensors, or "" where nothing was saved.
    batches
        sha256 of all batches, or "".
    """

    def __init__(
        self,
        samples: int,
        covariance: bool,
        sites: Sequence[Site],
        totals: Sequence[Total],
        unseen: dict[str, str],
        columns: Mapping[str, Float],
        model: str = "",
        batches: str = "",
    ) -> None:
        self.samples = samples
        self.covariance = covariance
        self.sites = tuple(sites)
        self.totals = tuple(totals)
        self.unseen = dict(unseen)
        self.columns = {site.path: columns[site.path] for site in self.sites}
        self.model = model
        self.batches = batches
        bearers = Counter(name for site in self.sites for name in site.names)
        self._by_name = {name: site for site in self.sites for name in site.names if bearers[name] == 1}
        self._by_name |= {site.path: site for site in self.sites}

    def __repr__(self) -> str:
        """Return a line with counts."""
        what = "second moments" if self.covariance else "norms"
        size = sum(total.values.nbytes for total in self.totals)
        return (
            f"<Calibration: {what} of {len(self.sites)} weights over {self.samples} batches, "
            f"{len(self.totals)} sums, {size / 1e6:.3g} MB>"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Paths of the weights that were seen."""
        return tuple(site.path for site in self.sites)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def site(self, name: str) -> Site:
        """Return what is known of a weight.

        Parameters
        ----------
        name
            A name of the weight.

        Returns
        -------
        Site
            Shape and layout.

        Raises
        ------
        InputError
            If it was not seen; the message says why.
        """
        if name in self._by_name:
            return self._by_name[name]
        if name in self.unseen:
            raise InputError(f"the calibration has nothing for {name}: {self.unseen[name]}")
        raise InputError(f"the calibration has no weight {name!r}; {close_names(str(name), self.names)}")

    def count(self, name: str) -> int:
        """Return how many rows of input a weight saw.

        Parameters
        ----------
        name
            The weight.

        Returns
        -------
        int
            Tokens of a linear layer, output positions of a convolution.
        """
        return self.totals[self.site(name).total].count

    def norms(self, name: str) -> Float:
        """Return the Euclidean norm of each input channel over all rows, as `permsolve.saliency.Wanda` takes it.

        Parameters
        ----------
        name
            The weight.

        Returns
        -------
        numpy.ndarray
            float64 (channels,), of a grouped convolution all channels of all groups. A channel of a convolution has a
            norm at every kernel position; this is their root mean square.
        """
        site = self.site(name)
        values = self.totals[site.total].values
        if self.covariance:
            diagonal = np.diagonal(values, axis1=1, axis2=2)
            values = diagonal.reshape(site.channels, site.positions).mean(axis=1)
        return np.sqrt(values)

    def second_moment(self, name: str) -> Float:
        """Return the second moment of a weight's inputs, X^T X over the number of rows, without centring.

        Parameters
        ----------
        name
            The weight.

        Returns
        -------
        numpy.ndarray
            float64 (groups, features, features). Features of a linear layer are its input channels; those of a
            convolution are ordered as in ``weight[k].reshape(-1)``: by channel of the group, then by kernel position
            (of a transposed one, after its input channels are brought to axis 1).

        Raises
        ------
        InputError
            If the calibration has norms only.
        """
        total = self._moments(name)
        return total.values / total.count

    def channel_moments(self, name: str) -> Float:
        """Return the second moments of a weight's input channels, as `permsolve.saliency.OutputError` takes them.

        Parameters
        ----------
        name
            The weight.

        Returns
        -------
        numpy.ndarray
            float64 (positions, channels, channels): the diagonal blocks of `second_moment`, one for each position of
            the kernel; a linear layer has one. Of a grouped convolution (groups * positions, channels of a group,
            channels of a group), group by group.

        Raises
        ------
        InputError
            If the calibration has norms only.
        """
        total, site = self._moments(name), self.site(name)
        parts = total.values.reshape(site.groups, site.cols, site.positions, site.cols, site.positions)
        blocks = np.ascontiguousarray(np.einsum("gipjp->gpij", parts)).reshape(-1, site.cols, site.cols)
        return blocks / total.count

    def check_order(self, name: str, channels: Array) -> None:
        """Check that the input channels of a weight are in the order that was calibrated.

        Parameters
        ----------
        name
            The weight.
        channels
            Its values now, input channels in axis 1 (`PrunableWeight.to_channels`). They may have changed since: only
            values that are the same in another order are refused.

        Raises
        ------
        ModelError
            If the order is another, or the weight is.
        """
        site = self.site(name)
        then, now = self.columns[site.path], column_sums(channels, site.groups)
        if now.shape != then.shape:
            raise ModelError(f"the calibration is of another model: {site.path} had {then.size} input channels")
        if not _close(now, then) and _close(np.sort(now), np.sort(then)):
            raise ModelError(
                f"the input channels of {site.path} are in another order than when it was calibrated: for a model that "
                f"a plan was applied to, pass calibration.permuted(plan)"
            )

    def permuted(self, plan: Plan) -> Calibration:
        """Return the calibration of the model as it is after ``plan.apply_``.

        Parameters
        ----------
        plan
            A plan whose groups have permutations, for the model that was calibrated.

        Returns
        -------
        Calibration
            Input channels moved as the plan moves them; what the plan does not move is shared with this one.

        Raises
        ------
        InputError
            If it is no plan.
        ModelError
            If the plan is for another model.
        """
        if not hasattr(plan, "groups"):
            raise InputError(f"plan = {plan!r:.80} is no permsolve.models.Plan")
        orders = {site.path: np.arange(site.channels) for site in self.sites}
        for group in plan.groups:
            if group.perm is None:
                continue
            for move in group.movements:
                site = self._by_name.get(move.name)
                index = None if site is None else input_order(site, move, group.perm)
                if site is not None and index is not None:
                    orders[site.path] = orders[site.path][index]
        found: dict[tuple[int, bytes], int] = {}
        sites: list[Site] = []
        totals: list[Total] = []
        for site in self.sites:
            order = orders[site.path]
            key = site.total, order.tobytes()
            if key not in found:
                found[key] = len(totals)
                totals.append(self._moved(site, order))
            sites.append(Site(site.path, site.names, site.shape, site.axis, site.groups, found[key]))
        columns = {path: sums[orders[path]] for path, sums in self.columns.items()}
        return Calibration(self.samples, self.covariance, sites, totals, self.unseen, columns)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration as safetensors, atomically.

        Parameters
        ----------
        path
            Where to; an existing file is replaced.

        Raises
        ------
        FileError
            If the file cannot be written.
        """
        from permsolve.models.calibration_files import write

        write(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Calibration:
        """Read a calibration.

        Parameters
        ----------
        path
            The file.

        Returns
        -------
        Calibration
            The calibration.

        Raises
        ------
        FileError
            If the file cannot be read or is damaged.
        DocumentError
            If it is no calibration, or its parts do not fit together.
        """
        from permsolve.models.calibration_files import read

        return read(path)

    def _moments(self, name: str) -> Total:
        site = self.site(name)
        if not self.covariance:
            raise InputError(
                f"the calibration has norms only, no second moment of {name}: calibrate with covariance=True"
            )
        return self.totals[site.total]

    def _moved(self, site: Site, order: Ints) -> Total:
        """Return a sum with its channels in another order."""
        total = self.totals[site.total]
        if (order == np.arange(order.size)).all():
            return total
        if not self.covariance:
            return Total(total.count, total.values[order])
        inside = order.reshape(site.groups, site.cols)
        sources = inside[:, 0] // site.cols
        if (inside // site.cols != sources[:, None]).any():
            raise ModelError(f"the plan is for another model: it moves channels of {site.path} between its groups")
        values = np.empty_like(total.values)
        for group, source in enumerate(sources):
            features = (inside[group] % site.cols)[:, None] * site.positions + np.arange(site.positions)
            values[group] = total.values[source][np.ix_(features.reshape(-1), features.reshape(-1))]
        return Total(total.count, values)


def _close(one: Float, other: Float) -> bool:
    return bool(np.allclose(one, other, rtol=1e-9, atol=0))
