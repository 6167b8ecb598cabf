"""Exchanges of columns on a GPU: the state of a batch of problems, and sweeps over all their exchanges."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import numpy.typing as npt
import torch

from permsolve._devices import interpreting
from permsolve.errors import DeviceError, UnsupportedProblemError
from permsolve.kernels.triton import gain as gains
from permsolve.kernels.triton.groups import refresh
from permsolve.kernels.triton.panels import pack
from permsolve.kernels.triton.select import MOST_COLUMNS, ROUNDS, carry_out, choose

#: Improvements below this share of the largest column sum are float32 rounding, not progress.
RELATIVE_TOLERANCE = 1e-6
#: Entries of the thresholds computed at a time: 1 GiB of float32.
CHUNK = 1 << 28
#: Programs that fill a large GPU twice; narrower problems are cut into smaller tiles for as many.
PROGRAMS = 264


class DeviceExchange:
    """A batch of problems of equal shape on the device, or several permutations of one problem.

    The gain matrix of every problem is kept; a sweep chooses exchanges of disjoint pairs of groups, applies them and
    brings the rows of the changed groups up to date. The host learns of a sweep by one transfer.

    Parameters
    ----------
    saliency
        float32 (problems, cols, rows), entries >= 0; one problem may be worked on from several permutations.
    pattern
        n and m.
    orders
        int (batch, cols): permutations to start from; batch is the number of problems where there are several.
    device
        ``"cuda"``, ``"cuda:1"``, ...; with ``TRITON_INTERPRET=1`` the kernels are interpreted on the CPU.
    seed
        Seed of ties and noise.
    dtype
        How the saliency is stored: ``"float32"``, ``"float16"`` or ``"bfloat16"``. Sums are float32 always. In half
        precision the search sees rounded entries.

    Raises
    ------
    UnsupportedProblemError
        If there are more than 65,536 columns.
    DeviceError
        If the device has not enough free memory.
    """

    def __init__(
        self,
        saliency: npt.NDArray[np.float32],
        pattern: tuple[int, int],
        orders: npt.NDArray[np.int64],
        *,
        device: str = "cuda",
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        self.pattern = pattern
        self.batch, self.cols = orders.shape
        if self.cols > MOST_COLUMNS:
            raise UnsupportedProblemError(
                f"searching on a GPU takes up to {MOST_COLUMNS} columns, not {self.cols}; use blocks or device='cpu'"
            )
        self.device = torch.device("cpu" if interpreting() else device)
        self._rng = np.random.default_rng(seed)
        self._width = panel_width(self.batch, self.cols)
        padded = -(-self.cols // self._width) * self._width
        self._check_memory(saliency.size * 8 + self.batch * padded * self.cols * 4)
        with self._context():
            on_device = torch.as_tensor(saliency).to(self.device)
            sums = on_device.sum(dim=2, dtype=torch.float64).amax(dim=1)
            self._tolerances = (RELATIVE_TOLERANCE * sums).float().expand(self.batch).contiguous()
            self._panels = pack(on_device.to(getattr(torch, dtype)), self._width)
            del on_device
            self._gain = torch.empty((self.batch, self.cols, padded), dtype=torch.float32, device=self.device)
            self._losses = torch.empty((self.batch, self.cols), dtype=torch.float32, device=self.device)
            self._values = torch.empty((self.batch, self.groups), dtype=torch.float32, device=self.device)
            self._best_scores = torch.full((self.batch,), -1.0, dtype=torch.float64, device=self.device)
        self.restart(orders)
        self._best = self._order.clone()
        #: float64 (batch,): scores before the latest sweep, in float32's precision.
        self.seen = np.zeros(self.batch)

    @property
    def groups(self) -> int:
        """Number of groups of a problem."""
        return int(self.cols // self.pattern[1])

    def restart(self, orders: npt.NDArray[np.int64] | torch.Tensor) -> None:
        """Start again from other permutations.

        Parameters
        ----------
        orders
            int (batch, cols).
        """
        with self._context():
            self._order = torch.as_tensor(orders).to(self.device, torch.int32, copy=True).contiguous()
            places = torch.arange(self.cols, dtype=torch.int32, device=self.device) // self.pattern[1]
            self._group_of = torch.empty_like(self._order)
            self._group_of.scatter_(1, self._order.long(), places.expand(self.batch, -1))
            everything = torch.arange(self.groups, dtype=torch.int32, device=self.device)
            counts = torch.full((self.batch,), self.groups, dtype=torch.int32, device=self.device)
            self._update(everything.repeat(self.batch, 1), counts, self.groups)

    def sweep(self, temperatures: npt.ArrayLike | None = None) -> npt.NDArray[np.int64]:
        """Choose exchanges of disjoint pairs of groups and apply them.

        Parameters
        ----------
        temperatures
            One for all, or (batch,), in units of the saliency; None for improvements only.

        Returns
        -------
        numpy.ndarray
            int64 (batch,): exchanges applied. Without temperatures, all 0 means that no exchange improves.
        """
        with self._context():
            while True:
                choices, some = choose(
                    self._gain,
                    self._losses,
                    self._order,
                    self._group_of,
                    self.pattern[1],
                    self._tolerances,
                    int(self._rng.integers(1, 2**31)),
                    self._heat(temperatures),
                    ROUNDS,
                )
                carry_out(choices, self._order, self._group_of, self.pattern[1])
                changed = choices >= 0
                counts = changed.sum(dim=1, dtype=torch.int32)
                scores = self._values.sum(dim=1, dtype=torch.float64)
                told = torch.cat((scores, counts.double(), some.double()[None])).cpu().numpy()  # the one transfer
                self.seen = told[: self.batch]
                changes = told[self.batch : -1].astype(np.int64)
                most = int(changes.max())
                if most:
                    listed = torch.argsort(changed.to(torch.int8), dim=1, descending=True, stable=True)[:, :most]
                    self._update(listed.to(torch.int32).contiguous(), counts, most)
                # Should ties have left every group unmatched, another seed breaks them otherwise.
                if most or not told[-1] or temperatures is not None:
                    return changes // 2

    def exchange(self, columns: npt.NDArray[np.int64]) -> None:
        """Exchange two columns of different groups in every problem, whatever it costs.

        Parameters
        ----------
        columns
            int (batch, 2).
        """
        with self._context():
            pairs = torch.as_tensor(columns).to(self.device)
            groups = self._group_of.gather(1, pairs)
            choices = torch.full((self.batch, self.groups), -1, dtype=torch.int64, device=self.device)
            choices.scatter_(1, groups.long(), pairs << 16 | pairs.flip(1))
            carry_out(choices, self._order, self._group_of, self.pattern[1])
            self._update(groups.contiguous(), torch.full_like(groups[:, 0], 2), 2)

    def keep(self) -> None:
        """Remember permutations that score more than all remembered before, without a word to the host."""
        with self._context():
            scores = self._values.sum(dim=1, dtype=torch.float64)
            better = scores > self._best_scores
            self._best = torch.where(better[:, None], self._order, self._best)
            self._best_scores = torch.where(better, scores, self._best_scores)

    def orders(self) -> npt.NDArray[np.int64]:
        """Return the permutations, int64 (batch, cols)."""
        return self._order.cpu().numpy().astype(np.int64)

    def best(self) -> npt.NDArray[np.int64]:
        """Return the permutations that `keep` remembers, int64 (batch, cols), best first by the device's account."""
        first = torch.argsort(self._best_scores, descending=True, stable=True)
        return self._best[first].cpu().numpy().astype(np.int64)

    def mean_loss(self, samples: int = 256) -> npt.NDArray[np.float64]:
        """Average what the exchanges of some columns cost: the scale that temperatures are measured in.

        Parameters
        ----------
        samples
            Columns whose exchanges with all others are looked at.

        Returns
        -------
        numpy.ndarray
            Mean of ``max(-change, 0)``, (batch,).
        """
        with self._context():
            some = torch.as_tensor(self._rng.permutation(self.cols)[:samples]).to(self.device)
            forth = self._gain[:, some, : self.cols] - self._losses[:, some, None]
            back = (self._gain[:, :, some] - self._losses[:, :, None]).transpose(1, 2)
            apart = self._group_of[:, some, None] != self._group_of[:, None, :]
            costs = (-(forth + back)).clamp(min=0) * apart
            mean = costs.sum(dim=(1, 2), dtype=torch.float64) / apart.sum(dim=(1, 2))
            return mean.cpu().numpy()

    def _update(self, groups: torch.Tensor, counts: torch.Tensor, most: int) -> None:
        """Bring thresholds, losses, values and gains of the listed groups up to date, some at a time."""
        m, rows = self.pattern[1], self._panels.shape[2]
        tile = self._tile(most * m)
        step = max(1, CHUNK // (rows * m * self.batch))
        for start in range(0, most, step):
            part = groups[:, start : start + step].contiguous()
            left = (counts - start).clamp(min=0, max=part.shape[1])
            thresholds, base = refresh(
                self._panels, self._order, part, left, self.pattern, tile.slots, self._losses, self._values
            )
            gains.gain(self._panels, thresholds, base, self._order, part, left, m, tile, self._gain)

    def _tile(self, slots: int) -> gains.Tile:
        """Return the tile for a number of slots: a flat one where few programs would be left otherwise."""
        tile = gains.TILES[self._width]
        programs = self.batch * -(-slots // tile.slots) * self._panels.shape[1]
        return tile if programs >= PROGRAMS else gains.FLAT[self._width]

    def _heat(self, temperatures: npt.ArrayLike | None) -> torch.Tensor | None:
        if temperatures is None:
            return None
        each = np.broadcast_to(np.asarray(temperatures, dtype=np.float32), (self.batch,))
        return torch.as_tensor(each.copy()).to(self.device)

    def _context(self) -> AbstractContextManager[object]:
        """Make the device the current one: Triton launches on that."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _check_memory(self, needed: int) -> None:
        """Refuse what cannot fit, before anything is allocated."""
        if self.device.type != "cuda":
            return
        needed += CHUNK * 4
        free, _ = torch.cuda.mem_get_info(self.device)
        if needed > free:  # torch may keep memory that it does not use
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(self.device)
        if needed > free:
            raise DeviceError(
                f"{self.batch} x {self.cols} columns need {needed / 2**30:.1f} GiB on {self.device}, where "
                f"{free / 2**30:.1f} GiB are free; use fewer problems at a time, blocks, or device='cpu'"
            )


def panel_width(batch: int, cols: int) -> int:
    """Return the columns of a panel: as many as leave enough programs to fill the device.

    Parameters
    ----------
    batch
        Problems, or permutations of one.
    cols
        Columns of each.

    Returns
    -------
    int
        128, 64 or 32.
    """
    for width in (128, 64):
        tile = gains.TILES[width]
        if batch * (cols // width) * (cols // tile.slots) >= PROGRAMS:
            return width
    return 32
