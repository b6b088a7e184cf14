"""What can be timed: each name with its adapter and the packages it needs."""

from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

OURS = "treadle_compiled"


class Framework(NamedTuple):
    module: str  # of this package, imported only by the worker of this framework
    adapter: str  # a class in it with a method per workload
    packages: tuple[str, ...]


FRAMEWORKS = {
    OURS: Framework("with_treadle", "Compiled", ("treadle", "treadle_backend_cpu")),
    "treadle": Framework("with_treadle", "Eager", ("treadle", "treadle_backend_cpu")),
    "torch": Framework("with_torch", "Eager", ("torch",)),
    "torch_tuned": Framework("with_torch", "Tuned", ("torch",)),
    "torch_compile": Framework("with_torch", "Compiled", ("torch",)),
    "jax": Framework("with_jax", "Jax", ("jax",)),
    "tf": Framework("with_tensorflow", "Function", ("tensorflow",)),
    "tf_xla": Framework("with_tensorflow", "Xla", ("tensorflow",)),
    "ort": Framework("with_ort", "Ort", ("torch", "onnx", "onnxruntime")),
}


def missing(name):
    """The packages that a framework needs and that are not installed."""
    return [package for package in FRAMEWORKS[name].packages if find_spec(package) is None]


def adapter(name):
    """A framework's adapter, made: an object with a method per workload, each of which returns a step.

    A step is a function of no arguments that does the work once and returns its result; a method that is absent or
    None is a workload that is not timed. Beside them an adapter has `version`, `warm()` (compile something trivial),
    `sync(out)` (wait for a result) and `array(out)` (it as NumPy has it).
    """
    framework = FRAMEWORKS[name]
    return getattr(import_module(f"peers.{framework.module}"), framework.adapter)()
