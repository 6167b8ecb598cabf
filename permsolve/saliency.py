"""Saliencies: how much each weight matters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from permsolve._arrays import to_array
from permsolve.errors import InputError

Array = npt.NDArray[Any]

#: Saliencies that need nothing but the weights.
NAMES = ("magnitude", "energy")
_NEED_ACTIVATIONS = ("wanda", "ria", "obs", "sparsegpt")


@runtime_checkable
class Saliency(Protocol):
    """An object that turns weights into saliency and carries whatever it needs for that.

    One with a true attribute ``rowwise`` is called for blocks of rows, which saves memory: the saliency of a row then
    depends on that row alone. Any other is called once, with the whole matrix.
    """

    @property
    def name(self) -> str:
        """The name written into results and documents."""

    def __call__(self, weights: Array) -> Array:
        """Return the saliency, entries >= 0, in the shape of ``weights``; the channel axis is axis 1."""


@dataclass(frozen=True)
class Magnitude:
    """The absolute value of each weight."""

    name: str = "magnitude"
    rowwise: ClassVar[bool] = True

    def __call__(self, weights: Array) -> Array:
        """Return ``abs(weights)``."""
        return np.abs(weights)


@dataclass(frozen=True)
class Energy:
    """The square of each weight, in float64 so that small weights do not vanish."""

    name: str = "energy"
    rowwise: ClassVar[bool] = True

    def __call__(self, weights: Array) -> Array:
        """Return ``weights ** 2``."""
        return np.square(weights, dtype=np.float64)


@dataclass(frozen=True, eq=False)
class Wanda:
    """Magnitude times the norm of the input channel (Sun et al., ICLR 2024, arXiv 2306.11695).

    Parameters
    ----------
    input_norms
        Euclidean norm of each input channel's activations, shape (cols,), finite and >= 0.

    Raises
    ------
    InputError
        If the norms are not such an array.
    """

    input_norms: Array
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Validate the norms."""
        needed = "Wanda needs the norms of the input channels: a 1-D array, finite and not negative"
        try:
            norms = to_array(self.input_norms)[1]
        except InputError as error:
            raise InputError(f"{needed}; {error}") from error
        if norms.ndim != 1 or not np.isfinite(norms).all() or (norms < 0).any():
            raise InputError(needed)
        object.__setattr__(self, "input_norms", norms.copy())

    @property
    def name(self) -> str:
        """The name written into results and documents."""
        return "wanda"

    def __call__(self, weights: Array) -> Array:
        """Return ``abs(weights) * input_norms`` along axis 1."""
        channels = weights.shape[1]
        if self.input_norms.shape[0] != channels:
            raise InputError(f"Wanda got {self.input_norms.shape[0]} norms for {channels} input channels")
        return np.abs(weights) * self.input_norms.reshape((1, -1) + (1,) * (weights.ndim - 2))


def resolve(spec: object) -> tuple[str, object]:
    """Turn what a user writes into a name and a saliency.

    Parameters
    ----------
    spec
        A name, an object following `Saliency`, or an array.

    Returns
    -------
    tuple
        The name, and the object; ``"array"`` and what was given for anything that is no such object.

    Raises
    ------
    InputError
        If the name is unknown or needs activations.
    """
    if isinstance(spec, str):
        if spec == "magnitude":
            return spec, Magnitude()
        if spec == "energy":
            return spec, Energy()
        if spec in _NEED_ACTIVATIONS:
            raise InputError(
                f"saliency {spec!r} needs activations, which a name cannot carry; pass an object such as "
                f"permsolve.saliency.Wanda(input_norms) or the saliency itself as an array"
            )
        raise InputError(f"unknown saliency {spec!r}; known by name: {', '.join(NAMES)}")
    if isinstance(spec, type):
        raise InputError(f"saliency {spec.__name__} is a class; pass an instance, for example Wanda(input_norms)")
    if isinstance(spec, Saliency):
        return spec.name, spec
    if spec is None:
        raise InputError(f"saliency is None; give one of {', '.join(NAMES)}, an array or a saliency object")
    return "array", spec
