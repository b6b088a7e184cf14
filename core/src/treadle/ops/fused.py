"""fused: a region of elementwise ops as one op. The compiler makes such nodes for backends that claim it.

The body is a program: a tuple of instructions (name, operands ...). An operand is an int, the number of a value (inputs
first, then one per instruction), a float, a Python number, or after the operand of cast the name of a dtype. Results
are numbers of values. `(("mul", 0, 2.0), ("add", 2, 1))` over x and y is x * 2.0 + y.
"""

from typing import Any

from treadle.dtypes import ALL, FLOATS, DType, bool_
from treadle.errors import ArgumentError, DTypeError, ShapeError
from treadle.op import CATALOGUE, ELEMENTWISE, STEPWISE, Op
from treadle.ops.samples import Arg, raises, s
from treadle.spec import Spec

Body = tuple[tuple[Any, ...], ...]
DTYPES = {d.name: d for d in ALL}
MIX: Body = (("mul", 0, 1.5), ("add", 3, 1), ("gelu_tanh", 4), ("lt", 5, 2), ("where", 6, 5, 2), ("sub", 1.0, 7))


def fusible(op: Op) -> bool:
    """Whether an op may stand in a body: one result, each element of it from one of every operand."""
    return op.name == "cast" or (op.category in ELEMENTWISE and op.c_expr is not None)


def _run(*xs: Any, body: Body, results: tuple[int, ...]) -> tuple[Any, ...]:
    """The instructions, op by op; operands one by one, or as one list."""
    values = [*xs[0]] if isinstance(xs[0], (list, tuple)) else [*xs]
    for name, *operands in body:
        given = [values[x] if x.__class__ is int else DTYPES[x] if x.__class__ is str else x for x in operands]
        values.append(CATALOGUE[name](*given))
    return tuple(values[r] for r in results)


def _specs(*xs: Spec, body: Body, results: tuple[int, ...]) -> tuple[Spec, ...]:
    """Specs of the results; errors name the instruction."""
    if not xs or any(x.shape != xs[0].shape for x in xs):
        raise ShapeError(f"fused: its operands must have one shape: {', '.join(map(str, xs))}")
    kinds = [x.dtype for x in xs]
    for step in body:
        if not isinstance(step, tuple) or not step or not _known(step[0]):
            raise ArgumentError(f"fused: {step!r} is no instruction over elementwise ops")
        kinds.append(_kind(step, kinds))
    if not results or any(r.__class__ is not int or not 0 <= r < len(kinds) for r in results):
        raise ArgumentError(f"fused: results must be numbers of values below {len(kinds)}: {results!r}")
    return tuple(Spec(xs[0].shape, kinds[r]) for r in results)


def _known(name: Any) -> bool:
    return isinstance(name, str) and name in CATALOGUE and fusible(CATALOGUE[name])


def _kind(step: tuple[Any, ...], kinds: list[DType]) -> DType:
    """The dtype that an instruction gives."""
    name, *operands = step
    op = CATALOGUE[name]
    if any(x.__class__ is int and not 0 <= x < len(kinds) for x in operands):
        raise ArgumentError(f"fused: {step!r} uses a value that is not there yet")
    if name == "cast":
        if len(operands) != 2 or operands[0].__class__ is not int or operands[1] not in DTYPES:
            raise ArgumentError(f"fused: {step!r} must be a value and the name of a dtype")
        return DTYPES[operands[1]]
    if len(operands) != len(op.inputs) or any(x.__class__ not in (int, float) for x in operands):
        raise ArgumentError(f"fused: {step!r} needs {len(op.inputs)} operands, values or floats")
    given = {kinds[x] for x, i in zip(operands, op.inputs, strict=True) if x.__class__ is int and i.name != "c"}
    conditions = {x.__class__ is int and kinds[x] for x, i in zip(operands, op.inputs, strict=True) if i.name == "c"}
    if len(given) != 1 or not given <= op.dtypes or not conditions <= {bool_}:
        text = ", ".join(sorted(d.name for d in given))
        raise DTypeError(f"fused: {step!r} is not defined for operands of {text or 'no dtype'}")
    (kind,) = given
    if kind.kind != "f" and float in map(type, operands):
        raise DTypeError(f"fused: {step!r}: a number does not go with {kind.name}")
    return op.spec(*[Spec((), kind)] * len(op.inputs)).dtype  # type: ignore[no-any-return]


fused: Op = Op("fused", "xs* -> ys*", tier="composite", category="fused", decompose=_run, spec=_specs, vjp={},
    dtypes=FLOATS, num=STEPWISE, cost=lambda y, *xs, body, results: y.size * len(body),
    samples=[s([(4, 5), (4, 5)], body=(("mul", 0, 1.1), ("add", 2, 1)), results=(3,)),
        s([(67, 33), (67, 33), (67, 33)], body=MIX, results=(8, 4)),
        s([()], body=(("exp", 0), ("mul", 1, 1)), results=(2, 1)),
        s([(3, 0)], body=(("neg", 0), ("abs", 1)), results=(2,)),
        s([(7,), Arg((7,), "bool")], body=(("where", 1, 0, 0.0), ("ge", 2, 0.5), ("bit_not", 3)), results=(2, 4))],
    doc="Run a body of elementwise ops on operands of one shape.",
    errors=[raises(ShapeError, "one shape", [(3,), (4,)], body=(("add", 0, 1),), results=(2,)),
        raises(ArgumentError, "not there yet", [(3,)], body=(("neg", 1),), results=(1,))])  # fmt: skip
