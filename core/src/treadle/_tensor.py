"""Tensor and View: a storage seen through a layout, with a dtype, a device and maybe a node on the tape.

Only what every tensor needs is here; methods are attached by `treadle.api`, which PyTorch's names come from.
"""

from typing import TYPE_CHECKING, Any

from treadle import tape
from treadle.dtypes import DType
from treadle.errors import AutogradError, DTypeError
from treadle.op import INTERPRETER, STATE
from treadle.shapes import Shape, overlaps
from treadle.sig import Sig, dense_sig


class Tensor:
    """A multi-dimensional array on one device. Made by `td.tensor`, `td.zeros`, `td.from_numpy` and by ops.

    >>> import treadle as td
    >>> x = td.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> x.shape, x.dtype
    ((2, 2), treadle.float32)
    """

    __slots__ = ("__weakref__", "_version", "node", "sig", "storage")

    storage: Any  # the backend's own object, pointing at the first element
    sig: Sig
    _version: int  # counts in-place writes; views share their root's
    __array_ufunc__ = None  # NumPy scalars and arrays leave operators to us
    __array_priority__ = 1000
    __hash__ = object.__hash__

    def __init__(self, storage: Any, sig: Sig, node: Any = None) -> None:
        self.storage = storage
        self.sig = sig
        self.node = node
        self._version = 0

    node: Any  # None, a node, or (node, k): see treadle.tape

    if TYPE_CHECKING:  # attached by treadle.api.methods; said here for readers and type checkers

        def __getattr__(self, name: str) -> Any: ...
        def __add__(self, other: Any, /) -> "Tensor": ...
        def __radd__(self, other: Any, /) -> "Tensor": ...
        def __sub__(self, other: Any, /) -> "Tensor": ...
        def __rsub__(self, other: Any, /) -> "Tensor": ...
        def __mul__(self, other: Any, /) -> "Tensor": ...
        def __rmul__(self, other: Any, /) -> "Tensor": ...
        def __truediv__(self, other: Any, /) -> "Tensor": ...
        def __rtruediv__(self, other: Any, /) -> "Tensor": ...
        def __floordiv__(self, other: Any, /) -> "Tensor": ...
        def __rfloordiv__(self, other: Any, /) -> "Tensor": ...
        def __mod__(self, other: Any, /) -> "Tensor": ...
        def __rmod__(self, other: Any, /) -> "Tensor": ...
        def __pow__(self, other: Any, /) -> "Tensor": ...
        def __rpow__(self, other: Any, /) -> "Tensor": ...
        def __matmul__(self, other: Any, /) -> "Tensor": ...
        def __rmatmul__(self, other: Any, /) -> "Tensor": ...
        def __and__(self, other: Any, /) -> "Tensor": ...
        def __or__(self, other: Any, /) -> "Tensor": ...
        def __xor__(self, other: Any, /) -> "Tensor": ...
        def __rand__(self, other: Any, /) -> "Tensor": ...
        def __ror__(self, other: Any, /) -> "Tensor": ...
        def __lshift__(self, other: Any, /) -> "Tensor": ...
        def __rshift__(self, other: Any, /) -> "Tensor": ...
        def __lt__(self, other: Any, /) -> "Tensor": ...
        def __le__(self, other: Any, /) -> "Tensor": ...
        def __gt__(self, other: Any, /) -> "Tensor": ...
        def __ge__(self, other: Any, /) -> "Tensor": ...
        def __iadd__(self, other: Any, /) -> "Tensor": ...
        def __isub__(self, other: Any, /) -> "Tensor": ...
        def __imul__(self, other: Any, /) -> "Tensor": ...
        def __itruediv__(self, other: Any, /) -> "Tensor": ...
        def __eq__(self, other: object, /) -> Any: ...
        def __ne__(self, other: object, /) -> Any: ...
        def __neg__(self) -> "Tensor": ...
        def __abs__(self) -> "Tensor": ...
        def __invert__(self) -> "Tensor": ...
        def __getitem__(self, key: Any) -> "Tensor": ...
        def __setitem__(self, key: Any, value: Any) -> None: ...
        def __len__(self) -> int: ...
        def __iter__(self) -> Any: ...
        def __bool__(self) -> bool: ...
        def __float__(self) -> float: ...
        def __int__(self) -> int: ...

    # ---- metadata --------------------------------------------------------------------------------------------------
    @property
    def shape(self) -> Shape:
        return self.sig.shape

    @property
    def dtype(self) -> DType:
        return self.sig.dtype

    @property
    def device(self) -> Any:
        return self.sig.device

    @property
    def ndim(self) -> int:
        return self.sig.ndim

    @property
    def requires_grad(self) -> bool:
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        set_requires_grad(self, value)

    @property
    def is_leaf(self) -> bool:
        return self.node is None or is_leaf_node(self.node)

    @property
    def grad(self) -> "Tensor | None":
        """The gradient collected by backward, or None."""
        n = self.node
        if n is None or not is_leaf_node(n):
            return retained_grad(n)
        if STATE.special and (i := INTERPRETER.get()) is not None:
            i.touch(n[2])
        return n[2].grad  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        n = self.node
        if n is None or not is_leaf_node(n):
            if value is None:
                return
            raise AutogradError("grad: only a leaf tensor that requires grad can be given one")
        if value is not None and not isinstance(value, Tensor):
            raise DTypeError(f"grad: expected a tensor or None, not {type(value).__name__}")
        if STATE.special and (i := INTERPRETER.get()) is not None:
            i.touch(n[2])
            value = None if value is None else i.lift(value)
        elif value is not None and value.device is not self.device:
            raise AutogradError(f"grad: expected a tensor on {self.device}: it is on {value.device}")
        if value is not None and value.shape != self.shape:
            raise AutogradError(f"grad: expected a tensor of shape {self.shape}: {value.shape}")
        n[2].grad = value

    @property
    def is_view(self) -> bool:
        return False

    @property
    def root(self) -> "Tensor":
        """The tensor whose storage this one reads."""
        return self


