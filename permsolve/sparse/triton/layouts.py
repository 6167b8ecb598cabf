"""Compressed weights as the kernels read them: bits, in words."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch

from permsolve.errors import DeviceError
from permsolve.sparse.compressed import Compressed

_BITS = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
#: Types that the kernels multiply.
KINDS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
#: Finest division of tiles into programs, and most programs side by side, that `Layout.arrived` has counters for.
FEWEST_ROWS, MOST_ACROSS = 16, 16
#: Slots of a group from which on its channels take too many registers.
WIDEST = 16

_known: weakref.WeakKeyDictionary[Compressed, tuple[int, Layout]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Layout:
    """Compressed weights for the kernels; shares the tensors' memory wherever their shapes allow.

    Parameters
    ----------
    values
        int16 or int32 (rows, stored): the values' bits; stored is n times the groups, and padded with zeros.
    positions
        uint8 (rows, bytes): as in `Compressed`, whole words of 32 bits.
    index
        int32 (tiles, slots).
    rows
        int32 (rows,).
    arrived
        int32: counters of programs that have left their sums; zero before and after every launch.
    kind
        ``"fp16"``, ``"bf16"`` or ``"fp32"``.
    n
        Values of a group, a power of two.
    width
        Slots of a group.
    bits
        Bits of a position.
    height
        Rows of a tile.
    ordered
        Whether stored rows are in the order of the outputs.
    """

    values: torch.Tensor
    positions: torch.Tensor
    index: torch.Tensor
    rows: torch.Tensor
    arrived: torch.Tensor
    kind: str
    n: int
    width: int
    bits: int
    height: int
    ordered: bool

    @property
    def size(self) -> int:
        """Bits of a value."""
        return 8 * self.values.element_size()

    @property
    def together(self) -> int:
        """Values that a thread loads at once: 16 bytes, if their positions fill a byte and they fill a group."""
        return max(128 // self.size, 8 // self.bits, self.n)

    @property
    def fits_vectors(self) -> bool:
        """Whether `vectors` can multiply them."""
        return self.width <= WIDEST and self.together * self.bits <= 64

    def words(self, bits: int) -> torch.Tensor:
        """Return the packed positions in words.

        Parameters
        ----------
        bits
            Bits of a word: 8, 16, 32 or 64.

        Returns
        -------
        torch.Tensor
            (rows, words).
        """
        return self.positions.view(_BITS[bits])


def layout_of(weights: Compressed) -> Layout:
    """Return the layout of compressed weights, made when it is first asked for and kept as long as they are.

    Parameters
    ----------
    weights
        The weights: float16, bfloat16 or float32.

    Returns
    -------
    Layout
        The layout.

    Raises
    ------
    DeviceError
        If there is none yet and a CUDA graph is being captured.
    InputError
        If the tensors are not those of compressed weights.
    """
    version = 0 if weights.values.is_inference() else weights.values._version
    found = _known.get(weights)
    if found is None or (found[0] != version and found[1].values.data_ptr() != weights.values.data_ptr()):
        if weights.values.is_cuda and torch.cuda.is_current_stream_capturing():
            raise DeviceError(
                "these weights have no layout yet, and making one waits for the device, which a CUDA graph's capture "
                "does not allow: multiply once before capturing"
            )
        if found is None:
            weights.check_structure()
        found = (version, _make(weights))
        _known[weights] = found
    return found[1]


def _make(weights: Compressed) -> Layout:
    rows, bits = weights.shape[0], weights.bits
    n = 1 << (weights.n - 1).bit_length()
    values, positions = weights.values.detach(), weights.positions
    groups = values.shape[1] // weights.n
    # Whole words of positions, whole groups, whole 16 bytes of values.
    unit = max(32 // bits, n, 8)
    stored = -(-groups * n // unit) * unit
    if stored != values.shape[1]:
        wide = values.new_zeros((rows, stored))
        wide[:, : groups * n].view(rows, groups, n)[:, :, : weights.n] = values.view(rows, groups, -1)
        places = torch.zeros((rows, stored), dtype=torch.uint8, device=values.device)
        places[:, : groups * n].view(rows, groups, n)[:, :, : weights.n] = weights.places().view(rows, groups, -1)
        shifts = torch.arange(8 // bits, device=values.device, dtype=torch.uint8) * bits
        values, positions = wide, (places.view(rows, -1, 8 // bits) << shifts).sum(dim=2, dtype=torch.uint8)
    chunks = weights.index.shape[0] * -(-weights.height // FEWEST_ROWS)
    order = torch.arange(rows, dtype=torch.int32, device=values.device)
    return Layout(
        values=values.contiguous().view(_BITS[8 * values.element_size()]),
        positions=positions.contiguous(),
        index=weights.index.contiguous(),
        rows=weights.rows.contiguous(),
        arrived=torch.zeros(chunks * MOST_ACROSS, dtype=torch.int32, device=values.device),
        kind=KINDS[values.dtype],
        n=n,
        width=weights.width,
        bits=bits,
        height=weights.height,
        ordered=bool(torch.equal(weights.rows, order)),
    )
