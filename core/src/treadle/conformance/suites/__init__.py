"""What is checked, a module per theme: loads (level L0); kernels, gradients, refusals (level L1).

Each has `blocks()`, which yields Blocks. Training and second order (L2), and fuzzing, concurrency and recovery (L3)
will be further modules here; conformance.runner lists which belong to a level.
"""
