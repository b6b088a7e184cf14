"""The eager engine: gives every op its function. Importing it is what makes calls of ops run kernels."""

from typing import Any

from treadle import _tensor
from treadle._tensor import Tensor, make_view
from treadle.eager import codegen, lists, resolve
from treadle.eager.inplace import copy_, inplace_method, write_values
from treadle.eager.lists import run_inplace_list
from treadle.errors import DTypeError
from treadle.op import CATALOGUE, FN, INSTALLERS, INTERPRETER, REQUIRED, STATE, Op

__all__ = ["copy_", "install", "inplace_method", "run_inplace_list", "write_values"]

_VIEW = """
def {name}({parameters}):
    if STATE.special:
        i = INTERPRETER.get()
        if i is not None: return i(OP, (x,), ({attrs}))
    try: sig, offset = x.sig.{name}[{key}]
    except (KeyError, AttributeError, TypeError): pass
    else: return make_view(x, sig, offset)
    return resolve_view(OP, x, ({attrs}))
"""


def view_function(op: Op) -> Any:
    """The function of a view op: a look-up of the new sig, and a handle."""
    attrs = list(op.attrs)
    parameters = ", ".join(["x"] + [a if d is REQUIRED else f"{a}=ATTR_{a}" for a, d in op.attrs.items()])
    key = attrs[0] if len(attrs) == 1 else ", ".join(attrs)
    source = _VIEW.format(name=op.name, parameters=parameters, attrs="".join(f"{a}, " for a in attrs), key=key)
    scope: dict[str, Any] = {
        "OP": op,
        "STATE": STATE,
        "INTERPRETER": INTERPRETER,
        "resolve_view": resolve.resolve_view,
        "make_view": make_view,
    }
    scope |= {f"ATTR_{a}": d for a, d in op.attrs.items()}
    exec(compile(source, f"<op {op.name}>", "exec"), scope)
    return scope[op.name]


def install(op: Op) -> None:
    """Give an op its eager function."""
    if op.category != "create":  # creation installs these: they have no operand to take a device from
        _install(op)
        FN[op.name] = op.fn


def _install(op: Op) -> None:
    if op.tier == "view":
        op.fn = view_function(op)
    elif op.category == "lists":
        op.fn = lists.lists_function(op)
    elif op.category == "fused":
        op.fn = lists.fused_function(op)
    elif any(i.many for i in op.inputs):
        op.fn = lists.variadic_function(op)
    elif op.tier == "host":
        op.fn = _host_function(op)
    else:
        op.fn = codegen.make_function(op)
        if op.category == "binary":
            resolve.REVERSED[op.name] = codegen.make_reversed(op)


def _host_function(op: Op) -> Any:
    """The result's shape depends on the data, so there is no row: reference on host copies, every time."""

    def function(x: Any, **attrs: Any) -> Any:
        if not isinstance(x, Tensor):
            raise DTypeError(f"{op.name}: operand 'x' must be a tensor, not {type(x).__name__}")
        if STATE.special and (i := INTERPRETER.get()) is not None:
            return i(op, (x,), tuple({**op.attrs, **attrs}.values()))
        return x.new_tensor(op.reference(x.numpy(force=True), **attrs))

    function.__name__ = op.name
    return function


for _op in list(CATALOGUE.values()):
    install(_op)
INSTALLERS.append(install)
resolve.CAST.append(CATALOGUE["cast"])
resolve.COPY.append(CATALOGUE["copy"])
_tensor.COPY_OF.append(resolve.copy_of)
