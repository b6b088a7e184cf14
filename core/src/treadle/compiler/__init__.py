"""From a Python function to one Graph (trace), and from a Graph to something that runs (lower, execute)."""
