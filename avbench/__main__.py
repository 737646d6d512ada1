"""`python -m avbench`, the same as `avbench`."""

from avbench.cli import main

main(prog_name="avbench")
