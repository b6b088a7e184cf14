"""The reverse walk, grad modes, transforms, user functions and numeric checks.

`td.autograd` shows their public names.
"""
