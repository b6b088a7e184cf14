"""Functional transforms with JAX's names: grad, value_and_grad, vjp. Arguments may be pytrees."""

from collections.abc import Callable, Sequence
from typing import Any

from treadle import tape, tree
from treadle._tensor import Tensor, detached, is_leaf_node
from treadle.autograd.backward import grad_of
from treadle.autograd.grad_mode import is_grad_enabled, recording
from treadle.errors import ArgumentError, AutogradError
from treadle.op import CATALOGUE, INTERPRETER, STATE


def _variables(args: tuple[Any, ...], argnums: Any) -> tuple[list[Any], list[Tensor], Any]:
    """Arguments with fresh variables in the wanted places; those variables; how to shape their gradients.

    Inside another transform or a recorded computation the variables stay connected, so that transforms nest.
    """
    wanted = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if any(not -len(args) <= n < len(args) for n in wanted):
        raise ArgumentError(f"grad: argnums {argnums} do not name one of {len(args)} arguments")
    out, variables, shapes = list(args), [], []
    for n in wanted:
        leaves, structure = tree.flatten(args[n])
        fresh = [_variable(x) for x in leaves]
        variables += [x for x in fresh if isinstance(x, Tensor) and x.node is not None]
        shapes.append((structure, fresh))
        out[n] = structure.build(iter(fresh))
    return out, variables, (shapes, isinstance(argnums, int))


def _variable(x: Any) -> Any:
    if not isinstance(x, Tensor):
        raise ArgumentError(f"grad: every leaf of a differentiated argument must be a tensor: {type(x).__name__}")
    if x.dtype.kind != "f":
        raise AutogradError(
            f"grad: a differentiated argument must be of a floating-point type: {x.dtype.name}{list(x.shape)}"
        )
    if STATE.special and (i := INTERPRETER.get()) is not None:
        x = i.lift(x)
    if x.node is not None:
        return CATALOGUE["copy"](x)  # a node of its own that still leads to x
    return Tensor(x.storage, x.sig, tape.leaf_node())


def _shaped(grads: list[Any], plan: Any) -> Any:
    shapes, single = plan
    rest = iter(grads)
    out = [structure.build(iter([next(rest) for _ in fresh])) for structure, fresh in shapes]
    return out[0] if single else tuple(out)


def value_and_grad(
    f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function giving (f(...), its gradient with respect to argnums); f must return a scalar (with has_aux:
    and more).

    >>> import treadle as td
    >>> value, g = td.value_and_grad(lambda x: (x * x).sum())(td.tensor([1.0, 2.0]))
    >>> value.item(), g.tolist()
    (5.0, [2.0, 4.0])
    """

    def run(*args: Any, **kwargs: Any) -> Any:
        outside = is_grad_enabled()
        with recording(True):
            given, variables, plan = _variables(args, argnums)
            out = f(*given, **kwargs)
            y, aux = out if has_aux else (out, None)
            if not isinstance(y, Tensor) or y.sig.size != 1:
                raise AutogradError("grad: the function must return a scalar tensor; use vjp or jacobian for others")
            outer = outside and _leads_outside([y], variables)
            found: list[Any] = [None] * len(variables)
            if y.node is not None:
                found = grad_of((y,), variables, (None,), retain_graph=outer, create_graph=outer, allow_unused=True)
            grads = [v.new_zeros(v.shape) if g is None else g for g, v in zip(found, variables, strict=True)]
        value = (y, aux) if has_aux else y
        return value if outer else tree.map(_plain, value), _shaped(grads, plan)

    return run


def _leads_outside(ys: list[Any], variables: list[Tensor]) -> bool:
    """Whether the tape behind ys has leaves other than our variables: somebody may want to differentiate further."""
    own = {id(v.node[2]) for v in variables if is_leaf_node(v.node)}
    stack = [y.node for y in ys if isinstance(y, Tensor) and y.node is not None]
    seen: set[int] = set()
    while stack:
        edge = stack.pop()
        n = edge[0] if edge.__class__ is tuple else edge
        if n[0] == 0:
            if id(n[2]) not in own:
                return True
        elif n[0] not in seen:
            seen.add(n[0])
            stack += [e for e in n[tape.EDGES : tape.EDGES + n[1].count] if e is not None]
    return False


def _plain(x: Any) -> Any:
    return detached(x) if isinstance(x, Tensor) and x.node is not None else x


def grad(f: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """Return a function giving the gradient of f (with has_aux: and what else f returns).

    >>> import treadle as td
    >>> td.grad(td.grad(lambda x: x**3))(td.tensor(2.0)).item()
    12.0
    """
    both = value_and_grad(f, argnums, has_aux)

    def run(*args: Any, **kwargs: Any) -> Any:
        value, grads = both(*args, **kwargs)
        return (grads, value[1]) if has_aux else grads

    return run


def vjp(f: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., tuple[Any, ...]]]:
    """Return (f(*primals), a function from cotangents of the output to those of all primals).

    >>> import treadle as td
    >>> y, pull = td.vjp(lambda x: x * x, td.tensor([1.0, 2.0]))
    >>> pull(td.ones(2))[0].tolist()
    [2.0, 4.0]
    """
    outside = is_grad_enabled()
    with recording(True):
        given, variables, plan = _variables(primals, tuple(range(len(primals))))
        out = f(*given)
    leaves, structure = tree.flatten(out)
    outer = outside and _leads_outside(leaves, variables)

    def pull(cotangents: Any) -> tuple[Any, ...]:
        gs, same = tree.flatten(cotangents)
        if same != structure:
            raise ArgumentError(f"vjp: the cotangent has structure {same!r}, the output {structure!r}")
        pairs = [(y, g) for y, g in zip(leaves, gs, strict=True) if isinstance(y, Tensor) and y.node is not None]
        further = outer or any(isinstance(g, Tensor) and g.node is not None for _, g in pairs)
        found: list[Any] = [None] * len(variables)
        if pairs:
            found = grad_of([y for y, _ in pairs], variables, [g for _, g in pairs], True, further, True)
        # type: ignore[no-any-return]
        return _shaped([v.new_zeros(v.shape) if g is None else g for g, v in zip(found, variables, strict=True)], plan)

    return out if outer else tree.map(_plain, out), pull


def autograd_grad(
    outputs: Any, inputs: Any, grad_outputs: Any = None, retain_graph: bool | None = None, create_graph: bool = False,
    allow_unused: bool = False, is_grads_batched: bool = False, materialize_grads: bool = False,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the gradients of outputs with respect to inputs, as PyTorch's autograd.grad.

    >>> import treadle as td
    >>> x = td.tensor(3.0, requires_grad=True)
    >>> td.autograd.grad(x * x, x)[0].item()
    6.0
    """
    ys = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    xs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    gs = [grad_outputs] * len(ys) if grad_outputs is None or isinstance(grad_outputs, Tensor) else list(grad_outputs)
    found = grad_of(ys, xs, gs, retain_graph, create_graph, allow_unused or materialize_grads)
    return tuple(x.new_zeros(x.shape) if g is None and materialize_grads else g for g, x in zip(found, xs, strict=True))
