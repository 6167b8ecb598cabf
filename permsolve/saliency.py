"""Saliencies: how much each weight matters."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from permsolve._arrays import to_array
from permsolve.errors import InputError
from permsolve.objectives import OutputError as OutputError

Array = npt.NDArray[Any]

#: Saliencies that need nothing but the weights.
NAMES = ("magnitude", "energy")
#: Saliencies that need activations, which `permsolve.models.calibrate` collects.
CALIBRATED = ("wanda", "ria", "obs", "output_error")
_NEED_ACTIVATIONS = (*CALIBRATED, "sparsegpt")


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
        object.__setattr__(self, "input_norms", _checked_norms("Wanda", self.input_norms))

    @property
    def name(self) -> str:
        """The name written into results and documents."""
        return "wanda"

    def __call__(self, weights: Array) -> Array:
        """Return ``abs(weights) * input_norms`` along axis 1."""
        return np.abs(weights) * _along_channels("Wanda", self.input_norms, weights)


@dataclass(frozen=True, eq=False)
class RIA:
    """Relative importance and activations (Zhang et al., ICLR 2024, "Plug-and-Play").

    The magnitude relative to its row plus the magnitude relative to its column, times the root of the norm of the input
    channel. A row holds what one output channel has at one kernel position; a column what an input channel has in all
    rows. Zeros in an empty row or column count nothing.

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

    def __post_init__(self) -> None:
        """Validate the norms."""
        object.__setattr__(self, "input_norms", _checked_norms("RIA", self.input_norms))

    @property
    def name(self) -> str:
        """The name written into results and documents."""
        return "ria"

    def __call__(self, weights: Array) -> Array:
        """Return the saliency; ``weights`` must be the whole matrix, since its columns are summed."""
        size = np.abs(weights, dtype=np.float64)
        rows = size.sum(axis=1, keepdims=True)
        columns = size.sum(axis=(0, *range(2, weights.ndim)), keepdims=True)
        relative = _share(size, rows) + _share(size, columns)
        scaled: Array = relative * np.sqrt(_along_channels("RIA", self.input_norms, weights))
        return scaled


