"""What is checked, a module per theme: loads (level L0); kernels, gradients, refusals (L1); graphs, randoms (graph).

Each has `blocks()`, which yields Blocks. Training and second order (L2), and concurrency and recovery (L3) will be
further modules here; conformance.runner lists which belong to a level.
"""
