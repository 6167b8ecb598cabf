"""One compressed format for all patterns: values, packed positions, and per tile the channels that its slots read.

Every pattern keeps n of every ``width`` *slots* of a row, and the slots of a tile of rows read input channels by an
index vector:

=============  =======================  ===================================  ==========
pattern        rows of a tile           slots of a tile                      width
=============  =======================  ===================================  ==========
n:m            all                      the permuted columns                 m
HiNM           vector                   the columns it keeps, in groups      m
V:N:M          vector                   four columns of every group          4
transposable   all                      the permuted columns                 m
=============  =======================  ===================================  ==========

So one kernel runs them all, and neither permutation costs anything of its own: the index says what a slot reads,
``rows`` where an output goes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from permsolve.errors import InputError
from permsolve.patterns import NM, VNM, HiNM, Pattern, Transposable, parse
from permsolve.patterns.vnm import WIDTH

Mask = npt.NDArray[np.bool_]

#: Types that values may have.
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed weight matrix. Make one with `compress`.

    Parameters
    ----------
    pattern
        The sparsity pattern.
    shape
        (rows, cols) of the weights: output and input channels.
    values
        (rows, stored): the kept weights of the stored rows, in order of their slots; zeros where a group keeps fewer.
    positions
        uint8 (rows, bytes): for each value its place in its group of slots, `bits` bits each, lowest bits first.
    index
        int32 (tiles, slots): the input channel that a slot reads.
    rows
        int32 (rows,): the output channel of each stored row; tile t stores rows ``t * height`` to
        ``(t + 1) * height - 1``.
    """

    pattern: Pattern
    shape: tuple[int, int]
    values: torch.Tensor
    positions: torch.Tensor
    index: torch.Tensor
    rows: torch.Tensor

    def __post_init__(self) -> None:
        """Check that everything fits together."""
        rows, cols = self.shape
        if min(rows, cols) < 1:
            raise InputError(f"compressed weights have rows and columns, got shape ({rows}, {cols})")
        self.pattern.validate((rows, cols))
        slots = slots_of(self.pattern, cols)
        stored = slots // self.width * self.n
        for name, wanted, kinds in (
            ("values", (rows, stored), DTYPES),
            ("positions", (rows, -(-stored * self.bits // 8)), (torch.uint8,)),
            ("index", (rows // self.height, slots), (torch.int32,)),
            ("rows", (rows,), (torch.int32,)),
        ):
            tensor = getattr(self, name)
            if tuple(tensor.shape) != wanted or tensor.dtype not in kinds:
                allowed = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
                raise InputError(
                    f"{name} of compressed {self.pattern} of {rows} x {cols} is {allowed} of shape {wanted}, "
                    f"got {str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}"
                )
        devices = {str(getattr(self, name).device) for name in ("values", "positions", "index", "rows")}
        if len(devices) > 1:
            raise InputError(f"all tensors of compressed weights lie on one device, got {', '.join(sorted(devices))}")

    @property
    def n(self) -> int:
        """Values of each group of slots."""
        return self.pattern.n

    @property
    def width(self) -> int:
        """Slots of a group."""
        return width_of(self.pattern)

    @property
    def height(self) -> int:
        """Rows of a tile."""
        return getattr(self.pattern, "vector", self.shape[0])

    @property
    def bits(self) -> int:
        """Bits of a position: 1, 2, 4 or 8, so that none straddles two bytes."""
        return bits_of(self.pattern)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return self.values.device

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(each.nbytes for each in (self.values, self.positions, self.index, self.rows))

    def places(self) -> torch.Tensor:
        """Return the unpacked positions.

        Returns
        -------
        torch.Tensor
            uint8 (rows, stored): the slot in its group that each value stands in.
        """
        per_byte = 8 // self.bits
        shifts = torch.arange(per_byte, device=self.device, dtype=torch.uint8) * self.bits
        spread = (self.positions[:, :, None] >> shifts) & ((1 << self.bits) - 1)
        return spread.flatten(1)[:, : self.values.shape[1]]

    def slots(self) -> torch.Tensor:
        """Return the slot of each value in its tile.

        Returns
        -------
        torch.Tensor
            int64 (rows, stored).
        """
        group = torch.arange(self.values.shape[1], device=self.device) // self.n
        return group * self.width + self.places().long()

    def channels(self) -> torch.Tensor:
        """Return the input channel that each value is multiplied with.

        Returns
        -------
        torch.Tensor
            int64 (rows, stored).
        """
        tile = torch.arange(self.shape[0], device=self.device) // self.height
        return self.index.long()[tile[:, None], self.slots()]

    def to_dense(self) -> torch.Tensor:
        """Return the weights, in their own order.

        Returns
        -------
        torch.Tensor
            (rows, cols).
        """
        dense = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        return dense.index_put_((self.rows.long()[:, None], self.channels()), self.values, accumulate=True)

    def to(self, *args: Any, **options: Any) -> Compressed:
        """Move to a device, or convert the values.

        Parameters
        ----------
        args, options
            As in ``torch.Tensor.to``; a type is that of the values.

        Returns
        -------
        Compressed
            The copy.
        """
        values = self.values.to(*args, **options)
        others = {name: getattr(self, name).to(values.device) for name in ("positions", "index", "rows")}
        return dataclasses.replace(self, values=values, **others)

    def check(self) -> Compressed:
        """Check what the tensors hold, which takes a pass over them: files may be corrupt.

        Returns
        -------
        Compressed
            Itself.

        Raises
        ------
        InputError
            If `check_structure` finds a fault, or values are NaN or infinite.
        """
        self.check_structure()
        if not bool(torch.isfinite(self.values).all()):
            raise InputError("compressed weights hold NaN or infinite values")
        return self

    def check_structure(self) -> None:
        """Check everything but the values: kernels read and write wherever index, positions and rows say.

        Raises
        ------
        InputError
            If rows are no permutation, a slot reads no channel or one twice, a position lies outside its group, or
            there are no data (on the meta device).
        """
        if self.values.is_meta:
            raise InputError("compressed weights are on the meta device, without data; load them first")
        rows, cols = self.shape
        if not torch.equal(self.rows.sort().values, torch.arange(rows, dtype=torch.int32, device=self.device)):
            raise InputError(f"rows of compressed weights must be a permutation of 0 .. {rows - 1}")
        ordered = self.index.sort(dim=1).values
        if int(ordered[:, 0].min()) < 0 or int(ordered[:, -1].max()) >= cols:
            raise InputError(f"index of compressed weights must lie in 0 .. {cols - 1}")
        if bool((ordered[:, 1:] == ordered[:, :-1]).any()):
            raise InputError("index of compressed weights names a channel twice in one tile")
        places = self.places().view(rows, -1, self.n).long()
        if int(places.max()) >= self.width:
            raise InputError(f"a position of compressed weights lies outside its group of {self.width}")
        if bool((places[:, :, 1:] <= places[:, :, :-1]).any()):
            raise InputError("the positions of a group of compressed weights do not ascend")


def width_of(pattern: Pattern) -> int:
    """Return the slots of a group.

    Parameters
    ----------
    pattern
        The pattern.

    Returns
    -------
    int
        m, or 4 for V:N:M.
    """
    return WIDTH if isinstance(pattern, VNM) else pattern.m


def bits_of(pattern: Pattern) -> int:
    """Return the bits of a position in its group.

    Parameters
    ----------
    pattern
        The pattern.

    Returns
    -------
    int
        1, 2, 4 or 8.

    Raises
    ------
    InputError
        If its groups have more than 256 slots.
    """
    width = width_of(pattern)
    for bits in (1, 2, 4, 8):
        if width <= 1 << bits:
            return bits
    raise InputError(f"{pattern} has no compressed format: its groups have {width} slots, and 8 bits tell 256 apart")


def slots_of(pattern: Pattern, cols: int) -> int:
    """Return the slots of a tile.

    Parameters
    ----------
    pattern
        The pattern.
    cols
        Number of columns.

    Returns
    -------
    int
        A multiple of `width_of`.
    """
    if isinstance(pattern, HiNM):
        return pattern.kept(cols)
    return cols // pattern.m * width_of(pattern)


def compress(
    weight: torch.Tensor, pattern: object = "2:4", solution: Any = None, *, mask: torch.Tensor | Mask | None = None
) -> Compressed:
    """Compress a weight matrix.

    Parameters
    ----------
    weight
        (rows, cols): float16, bfloat16, float32 or float64, dense or already pruned.
    pattern
        The sparsity pattern, or what `permsolve.patterns.parse` reads.
    solution
        The pattern's solution for this matrix (``Result.solution``): where the groups are. By default nothing is
        permuted; HiNM and V:N:M tiles keep their columns of largest sums.
    mask
        bool (rows, cols): what is kept. By default the largest magnitudes under the solution.

    Returns
    -------
    Compressed
        The compressed weights, on the weight's device.

    Raises
    ------
    InputError
        If the weight, the solution or the mask is not of the pattern.
    """
    chosen = parse(pattern)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 2 or weight.dtype not in DTYPES:
        what = f"{weight.dtype} of shape {tuple(weight.shape)}" if isinstance(weight, torch.Tensor) else type(weight)
        raise InputError(f"weights to compress are a 2-D tensor of float16, bfloat16, float32 or float64, got {what}")
    if weight.is_meta or weight.layout != torch.strided:
        what = "on the meta device, without values" if weight.is_meta else f"stored as {weight.layout}"
        raise InputError(f"weights to compress are dense, these are {what}: load them, or convert them by to_dense()")
    bits_of(chosen)
    weight = weight.detach()
    rows, cols = weight.shape
    chosen.validate((rows, cols))
    magnitude = weight.abs().to(torch.float64).cpu().numpy()
    if not np.isfinite(magnitude).all():
        raise InputError("weights to compress hold NaN or infinite entries")
    if solution is None:
        from permsolve.problem import Problem

        solution = Problem.of(magnitude, chosen).start
    solution = chosen.check_solution(solution, (rows, cols))
    kept = chosen.mask(magnitude, solution) if mask is None else _mask(mask, (rows, cols))
    order, index = _layout(chosen, solution, rows)
    return _packed(weight, chosen, order, index, kept)


def _mask(mask: torch.Tensor | Mask, shape: tuple[int, int]) -> Mask:
    array = mask.cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
    if array.shape != shape or array.dtype != np.bool_:
        raise InputError(f"a mask of these weights is bool of shape {shape}, got {array.dtype} of shape {array.shape}")
    return array


def _layout(pattern: Pattern, solution: Any, rows: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the order of the stored rows, and the channels of every tile's slots."""
    if isinstance(pattern, NM):
        return np.arange(rows), solution[None]
    if isinstance(pattern, Transposable):
        return solution.rows, solution.columns[None]
    if isinstance(pattern, VNM):
        return solution.rows, solution.absolute()
    if isinstance(pattern, HiNM):
        return solution.rows, solution.columns
    raise InputError(f"{pattern} has no compressed format")


def _packed(
    weight: torch.Tensor,
    pattern: Pattern,
    order: npt.NDArray[np.int64],
    index: npt.NDArray[np.int64],
    kept: Mask,
) -> Compressed:
    rows, width = len(order), width_of(pattern)
    height = rows // len(index)
    per_row = np.repeat(index, height, axis=0)
    inside = np.take_along_axis(kept[order], per_row, axis=1)
    if inside.sum() != kept.sum():
        raise InputError(f"the mask is not of {pattern} under this solution: it keeps weights that no slot reads")
    groups = inside.reshape(rows, -1, width)
    most = int(groups.sum(axis=2).max())
    if most > pattern.n:
        raise InputError(f"the mask is not of {pattern} under this solution: it keeps {most} weights of one group")
    # Of each group the kept slots, padded with others to n, in ascending order.
    places = np.sort(np.argsort(~groups, axis=2, kind="stable")[:, :, : pattern.n], axis=2)
    first = np.arange(groups.shape[1])[:, None] * width
    slots = (places + first).reshape(rows, -1)
    channels = torch.from_numpy(np.take_along_axis(per_row, slots, axis=1))
    present = torch.from_numpy(np.take_along_axis(inside, slots, axis=1))
    at = torch.tensor(order)[:, None], channels  # a copy: solutions of results cannot be written to
    device = weight.device
    values = weight[at[0].to(device), at[1].to(device)].masked_fill(~present.to(device), 0)
    return Compressed(
        pattern=pattern,
        shape=(rows, weight.shape[1]),
        values=values.contiguous(),
        positions=torch.from_numpy(pack(places.reshape(rows, -1), bits_of(pattern))).to(device),
        index=torch.from_numpy(index.astype(np.int32)).to(device),
        rows=torch.from_numpy(order.astype(np.int32)).to(device),
    )


def pack(places: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.uint8]:
    """Pack small numbers, several to a byte, lowest bits first.

    Parameters
    ----------
    places
        (rows, count), each below ``2 ** bits``.
    bits
        1, 2, 4 or 8.

    Returns
    -------
    numpy.ndarray
        uint8 (rows, ceil(count * bits / 8)).
    """
    per_byte = 8 // bits
    rows, count = places.shape
    padded = np.zeros((rows, -(-count // per_byte) * per_byte), dtype=np.uint8)
    padded[:, :count] = places
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    packed: npt.NDArray[np.uint8] = np.bitwise_or.reduce(padded.reshape(rows, -1, per_byte) << shifts, axis=2)
    return packed
