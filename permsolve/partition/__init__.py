"""The problem as set partitioning: group values in integers, the linear program, branch and bound."""
