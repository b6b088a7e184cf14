"""Factories of the CPU's kernels: every module of this folder declares some with @kernel."""

from importlib import import_module
from pkgutil import iter_modules

MODULES = tuple(
    import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__) if module.name != "common"
)
