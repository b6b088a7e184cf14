"""How a case is carried out on a device and judged.

Every check returns an Outcome; nothing here knows a device by name.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from treadle.conformance import oracle
from treadle.conformance.case import PASSED, Case, Outcome
from treadle.conformance.tensors import flat, is_array, mapped, same_bits
from treadle.conformance.tolerances import GRADIENT, Verdict, judge
from treadle.dtypes import DType, bool_, float32, int32, int64, uint32
from treadle.eager import resolve as resolving
from treadle.eager.inplace import inplace_method
from treadle.eager.lists import run_inplace_list
from treadle.errors import UnsupportedError
from treadle.op import EXACT, Op

REQUIRED = frozenset({bool_, int32, uint32, float32})  # of every kernel whose op takes them
MOVED = frozenset({"where", "cast", "bitcast", "iota", "gather_nd", "scatter_nd"})  # int64 is required of these


def carried_out(case: Case, device: Any) -> Outcome:
    """Run a case; an exception it does not expect fails it, a missing kernel is judged by what is claimed."""
    try:
        return case.check(case, device)
    except UnsupportedError as e:
        return Outcome("FB" if is_owed(case, device) else "U", str(e))
    except Exception as e:  # whatever a backend raises is this case's failure, not the suite's
        return Outcome("F", f"{type(e).__name__}: {e}", np.inf)


def is_owed(case: Case, device: Any) -> bool:
    """Whether the backend must run a case: it claims the op for its element types, or the level requires it."""
    if case.op is None or case.dtype is None:
        return True
    kinds = [case.dtype, *(v for v in case.attrs.values() if isinstance(v, DType))]
    return all(_is_owed(case.op, d, device) for d in kinds)


def _is_owed(op: Op, dtype: DType, device: Any) -> bool:
    if claims(op, dtype, device):
        return True
    if op.tier == "kernel":
        return dtype in REQUIRED or (dtype is int64 and op.name in MOVED)
    return dtype is float32


def claims(op: Op, dtype: DType, device: Any) -> bool:
    """Whether a kernel of the backend claims the op itself."""
    return any(c.dtypes is None or dtype in c.dtypes for c in device.backend.candidates(op))


# ---- calls ---------------------------------------------------------------------------------------------------------
def check_call(case: Case, device: Any) -> Outcome:
    """The results are right, dense and of the declared types, and the operands are as they were."""
    assert case.op is not None
    arrays = case.arrays()
    operands = case.place(arrays, device)
    got = [y.numpy_copy() for y in flat(oracle.call(case.op, operands, case.attrs, device))]
    return first(verdicts(case, got, arrays, operands, device), lambda: unchanged(arrays, operands))


def verdicts(case: Case, got: list[Any], arrays: list[Any], operands: list[Any], device: Any) -> list[Verdict]:
    op = case.op
    assert op is not None and case.dtype is not None
    want = oracle.expected(op, arrays, case.attrs)
    if len(got) != len(want):
        return [Verdict(False, f"{len(got)} results, declared are {len(want)}", np.inf)]
    narrow = case.dtype.kind == "f" and case.dtype.itemsize == 2
    stepwise = narrow and _is_stepwise(op, operands, case.attrs)
    ftz = "ftz" in device.backend.features
    return [
        judge(y, w, op.num, composite=op.tier != "kernel", stepwise=stepwise, ftz=ftz)
        for y, w in zip(got, want, strict=True)
    ]


def _is_stepwise(op: Op, operands: list[Any], attrs: dict[str, Any]) -> bool:
    """Whether the steps of a decomposition round to half precision (classes that widen do not)."""
    if op.category == "lists" or op.num.kind == "stepwise":
        return True
    return op.num.kind == "contract" and oracle.resolution(op, operands, attrs) == "decomposed"


def first(found: list[Verdict], then: Callable[[], str]) -> Outcome:
    worst = max((v.worst for v in found), default=0.0)
    for k, v in enumerate(found):
        if not v.ok:
            return Outcome("F", v.text if len(found) == 1 else f"result {k}: {v.text}", worst)
    text = then()
    return Outcome("F", text, np.inf) if text else Outcome("P", "", worst)


def unchanged(arrays: list[Any], operands: list[Any]) -> str:
    for k, (a, x) in enumerate(zip(flat(arrays), flat(operands), strict=True)):
        if is_array(a) and not same_bits(x.numpy_copy(), a).all():
            return f"operand {k} was changed by the call"
    return ""


def check_alias(case: Case, device: Any) -> Outcome:
    """The results have memory of their own: writing over the operands afterwards does not change them."""
    assert case.op is not None
    operands = case.operands(device)
    results = flat(oracle.call(case.op, operands, case.attrs, device))
    before = [y.numpy_copy() for y in results]
    for x in flat(operands):
        if hasattr(x, "copy_"):
            x.copy_(x.new_zeros(x.shape) if x.dtype.kind == "b" else x.new_full(x.shape, 1))
    for k, (y, old) in enumerate(zip(results, before, strict=True)):
        if not same_bits(y.numpy_copy(), old).all():
            return Outcome("F", f"result {k} shares memory with an operand", np.inf)
    return PASSED


def check_want(case: Case, device: Any) -> Outcome:
    """A gradient op asked for some of its results gives exactly those, with the values it has when asked for all."""
    assert case.op is not None
    arrays = case.arrays()
    operands = case.place(arrays, device)
    some = case.op.fn(*operands, **case.attrs, want=case.option)
    missing = [k for k, (y, w) in enumerate(zip(some, case.option, strict=True)) if (y is None) is w]
    if missing:
        return Outcome(
            "F",
            f"want={case.option}: result {missing[0]} is "
            f"{'missing' if case.option[missing[0]] else 'given though unwanted'}",
            np.inf,
        )
    want = oracle.expected(case.op, arrays, case.attrs)
    ftz = "ftz" in device.backend.features
    pairs = [(y.numpy_copy(), w) for y, w in zip(some, want, strict=True) if y is not None]
    return first([judge(y, w, case.op.num, composite=True, ftz=ftz) for y, w in pairs], lambda: "")


def check_aux(case: Case, device: Any) -> Outcome:
    """The values that a recorded forward hands out are those of the op that declares them."""
    op = case.op
    assert op is not None and op.aux is not None
    arrays = case.arrays()
    plain, _ = resolving._normal(op, tuple(case.place(arrays, device)))
    values = [case.attrs.get(a, d) for a, d in op.attrs.items()]
    kernel, sigs = resolving.lookup(op, plain, values, True)
    out = kernel.run(*[getattr(x, "storage", x) for x in plain])
    named = dict(zip([i.name for i in op.inputs], arrays, strict=True))
    attrs = {a: v for a, v in case.attrs.items() if a in op.aux.attrs}
    want = oracle.expected(op.aux, [named[i.name] for i in op.aux.inputs], attrs)
    count = len(op.results)
    pairs = [
        (resolving.dispatch.to_numpy(device, s, sig), w)
        for s, sig, w in zip(out[count:], sigs[count:], want, strict=True)
        if s is not None
    ]
    return first([judge(y, w, op.aux.num, composite=True) for y, w in pairs], lambda: "")


# ---- writes --------------------------------------------------------------------------------------------------------
def check_inplace(case: Case, device: Any) -> Outcome:
    """The in-place form gives what the functional form gives, through the method and through the kernel with an exact
    alias."""
    op = case.op
    assert op is not None
    arrays = case.arrays()
    want = op.fn(*case.place(arrays, device)).numpy_copy()
    target, *others = case.place(arrays, device)
    inplace_method(op)(target, *others)
    if not same_bits(target.numpy_copy(), want).all():
        return Outcome("F", f"{op.name}_ differs from {op.name}", np.inf)
    for k in range(len(arrays)):
        operands = case.place(arrays, device)
        kernel, sig = resolving.lookup(op, tuple(operands), ())
        if kernel.write is None or operands[k].sig is not sig:
            continue
        kernel.write(*[x.storage for x in operands], operands[k].storage)
        if not same_bits(operands[k].numpy_copy(), want).all():
            return Outcome("F", f"{op.name} written over operand {k} differs from {op.name}", np.inf)
    return PASSED


def check_inplace_lists(case: Case, device: Any) -> Outcome:
    """The in-place form of an optimizer step, one kernel where the device claims it, gives what the formula gives."""
    op = case.op
    assert op is not None
    arrays = case.arrays()
    operands = case.place(arrays, device)
    lists = [x for x in operands if isinstance(x, list)]
    numbers = [x for x in operands if not isinstance(x, list)]
    rest = run_inplace_list(op, lists, numbers, case.attrs)
    named = dict(zip([i.name for i in op.inputs], operands, strict=True))
    outs = [named.get(r.rstrip("*"), lists[0]) if r.endswith("*") else rest for r in op.results]
    got = [y.numpy_copy() for y in flat(outs)]
    return first(verdicts(case, got, arrays, operands, device), lambda: "")


# ---- gradients -----------------------------------------------------------------------------------------------------
def check_gradient(case: Case, device: Any) -> Outcome:
    """Gradients recorded and computed on the device agree with those computed in float64."""
    op = case.op
    assert op is not None
    arrays = case.arrays()
    weights = case_weights(case, arrays)
    operands = mapped(
        lambda x: x.requires_grad_() if getattr(getattr(x, "dtype", None), "kind", "") == "f" else x,
        case.place(arrays, device),
    )
    on_device = [x for x in flat(operands) if hasattr(x, "requires_grad_")]
    ws = [on(w, on_device[0].device) for w in weights]
    try:
        wanted = oracle.gradients(op, arrays, case.attrs, weights)
    except NotImplementedError as e:  # the rule declares that this attribute has no gradient
        return _refuses(type(e), lambda: oracle.pull(op, operands, case.attrs, ws, device))
    found = oracle.pull(op, operands, case.attrs, ws, device)
    leaves = [x for x in flat(operands) if getattr(x, "node", None) is not None]
    judged = [gradient_verdict(g, w, x, device) for g, w, x in zip(found, wanted, leaves, strict=True)]
    return first(judged, lambda: "")


def _refuses(error: type[Exception], call: Callable[[], Any]) -> Outcome:
    try:
        call()
    except error:
        return PASSED
    return Outcome("F", f"{error.__name__} expected: the gradient is not defined", np.inf)


def case_weights(case: Case, arrays: list[Any]) -> list[Any]:
    """Random weights for the float results, of which the gradient is taken."""
    assert case.op is not None
    rng = np.random.default_rng(len(case.id))
    specs = [s for s in oracle.specs_of(case.op, arrays, case.attrs) if s.dtype.kind == "f"]
    return [rng.standard_normal(s.shape).astype(s.dtype.np) for s in specs]


def on(array: Any, device: Any) -> Any:
    return oracle.creation.from_array(array, device)


def gradient_verdict(g: Any, want: tuple[Any, Any], x: Any, device: Any) -> Verdict:
    value, size = want
    if g is None:
        return Verdict(not value.any(), "no gradient reached this operand", np.inf if value.any() else 0.0)
    spec = oracle.Spec(x.shape, x.dtype)
    return judge(
        g.detach().numpy_copy(),
        oracle.Expected(spec, value, size),
        GRADIENT,
        composite=True,
        ftz="ftz" in device.backend.features,
    )


# ---- refusals ------------------------------------------------------------------------------------------------------
def check_refusal(case: Case, device: Any) -> Outcome:
    """The call raises what is declared, by the next synchronisation at the latest, and the device still works
    afterwards."""
    assert case.op is not None
    operands = case.operands(device)
    error, match, call = case.option
    try:
        call(case, operands, device)
        device.backend.synchronize()
    except error as e:
        text = str(e) + "".join(getattr(e, "__notes__", ()))
        if not match.search(text):
            return Outcome(
                "F", f"{error.__name__} was raised, but its text does not match {match.pattern!r}: {text}", np.inf
            )
    except Exception as e:
        return Outcome("F", f"{error.__name__} expected, {type(e).__name__} was raised: {e}", np.inf)
    else:
        return Outcome("F", f"{error.__name__} expected, nothing was raised", np.inf)
    return PASSED if works(device) else Outcome("F", "the device gives wrong results after the error", np.inf)


def works(device: Any) -> bool:
    x = on(np.arange(3, dtype=np.float32), device)
    return bool(
        judge(
            (x + x).numpy_copy(), oracle.Expected(oracle.Spec((3,), float32), np.array([0.0, 2.0, 4.0]), None), EXACT
        ).ok
    )
