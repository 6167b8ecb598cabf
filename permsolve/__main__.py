"""``python -m permsolve``: the command line."""

from permsolve.cli import main

main()
