"""Random programs: short functions over the declared ops, with views, writes and gradients, made from a seed.

program: what a program is, and its text · places: how its inputs lie in memory · generate: one from a seed · twin: what
it must give, in NumPy · noise: how far rounding may move that · check: whether a device agrees · shrink: a smaller
program with the same fault · script: that as a script of its own.
"""
