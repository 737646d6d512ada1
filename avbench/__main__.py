"""`python -m avbench`, the same as `avbench`."""

from avbench.cli import main

if __name__ == "__main__":  # a worker process imports this module too
    main(prog_name="avbench")
