"""Attaches methods and operators to Tensor. Where a method is an op's own function, calling it is one frame."""

from typing import Any

from treadle import tape
from treadle._tensor import Tensor, View
from treadle.api import convert, indexing, linalg, math, reduce, select, shape, text
from treadle.autograd import backward
from treadle.eager import inplace
from treadle.eager.resolve import REVERSED
from treadle.errors import ArgumentError, AutogradError
from treadle.op import CATALOGUE as OPS
from treadle.op import FN
from treadle.tape import HookedRule


def _swap(f: Any) -> Any:
    return lambda b, a: f(a, b)


def _rpow(b: Tensor, a: Any) -> Any:
    return FN["pow"](a, b)


def _bool(x: Tensor) -> bool:
    if x.sig.size != 1:
        raise ArgumentError(f"bool: the truth of a tensor with {x.sig.size} elements is ambiguous; use any() or all()")
    return bool(convert.item(x))


def _index(x: Tensor) -> int:
    if x.dtype.kind == "f" or x.sig.size != 1:
        raise TypeError(f"only integer tensors of one element can be an index: {x.dtype.name}{list(x.shape)}")
    return int(convert.item(x))


def _len(x: Tensor) -> int:
    if x.ndim == 0:
        raise TypeError("len() of a 0-d tensor")
    return x.shape[0]


def _contains(x: Tensor, value: Any) -> bool:
    return bool((x == value).any())


def _eq(a: Tensor, b: Any) -> Any:
    return math.eq(a, b) if _comparable(b) else NotImplemented


def _ne(a: Tensor, b: Any) -> Any:
    return math.ne(a, b) if _comparable(b) else NotImplemented


def _comparable(b: Any) -> bool:
    return isinstance(b, (Tensor, int, float)) or hasattr(b, "dtype")


OPERATORS: dict[str, Any] = {
    "__add__": math.add_op, "__radd__": math.add_op, "__sub__": math.sub_op, "__rsub__": REVERSED["sub"],
    "__mul__": math.mul_op,
    "__rmul__": math.mul_op, "__truediv__": math.true_divide, "__rtruediv__": REVERSED["true_div"],
    "__floordiv__": math.floor_divide,
    "__rfloordiv__": _swap(math.floor_divide), "__mod__": math.remainder, "__rmod__": _swap(math.remainder),
    "__pow__": math.pow,
    "__rpow__": _rpow, "__matmul__": linalg.matmul, "__rmatmul__": _swap(linalg.matmul), "__neg__": math.neg,
    "__pos__": lambda x: x,
    "__abs__": math.abs, "__invert__": math.bitwise_not, "__and__": math.bitwise_and, "__rand__": math.bitwise_and,
    "__or__": math.bitwise_or, "__ror__": math.bitwise_or, "__xor__": math.bitwise_xor, "__rxor__": math.bitwise_xor,
    "__lshift__": math.bitwise_left_shift, "__rlshift__": REVERSED["shl"], "__rshift__": math.bitwise_right_shift,
    "__rrshift__": REVERSED["shr"], "__lt__": math.lt, "__le__": math.le, "__gt__": math.gt, "__ge__": math.ge,
    "__eq__": _eq, "__ne__": _ne,
    "__bool__": _bool, "__float__": lambda x: float(convert.item(x)), "__int__": lambda x: int(convert.item(x)),
    "__index__": _index,
    "__len__": _len, "__contains__": _contains,
}  # fmt: skip


