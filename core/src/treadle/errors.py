"""The exception tree: every error says what was wrong, what was given and what would do.

    TreadleError(RuntimeError)
    ├─ ShapeError(ValueError)           shapes that do not fit each other or the op
    │  └─ DimError                      a symbolic size where Python needs a number, or sizes that do not match it
    ├─ DTypeError(TypeError)            a dtype the op or the promotion rules refuse
    ├─ ArgumentError(ValueError)        an attribute or argument outside its range
    ├─ IndexRangeError(IndexError)      an index outside its axis
    ├─ DeviceError                      operands on different devices, an unknown device
    │  └─ BackendUnavailable            the plugin behind a device cannot be used here
    ├─ UnsupportedError(NotImplementedError)  no kernel, decomposition or permitted fallback
    ├─ OutOfMemoryError(MemoryError)    an allocation that cannot be had
    ├─ AutogradError                    misuse of the tape
    ├─ TraceError                       what a function being compiled cannot do
    ├─ BatchError                       what a function under vmap cannot do
    ├─ GraphError                       a graph in which something does not hold
    │  └─ VerifyError                   a compiled function that differs from eager
    ├─ ContractError                    a plugin that breaks the backend contract
    └─ FormatError(ValueError)          a damaged or foreign file

Each also derives from the built-in exception that PyTorch or Python would raise there, so existing ``except`` clauses
keep working.
"""


class TreadleError(RuntimeError):
    """Base of all errors raised by Treadle."""


class ShapeError(TreadleError, ValueError):
    """Shapes that do not fit each other or the op."""


class DimError(ShapeError):
    """A symbolic size that Python needs as a number, or actual sizes that do not match symbolic ones."""


class DTypeError(TreadleError, TypeError):
    """A dtype that the op or the promotion rules refuse."""


class ArgumentError(TreadleError, ValueError):
    """An argument outside its range or of the wrong kind."""


class IndexRangeError(TreadleError, IndexError):
    """An index outside its axis."""


class DeviceError(TreadleError):
    """Operands on different devices, or a device nobody provides."""


class BackendUnavailable(DeviceError):
    """The plugin behind a device is installed but cannot be used here; the text says why and what would help."""


class UnsupportedError(TreadleError, NotImplementedError):
    """No kernel, no decomposition and no permitted fallback for a call."""


class OutOfMemoryError(TreadleError, MemoryError):
    """An allocation that cannot be had."""


class AutogradError(TreadleError):
    """Misuse of the tape: a second backward, a write over a saved value, a gradient of what has none."""


class TraceError(TreadleError):
    """Something a function that is being traced cannot do: read a value, branch on one, let a traced tensor escape."""


class BatchError(TreadleError):
    """Something a function under vmap cannot do: read one value of many, write a batch into a tensor without one, let a
    batched tensor escape."""


class GraphError(TreadleError):
    """A graph in which something does not hold that must: an operand nobody made, a type that its op does not give."""


class VerifyError(TraceError):
    """A compiled function that gives something else than eager does (found with TREADLE_VERIFY=1)."""


class ContractError(TreadleError):
    """A plugin that breaks the backend contract."""


class FormatError(TreadleError, ValueError):
    """A damaged or foreign file."""
