"""Compensation: the weights that pruning keeps take over, as well as least squares can, what the others did."""
