"""The errors permsolve raises: one family, each also the built-in kind that callers expect."""

from __future__ import annotations

from pathlib import Path


class PermsolveError(Exception):
    """Base of every error that permsolve raises on purpose."""


class InputError(PermsolveError, ValueError):
    """A matrix, pattern, saliency or other argument that cannot be used."""


class OptionError(InputError):
    """An option of a method that does not exist or has a value it cannot take."""


class UnknownMethodError(InputError):
    """A method name that the registry does not know."""


class UnsupportedProblemError(InputError):
    """A problem that the chosen method says it cannot solve."""


class DocumentError(InputError):
    """A document that does not follow its schema or does not belong to the matrix it is used with."""


class FileError(InputError):
    """A file that cannot be read or written, or does not hold what was asked for.

    Parameters
    ----------
    path
        The file.
    problem
        What is wrong with it, and what to do.
    """

    def __init__(self, path: str | Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)


class CertificateError(InputError):
    """A certificate that does not prove the bound it is said to prove."""


class ModelError(InputError):
    """A model that cannot be traced, or that a plan does not fit."""


class VerificationError(ModelError):
    """Outputs of a model that changed although they must not; the model was put back as it was."""


class SolverError(PermsolveError, RuntimeError):
    """A method broke its contract, for example by offering something that is no permutation."""


class DeviceError(PermsolveError, RuntimeError):
    """A device that is not there, or has not enough memory."""


class MissingDependencyError(PermsolveError, ImportError):
    """A method or feature needs a package that is not installed."""
