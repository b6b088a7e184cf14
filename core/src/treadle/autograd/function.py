"""User functions with their own gradient: PyTorch's autograd.Function, and a decorator in JAX's manner."""

from collections.abc import Callable
from typing import Any

from treadle import tape
from treadle._tensor import Tensor, detached
from treadle.autograd.grad_mode import recording
from treadle.errors import AutogradError
from treadle.op import CATALOGUE, INTERPRETER, STATE
from treadle.spec import Spec
from treadle.tape import Rule


class FunctionCtx:
    """What forward leaves for backward: saved tensors and any attributes."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self._saved: tuple[tuple[Any, int], ...] = ()
        self._constant: set[int] = set()
        self._node: Any = None  # while backward runs

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors for backward; writing over one in place is noticed there."""
        self._saved = tuple((x, x._version if isinstance(x, Tensor) else 0) for x in tensors)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        return tuple(self._restored(x, version) for x, version in self._saved)

    def _restored(self, x: Any, version: Any) -> Any:
        if isinstance(x, _Result):
            return x.tensor(self._node)
        if isinstance(x, Tensor) and x._version != version:
            raise tape.modified("Function", "tensor")
        return x

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say that these outputs have no gradient."""
        self._constant |= {id(x) for x in tensors}


class _Result:
    """A saved output: its bytes live in the node, so that no cycle forms and a write marks them stale."""

    def __init__(self, k: int, slot: int, y: Tensor, several: int) -> None:
        self.k, self.slot, self.sig, self.several = k, slot, y.sig, several

    def tensor(self, node: Any) -> Tensor:
        if node is None or node[self.slot] is tape.STALE:
            raise tape.modified("Function", "result")
        edge = (node, self.k) if self.several else node
        return Tensor(node[self.slot], self.sig, edge if tape.grad_enabled() else None)


class Function:
    """Base of user functions: static methods forward(ctx, *args) and backward(ctx, *gradients), called by `apply`.

    >>> import treadle as td
    >>> class Double(td.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         return x * 2
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         return g * 2
    >>> x = td.ones(1, requires_grad=True)
    >>> Double.apply(x).backward()
    >>> x.grad
    tensor([2.])
    """

    @staticmethod
    def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError("autograd.Function: define forward(ctx, *args) as a static method")

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("autograd.Function: define backward(ctx, *gradients) as a static method")

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        if STATE.special and (i := INTERPRETER.get()) is not None and i.lifts:
            args = tuple(i.lift(x) if isinstance(x, Tensor) else x for x in args)
            applied = i.apply(cls, args, kwargs)
            if applied is not NotImplemented:
                return applied
        nodes = [x.node if isinstance(x, Tensor) else None for x in args]
        record = tape.grad_enabled() and any(n is not None for n in nodes)
        ctx = FunctionCtx(tuple(n is not None for n in nodes))
        with recording(False):
            out = cls.forward(ctx, *args, **kwargs)
        if not record:
            return out
        outs = out if isinstance(out, tuple) else (out,)
        several = len(outs) if len(outs) > 1 else 0
        specs = [Spec(x.shape, x.dtype) if isinstance(x, Tensor) else None for x in args]
        rule = Rule(cls.__name__, len(args), _runner(cls, ctx, specs, several), True, several)
        node: list[Any] = [tape.next_id(), rule, *nodes]
        made = tuple(_output(y, ctx, args, node, k, several) for k, y in enumerate(outs))
        return made if isinstance(out, tuple) else made[0]


def _output(y: Any, ctx: FunctionCtx, args: Any, node: list[Any], k: int, several: int) -> Any:
    """Output k, on the tape; what is not a tensor of its own (an argument, a view) gets an alias."""
    if not isinstance(y, Tensor) or id(y) in ctx._constant or y.dtype.kind != "f":
        return y
    if y.node is not None or type(y) is not Tensor or any(y is a for a in args):
        y = detached(y)
    elif any(x is y for x, _ in ctx._saved):
        kept = _Result(k, len(node), y, several)
        ctx._saved = tuple((kept if x is y else x, version) for x, version in ctx._saved)
        node[1].results[k] = kept.slot
        node.append(y.storage)
    y.node = (node, k) if several else node
    return y


def _runner(cls: Any, ctx: FunctionCtx, specs: list[Any], several: int) -> Any:
    count = len(specs)

    def run(node: list[Any], g: Any) -> Any:
        ctx._node = node
        try:
            grads = cls.backward(ctx, *g) if several else cls.backward(ctx, g)
        finally:
            ctx._node = None
        grads = grads if isinstance(grads, tuple) else (grads,)
        edges = node[tape.EDGES : tape.EDGES + count]
        if len(grads) < count and all(e is None for e in edges[len(grads) :]):
            grads += (None,) * (count - len(grads))
        if len(grads) != count:
            raise AutogradError(
                f"{cls.__name__}.backward: {count} gradients expected, one per argument of forward: "
                f"{len(grads)} returned"
            )
        return [
            None if e is None or g is None else _checked(cls, k, g, spec)
            for k, (g, e, spec) in enumerate(zip(grads, edges, specs, strict=True))
        ]

    return run


def _checked(cls: Any, k: int, g: Any, spec: Spec) -> Any:
    """A gradient that a user function returned for argument k: of its shape, in its dtype."""
    if not isinstance(g, Tensor) or g.shape != spec.shape:
        given = f"one of shape {g.shape}" if isinstance(g, Tensor) else type(g).__name__
        raise AutogradError(
            f"{cls.__name__}.backward: gradient {k} must be a tensor of shape {spec.shape}: {given} was returned"
        )
    return g if g.dtype is spec.dtype else CATALOGUE["cast"](g, spec.dtype)


def custom_vjp(forward: Callable[..., Any]) -> Any:
    """Give a function a gradient of its own: `f.defvjp(fwd, bwd)`, where fwd returns (output, residuals) and
    bwd(residuals, g) gradients.

    >>> import treadle as td
    >>> @td.custom_vjp
    ... def double(x):
    ...     return x * 2
    >>> double.defvjp(lambda x: (x * 2, None), lambda residuals, g: (g * 2,))
    >>> td.grad(lambda x: double(x).sum())(td.ones(2)).tolist()
    [2.0, 2.0]
    """
    return _Custom(forward)


class _Custom:
    def __init__(self, forward: Any) -> None:
        self.plain, self.function = forward, None

    def defvjp(self, fwd: Callable[..., Any], bwd: Callable[..., Any]) -> None:
        """Set how the output and residuals are computed, and how gradients follow from them."""

        class Custom(Function):
            @staticmethod
            def forward(ctx: Any, *args: Any, **kwargs: Any) -> Any:
                out, ctx.residuals = fwd(*args, **kwargs)
                return out

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                return bwd(ctx.residuals, *gradients)

        Custom.__name__ = getattr(self.plain, "__name__", "custom_vjp")
        self.function = Custom  # type: ignore[assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # type: ignore[attr-defined]
        return self.plain(*args, **kwargs) if self.function is None else self.function.apply(*args, **kwargs)
