"""`python -m ticker`: the same as the command `ticker`."""

from ticker.cli import main

main()
