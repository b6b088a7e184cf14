"""The graph: its symbolic sizes, values and nodes."""

from treadle.ir import text as text  # a Graph prints itself through it
