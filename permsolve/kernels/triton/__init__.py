"""Triton kernels of the search on a GPU, each checked against `permsolve.scoring` in Triton's interpreter.

Nothing imports this package unless a device is asked for: its modules import torch and triton.
"""