class View(Tensor):
    """A tensor that reads another one's storage. Its node is made anew when the base has been written to.

    base: where gradients go (None for a detached view); owner: whose version counts; offset: elements from the base's
    first.
    """

    __slots__ = ("_node", "_seen", "base", "no_grad", "offset", "owner")

    def __init__(self, storage: Any, sig: Sig, base: Tensor | None, owner: Tensor, offset: int) -> None:
        self.storage = storage
        self.sig = sig
        self.base = base
        self.owner = owner
        self.offset = offset
        self._node = None
        self._seen = -1
        self.no_grad = not tape.grad_enabled()

    @property
    def is_view(self) -> bool:
        return True

    @property
    def root(self) -> Tensor:
        return self.owner


def _view_node(v: Any) -> Any:
    base = v.base
    if base is None:
        return v._node
    now = base._version
    if v._seen != now or (v._node is None and base.node is not None):
        v._seen = now
        n = base.node
        v._node = None if n is None or v.no_grad else [tape.next_id(), VIEW_RULE, n, base.sig, v.sig, v.offset]
    return v._node


def _set_view_node(v: Any, node: Any) -> None:
    if node is not None and v.base is not None:
        raise AutogradError("requires_grad_: a view of a tensor on the tape cannot become a leaf; detach() it first")
    v._node = node


def _get_version(v: Any) -> int:
    return v.owner._version


def _set_version(v: Any, value: int) -> None:
    v.owner._version = value


# A plain slot for Tensor, a property for View: only views pay for being views.
View.node = property(_view_node, _set_view_node)  # type: ignore[assignment, misc]
View._version = property(_get_version, _set_version)  # type: ignore[assignment, misc]
VIEW_RULE = tape.Rule("view", 1, lambda node, g: (None,), False)  # its `run` is set by autograd.views


def is_leaf_node(node: Any) -> bool:
    return node.__class__ is list and node[0] == 0


def retained_grad(node: Any) -> Any:
    """The gradient kept by retain_grad(), or None."""
    if node is None:
        return None
    owner, k = node if node.__class__ is tuple else (node, 0)
    keep = getattr(owner[1], "kept", None)
    return None if keep is None else keep.get(k)


def set_requires_grad(x: Tensor, value: bool) -> None:
    """Make x a leaf that collects gradients, or stop it; AutogradError for non-leaves and non-float dtypes.

    Every element of a leaf has a gradient of its own: one whose elements share memory (expanded) gets new memory.
    """
    if value == (x.node is not None):
        return
    if value:
        if x.dtype.kind != "f":
            raise AutogradError(f"requires_grad: only floating-point tensors can require gradients: {x.dtype}")
        if isinstance(x, View) and x.base is not None:
            detach_in_place(x)
        if x.sig.layout != "dense" and overlaps(x.shape, x.sig.strides):
            x.storage, x.sig = COPY_OF[0](x), dense_sig(x.dtype, x.shape, x.device)
        x.node = tape.leaf_node()
    elif not is_leaf_node(x.node):
        raise AutogradError("requires_grad: only leaf tensors can be changed; use detach() to leave the tape")
    else:
        x.node = None


COPY_OF: list[Any] = []  # eager.resolve.copy_of, put here at composition


def detach_in_place(x: View) -> None:
    """Let a view stand on its own on the tape; it keeps sharing memory and version."""
    x.base, x.offset = None, 0


def make_view(x: Tensor, sig: Sig, offset: int) -> View:
    """Return a view of x: `sig` is its layout, `offset` counts elements from x's first."""
    storage = x.storage
    if offset:
        storage = sig.device.backend.view(storage, offset * sig.dtype.itemsize)
    if x.__class__ is View:
        base = x.base  # type: ignore[attr-defined]
        if base is None:
            return View(storage, sig, x, x.owner, offset)  # type: ignore[attr-defined]
        return View(storage, sig, base, x.owner, x.offset + offset)  # type: ignore[attr-defined]
    return View(storage, sig, x, x, offset)


def detached(x: Tensor) -> View:
    """Return a view that shares memory and version with x but is not on the tape."""
    return View(x.storage, x.sig, None, x.root, 0)
