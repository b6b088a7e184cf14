"""Run the demonstration: ``python -m treadle.demo [folder]``."""

import sys

from treadle.demo.training import run

if __name__ == "__main__":
    run(*sys.argv[1:2])