@dataclass(frozen=True, eq=False)
class OBS:
    """What removing a weight costs if the others of its row make up for it: w^2 over the inverse Hessian's diagonal.

    The Hessian of the squared output error is the second moment of the inputs, the same for every row; it is damped by
    a share of its mean diagonal (Hassibi and Stork, NIPS 1992; the damping as in arXiv 2301.00774). SparseGPT's own
    ranking is another one: it divides by an entry of a Cholesky factor, which depends on the order of the columns.

    Parameters
    ----------
    second_moment
        X^T X of the inputs, perhaps divided by their number, (features, features); symmetric, finite. Of a convolution
        the features are channels and kernel positions, ordered as in ``weights[k].reshape(-1)``.
    damping
        What is added to the diagonal, as a share of its mean. It makes a second moment invertible that is not: one of
        fewer samples than features, or with inputs that are always zero.

    Raises
    ------
    InputError
        If the second moment is not such an array, or even damped cannot be inverted.
    """

    second_moment: Array
    damping: float = 0.01
    #: The diagonal of the inverse of the damped second moment, (features,).
    inverse_diagonal: npt.NDArray[np.float64] = field(init=False, repr=False)
    rowwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Validate the second moment and invert it."""
        needed = "OBS needs the second moment of the inputs: a symmetric array (features, features), finite"
        try:
            moment = to_array(self.second_moment)[1].astype(np.float64, copy=False)
        except InputError as error:
            raise InputError(f"{needed}; {error}") from error
        if moment.ndim != 2 or moment.shape[0] != moment.shape[1] or not moment.size:
            raise InputError(f"{needed}; got shape {moment.shape}")
        if not np.isfinite(moment).all() or np.abs(moment - moment.T).max() > 1e-6 * np.abs(moment).max():
            raise InputError(f"{needed}; this one is not {'symmetric' if np.isfinite(moment).all() else 'finite'}")
        number = isinstance(self.damping, (int, float, np.floating)) and not isinstance(self.damping, bool)
        if not number or not 0 <= self.damping < np.inf:
            raise InputError(f"damping = {self.damping!r} must be a number >= 0, a share of the mean diagonal")
        object.__setattr__(self, "second_moment", moment)
        object.__setattr__(self, "inverse_diagonal", _inverse_diagonal(moment, float(self.damping)))

    @property
    def name(self) -> str:
        """The name written into results and documents."""
        return "obs"

    def __call__(self, weights: Array) -> Array:
        """Return ``weights ** 2`` over the diagonal of the inverse; rows do not depend on each other."""
        features = math.prod(weights.shape[1:])
        if self.inverse_diagonal.size != features:
            raise InputError(
                f"OBS got a second moment of {self.inverse_diagonal.size} features for weights of {features} "
                f"({' x '.join(map(str, weights.shape[1:]))})"
            )
        result: Array = np.square(weights, dtype=np.float64) / self.inverse_diagonal.reshape(weights.shape[1:])
        return result


def _checked_norms(who: str, norms: object) -> Array:
    """Return a copy of the norms of input channels."""
    needed = f"{who} needs the norms of the input channels: a 1-D array, finite and not negative"
    try:
        array = to_array(norms)[1]
    except InputError as error:
        raise InputError(f"{needed}; {error}") from error
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any():
        raise InputError(needed)
    return array.copy()


def _along_channels(who: str, norms: Array, weights: Array) -> Array:
    """Return norms in a shape that multiplies axis 1 of weights."""
    channels = weights.shape[1]
    if norms.shape[0] != channels:
        raise InputError(f"{who} got {norms.shape[0]} norms for {channels} input channels")
    return norms.reshape((1, -1) + (1,) * (weights.ndim - 2))


def _share(part: Array, whole: Array) -> Array:
    """Return part over whole, and 0 where both are."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _inverse_diagonal(moment: Array, damping: float) -> npt.NDArray[np.float64]:
    """Return the diagonal of the inverse of a damped second moment, by its Cholesky factor."""
    from scipy.linalg import lapack

    mean = float(np.trace(moment)) / len(moment)
    damped = moment.copy()
    damped[np.diag_indices_from(damped)] += damping * mean
    factor, fault = lapack.dpotrf(damped, lower=1, overwrite_a=1)
    pivots = np.square(np.diagonal(factor))
    # Of a singular matrix rounding may leave pivots that are tiny instead of zero.
    if fault or mean <= 0 or pivots.min() <= len(moment) * np.finfo(np.float64).eps * pivots.max():
        raise InputError(
            "the second moment cannot be inverted: there are fewer samples than features, or inputs that are always "
            f"zero or depend on each other; give OBS more samples, or a damping above {damping:g} (0.01 is usual)"
            if mean > 0
            else "the second moment is zero or negative: the inputs that it is made of are all zero"
        )
    inverse, fault = lapack.dtrtri(factor, lower=1)
    assert not fault  # its diagonal was looked at
    return np.asarray(np.square(np.tril(inverse)).sum(axis=0), dtype=np.float64)


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
                f"permsolve.saliency.Wanda(input_norms) or the saliency itself as an array; for models give "
                f"calibration=permsolve.models.calibrate(model, batches)"
            )
        raise InputError(f"unknown saliency {spec!r}; known by name: {', '.join(NAMES)}")
    if isinstance(spec, type):
        raise InputError(f"saliency {spec.__name__} is a class; pass an instance, for example Wanda(input_norms)")
    if isinstance(spec, (Saliency, OutputError)):
        return spec.name, spec
    if spec is None:
        raise InputError(f"saliency is None; give one of {', '.join(NAMES)}, an array or a saliency object")
    return "array", spec
