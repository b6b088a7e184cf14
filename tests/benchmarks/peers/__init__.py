"""Treadle's compiled step beside JAX, TensorFlow, torch.compile, PyTorch eager and ONNX Runtime: the `peers` mode.

`python tests/benchmarks/peers` runs it; __main__.py says how. The parts, from the inside out:

  frameworks.py   what can be timed, and which packages that needs
  with_*.py       the programs of ../programs.py in each framework, one adapter class per way to run it
  worker.py       the process of one framework: builds a program, checks its results, times chunks
  harness.py      starts the workers and times them in turn
  table.py        records to a Markdown table
"""
