"""Numba kernels of the search, each checked against `permsolve.scoring`."""
