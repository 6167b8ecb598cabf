"""Triton kernels that multiply compressed weights on a GPU; each is checked against float64 in Triton's interpreter.

`permsolve.sparse.on_device` launches them. Nothing else imports this package: its modules import triton.
"""
