"""Batched execution of functions of single examples: `td.vmap` and the transforms built on it."""
