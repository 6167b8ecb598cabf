"""Search procedures that several methods share: Python around the kernels."""
