"""User functions with their own gradient: PyTorch's autograd.Function, and a decorator in JAX's manner."""

from collections.abc import Callable
from typing import Any

from treadle import tape
from treadle._tensor import Tensor, detached
from treadle.autograd.grad_mode import no_grad
from treadle.errors import AutogradError
from treadle.tape import Rule


class FunctionCtx:
    """What forward leaves for backward: saved tensors and any attributes."""

    def __init__(self, needs: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs
        self._saved: tuple[tuple[Any, int], ...] = ()
        self._constant: set[int] = set()

    def save_for_backward(self, *tensors: Any) -> None:
        """Keep tensors for backward; writing over one in place is noticed there."""
        self._saved = tuple((x, x._version if isinstance(x, Tensor) else 0) for x in tensors)

    @property
    def saved_tensors(self) -> tuple[Any, ...]:
        for x, version in self._saved:
            if isinstance(x, Tensor) and x._version != version:
                raise tape.modified("Function", "tensor")
        return tuple(x for x, _ in self._saved)

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say that these outputs have no gradient."""
        self._constant |= {id(x) for x in tensors}


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
        nodes = [x.node if isinstance(x, Tensor) else None for x in args]
        record = tape.grad_enabled() and any(n is not None for n in nodes)
        ctx = FunctionCtx(tuple(n is not None for n in nodes))
        with no_grad():
            out = cls.forward(ctx, *args, **kwargs)
        if not record:
            return out
        outs = out if isinstance(out, tuple) else (out,)
        several = len(outs) if len(outs) > 1 else 0
        rule = Rule(cls.__name__, len(args), _runner(cls, ctx, len(args), several), True, several)
        node: list[Any] = [tape.next_id(), rule, *nodes]
        made = tuple(_output(y, ctx, args, (node, k) if several else node) for k, y in enumerate(outs))
        return made if isinstance(out, tuple) else made[0]


def _output(y: Any, ctx: FunctionCtx, args: Any, edge: Any) -> Any:
    if not isinstance(y, Tensor) or id(y) in ctx._constant or y.dtype.kind != "f":
        return y
    fresh = y if y.node is None and not any(y is a for a in args) and type(y) is Tensor else Tensor(y.storage, y.sig)
    for k, (x, version) in enumerate(ctx._saved):
        if x is y and fresh is y:  # saving an output: keep its values, not the tensor, so that no cycle forms
            ctx._saved = (*ctx._saved[:k], (detached(y), version), *ctx._saved[k + 1 :])
    fresh.node = edge
    return fresh


def _runner(cls: Any, ctx: FunctionCtx, count: int, several: int) -> Any:
    def run(node: list[Any], g: Any) -> Any:
        grads = cls.backward(ctx, *g) if several else cls.backward(ctx, g)
        grads = grads if isinstance(grads, tuple) else (grads,)
        if len(grads) < count and all(x is None for x in node[tape.EDGES + len(grads) : tape.EDGES + count]):
            grads += (None,) * (count - len(grads))
        if len(grads) != count:
            raise AutogradError(f"{cls.__name__}.backward: {count} gradients expected, one per argument of forward: {len(grads)} returned")
        return grads

    return run


def custom_vjp(forward: Callable[..., Any]) -> Any:
    """Give a function a gradient of its own: `f.defvjp(fwd, bwd)`, where fwd returns (output, residuals) and bwd(residuals, g) gradients.

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
        return self.plain(*args, **kwargs) if self.function is None else self.function.apply(*args, **kwargs)  # type: ignore[attr-defined]