# ---- in place ------------------------------------------------------------------------------------------------------
def _inplace_by_copy(name: str, function: Any) -> Any:
    """`x.name_(...)`: the function's result, written over x."""

    def method(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        source = x
        if tape.grad_enabled() and x.node is not None:
            inplace._check_recordable(name, x)
            source = Tensor(
                inplace.resolving.copy_of(x), inplace.resolving.dense_sig(x.dtype, x.shape, x.device), x.node
            )
        y = function(source, *args, **kwargs)
        inplace.check_kind(name, x, y.dtype)
        return inplace.copy_(x, y)

    method.__name__ = f"{name}_"
    method.__doc__ = f"Do `{name}` in place and return the tensor."
    return method


def fill_(x: Tensor, value: Any) -> Tensor:
    """Set all elements to a value and return the tensor.

    >>> import treadle as td
    >>> td.zeros(2).fill_(3.0)
    tensor([3., 3.])
    """
    return inplace.copy_(x, value if isinstance(value, Tensor) else x.new_full((), value))


def zero_(x: Tensor) -> Tensor:
    """Set all elements to zero and return the tensor."""
    return fill_(x, 0)


def masked_fill_(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """Set elements to a value where a mask holds and return the tensor."""
    return inplace.copy_(x, FN["where"](mask, value, x))


def index_put_(x: Tensor, indices: Any, values: Tensor, accumulate: bool = False) -> Tensor:
    """Write values at the places that index tensors name and return the tensor."""
    return inplace.copy_(x, indexing.index_put(x, indices, values, accumulate))


def _with_alpha(name: str) -> Any:
    plain = inplace.inplace_method(OPS[name])

    def method(x: Tensor, other: Any, alpha: Any = 1) -> Tensor:
        return plain(x, other if alpha == 1 else other * alpha)

    method.__name__ = f"{name}_"
    method.__doc__ = f"Do `{name}` in place and return the tensor."
    return method


_true_div_ = inplace.inplace_method(OPS["true_div"])


def _div_(x: Tensor, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Divide in place and return the tensor; rounding_mode as in `div`."""
    return _true_div_(x, other) if rounding_mode is None else _rounded_div_(x, other, rounding_mode=rounding_mode)


_rounded_div_ = _inplace_by_copy("div", math.div)
IN_PLACE: dict[str, Any] = {
    "add_": _with_alpha("add"),
    "sub_": _with_alpha("sub"),
    "mul_": inplace.inplace_method(OPS["mul"]),
    "div_": _div_,
}
IN_PLACE |= {
    "copy_": inplace.copy_,
    "fill_": fill_,
    "zero_": zero_,
    "masked_fill_": masked_fill_,
    "index_put_": index_put_,
}
IN_PLACE |= {
    f"{n}_": _inplace_by_copy(n, getattr(math, n)) for n in (
        "neg", "abs", "sqrt", "exp", "log", "relu", "sigmoid", "tanh", "clamp", "clamp_min", "clamp_max", "floor",
        "ceil", "round", "reciprocal", "rsqrt", "square",
        "pow", "remainder", "lerp", "addcmul", "addcdiv", "sin", "cos", "sign", "trunc", "bitwise_and", "bitwise_or",
        "bitwise_xor",
        "floor_divide", "logical_and", "logical_or", "nan_to_num",
    )
}  # fmt: skip
IN_PLACE |= {f"{n}_": _inplace_by_copy(n, getattr(shape, n)) for n in ("tril", "triu")}
IN_PLACE |= {f"{n}_": _inplace_by_copy(n, getattr(select, n)) for n in ("scatter", "scatter_add")}
IN_PLACE |= {
    "__iadd__": inplace.inplace_method(OPS["add"]), "__isub__": inplace.inplace_method(OPS["sub"]),
    "__imul__": IN_PLACE["mul_"],
    "__itruediv__": _true_div_, "__ipow__": IN_PLACE["pow_"], "__iand__": IN_PLACE["bitwise_and_"],
    "__ior__": IN_PLACE["bitwise_or_"],
    "__ixor__": IN_PLACE["bitwise_xor_"], "__ifloordiv__": IN_PLACE["floor_divide_"],
    "__imod__": IN_PLACE["remainder_"],
}  # fmt: skip


# ---- metadata and autograd -----------------------------------------------------------------------------------------
def numel(input: Tensor) -> int:
    """Return the number of elements."""
    return input.sig.size


def is_tensor(obj: Any) -> bool:
    """Return whether x is a Tensor.

    >>> import treadle as td
    >>> td.is_tensor(td.ones(1)), td.is_tensor(1.0)
    (True, False)
    """
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Return whether the elements are floating-point numbers."""
    return input.dtype.is_floating_point


def stride(x: Tensor, dim: int | None = None) -> Any:
    """Return the strides, in elements, or that of one dimension."""
    return x.sig.strides if dim is None else x.sig.strides[dim]


def is_contiguous(x: Tensor) -> bool:
    """Return whether the elements lie row-major without gaps."""
    return x.sig.layout == "dense"


def register_hook(x: Tensor, hook: Any) -> Any:
    """Call hook(gradient) when backward reaches x; what it returns (if anything) replaces the gradient. Returns a
    handle with remove().

    >>> import treadle as td
    >>> x = td.ones(1, requires_grad=True)
    >>> _ = x.register_hook(lambda g: g * 10)
    >>> (x * 2).backward()
    >>> x.grad
    tensor([20.])
    """
    n = x.node
    if n is None:
        raise AutogradError("register_hook: the tensor does not require grad")
    if n.__class__ is list and n[0] == 0:
        hooks = n[2].hooks = n[2].hooks if n[2].hooks is not None else {}
    else:
        hooks = hooked(n).setdefault(n[1] if n.__class__ is tuple else 0, {})
    return _Handle(hooks, hook)


class _Handle:
    """Removes a hook."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self.hooks, self.key = hooks, max(hooks, default=-1) + 1
        hooks[self.key] = hook

    def remove(self) -> None:
        self.hooks.pop(self.key, None)


def hooked(edge: Any) -> dict[int, dict[int, Any]]:
    """The hooks of an inner node, result by result."""
    node = edge[0] if edge.__class__ is tuple else edge
    if not isinstance(node[1], HookedRule):
        node[1] = HookedRule(node[1])
    return node[1].hooks


def retain_grad(x: Tensor) -> None:
    """Keep the gradient of a non-leaf in `.grad` at backward.

    >>> import treadle as td
    >>> y = td.ones(1, requires_grad=True) * 2
    >>> y.retain_grad()
    >>> (y * 3).backward()
    >>> y.grad
    tensor([3.])
    """
    n = x.node
    if n is None:
        raise AutogradError("retain_grad: the tensor does not require grad")
    if n.__class__ is list and n[0] == 0:
        return
    k = n[1] if n.__class__ is tuple else 0
    hooks = hooked(n).setdefault(k, {})
    kept = (n[0] if n.__class__ is tuple else n)[1].kept
    hooks[-1] = lambda g: kept.__setitem__(k, FN["copy"](g) if k not in kept else kept[k] + g)


def grad_fn(x: Tensor) -> Any:
    """The rule of the op that made x, or None for leaves."""
    n = x.node
    if n is None or (n.__class__ is list and n[0] == 0):
        return None
    return (n[0] if n.__class__ is tuple else n)[1]


PROPERTIES: dict[str, Any] = {
    "T": property(lambda x: shape.t(x) if x.ndim <= 2 else FN["permute"](x, tuple(range(x.ndim))[::-1])),
    "mT": property(lambda x: shape.transpose(x, -1, -2)),
    "data": property(convert.detach, lambda x, y: _set_data(x, y)),
    "grad_fn": property(grad_fn), "nbytes": property(lambda x: x.sig.nbytes),
    "itemsize": property(lambda x: x.dtype.itemsize),
}  # fmt: skip


def _set_data(x: Tensor, y: Tensor) -> None:
    """`x.data = y`: x reads y's memory from now on; its place on the tape stays."""
    if isinstance(x, View):
        raise AutogradError("data: a view cannot be given other memory")
    dense = convert.contiguous(y.detach())
    x.storage, x.sig = dense.storage, dense.sig
    x._version += 1


METHODS: dict[str, Any] = {
    "backward": backward.tensor_backward, "numel": numel, "nelement": numel, "dim": lambda x: x.sig.ndim,
    "stride": stride, "is_contiguous": is_contiguous,
    "register_hook": register_hook, "retain_grad": retain_grad, "element_size": lambda x: x.dtype.itemsize,
    "is_floating_point": is_floating_point, "ndimension": lambda x: x.sig.ndim, "type": convert.to, "type_as": lambda x,
    y: convert.to(x, y.dtype),
    "storage_offset": lambda x: getattr(x, "offset", 0), "data_ptr": lambda x: getattr(x.storage, "ptr", 0),
    "softplus": lambda x: FN["softplus"](x),
    "gelu": lambda x: FN["gelu"](x),
}  # fmt: skip


def attach() -> None:
    """Put everything on Tensor; called once, by the composition root."""
    for table in (
        convert.METHODS,
        text.METHODS,
        indexing.METHODS,
        math.METHODS,
        reduce.METHODS,
        shape.METHODS,
        select.METHODS,
        linalg.METHODS,
        METHODS,
        OPERATORS,
        IN_PLACE,
        PROPERTIES,
    ):
        for name, value in table.items():
            setattr(Tensor, name, value)


attach()
