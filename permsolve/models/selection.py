"""Which weights a user means: names, patterns of names, or a function."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from permsolve.errors import InputError

#: What a user writes: a name or pattern, several of them, or a function of a weight's path and its module.
Filter = str | Iterable[str] | Callable[[str, nn.Module], bool]


class Selection:
    """A filter of weights that remembers which of its patterns have matched something.

    Parameters
    ----------
    layers
        The filter; None chooses all.

    Raises
    ------
    InputError
        If it is no filter.
    """

    def __init__(self, layers: Filter | None) -> None:
        self._rule: Callable[[str, nn.Module], bool] | None = None
        self._patterns: dict[str, bool] | None = None
        self._names: list[str] = []
        if layers is None:
            return
        if isinstance(layers, str):
            layers = [layers]
        if isinstance(layers, Iterable):
            patterns = list(layers)
            if not all(isinstance(pattern, str) for pattern in patterns):
                raise InputError(
                    "layers: every entry must be a name or a pattern of names, for example 'encoder.*.fc1'"
                )
            self._patterns = dict.fromkeys(patterns, False)
        elif callable(layers):
            self._rule = layers
        else:
            raise InputError(f"layers = {layers!r} is no filter; give names or patterns, or a function (name, module)")

    def names_one(self, names: Sequence[str]) -> bool:
        """Return whether a weight is called by its name, not by a pattern that it happens to match.

        Parameters
        ----------
        names
            All names of the weight.

        Returns
        -------
        bool
            True if so.
        """
        return self._patterns is not None and any(name in self._patterns for name in names)

    def chooses(self, path: str, module: nn.Module, names: Sequence[str]) -> bool:
        """Return whether the filter chooses a weight.

        Parameters
        ----------
        path
            The weight's path.
        module
            Its module.
        names
            All its names.

        Returns
        -------
        bool
            True if so.
        """
        self._names += names
        if self._rule is not None:
            return bool(self._rule(path, module))
        if self._patterns is None:
            return True
        hits = [pattern for pattern in self._patterns if any(fnmatchcase(name, pattern) for name in names)]
        self._patterns.update(dict.fromkeys(hits, True))
        return bool(hits)

    def check(self) -> None:
        """Check that every pattern has matched a weight.

        Raises
        ------
        InputError
            If one has not.
        """
        for pattern, matched in (self._patterns or {}).items():
            if not matched:
                raise InputError(f"layers: {pattern!r} matches no weight; {close_names(pattern, self._names)}")


def close_names(name: str, known: Sequence[str]) -> str:
    """Say which names resemble one that does not exist.

    Parameters
    ----------
    name
        The name.
    known
        The names that exist.

    Returns
    -------
    str
        The end of a sentence.
    """
    known = list(dict.fromkeys(known))
    if not known:
        return "the model has no weights with input channels"
    part = name.strip("*?.")
    close = difflib.get_close_matches(name, known, n=3) or [text for text in known if part and part in text][:3]
    return f"close to it: {', '.join(close)}" if close else f"there are, for example, {', '.join(known[:3])}"
