"""Which ops lead to a kernel, and one binding of it: drawn, bound by the backend, called."""

import direct
import misuse
from cases import DRAFTS, ELEMENTWISE, case
from operands import FLOAT_ORDER, filled, number, storage

from treadle.dtypes import ALL
from treadle.op import CATALOGUE
from treadle.sig import Sig
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.backend import CpuBackend

CHECKED = 0.2  # of the calls look afterwards whether an operand was written to
LARGE = 1 << 16  # bytes of all operands from which a binding is called once
SHARED = {
    "sum": "reduce",
    "prod": "reduce",
    "max": "reduce",
    "min": "reduce",
    "argmax": "argreduce",
    "argmin": "argreduce",
}
PRODUCTS = {"dot_general": "matmul", "fused_linear": "linear", "fused_conv2d": "conv2d"}


class Targets:
    """The backend, and for every kernel the (op, dtype) pairs that bind it."""

    def __init__(self):
        self.backend, self.pairs = CpuBackend(), {}
        names = set(native.names())
        for op in CATALOGUE.values():
            if op.category not in ELEMENTWISE and op.name not in DRAFTS:
                continue
            for dtype in self._dtypes(op):
                name = _kernel_name(op, dtype, names)
                if name:
                    self.pairs.setdefault(name, []).append((op, dtype))
        unknown = [op for op in CpuBackend.claims if op in CATALOGUE and not self._known(op)]
        assert not unknown, f"no way to draw operands of {unknown}"

    def _known(self, op):
        return op in DRAFTS or CATALOGUE[op].category in ELEMENTWISE

    def _dtypes(self, op):
        if op.category == "create":
            return ALL
        if op.name.startswith("random"):
            return FLOAT_ORDER
        return [d for d in ALL if d in op.dtypes and self.backend.claimed(op.name, d)]

    def run(self, rnd, name, counts, repeats):
        """Bind the kernel once and call it a few times; count calls by the kernel really bound."""
        if rnd.random() < 0.02:
            native.set_num_threads(rnd.choice((1, 2, 3)))
        special = self._special(rnd, name)
        if special:
            for _ in range(repeats):
                special()
            counts[name] += repeats
            return
        if name.startswith("cast_"):
            _, source, to = name.split("_")
            self._op(rnd, CATALOGUE["cast"], _by_short(source), counts, repeats, {"dtype": _by_short(to)})
        elif name in self.pairs:
            op, dtype = rnd.choice(self.pairs[name])
            self._op(rnd, op, dtype, counts, repeats, {})

    def _special(self, rnd, name):
        if name == "(misuse)":
            return lambda: misuse.once(rnd)
        if name.startswith("probe_"):
            return lambda: direct.probe(rnd, name)
        if name == "gemm_f32":
            return lambda: direct.gemm(rnd)
        if name == "copy_strided":
            return lambda: direct.copy(rnd)
        if name == "copy_dense" and rnd.random() < 0.5:
            return lambda: direct.fill(rnd, self.backend)
        parts = name.split("_")
        if parts[0] == "cast" and parts[1] == parts[2]:
            return lambda: direct.same_cast(rnd, parts[1])
        return None

    def _op(self, rnd, op, dtype, counts, repeats, attrs):
        drawn = case(rnd, op, dtype, attrs)
        bound = drawn and self.backend.bind(drawn.call)
        if not bound:
            return
        run = getattr(bound.run, "run", bound.run)
        kernel = run.__self__.name
        large = sum(x.nbytes for x in bound.ins if isinstance(x, Sig)) > LARGE
        for _ in range(1 if large else repeats):
            _call(rnd, drawn, bound, run)
            counts[kernel] += 1


def _by_short(short):
    return next(d for d in ALL if d.short == short)


def _kernel_name(op, dtype, names):
    """Return the kernel that an op binds for a dtype: its own, a wider one, or one for all."""
    product = PRODUCTS.get(op.name, op.name)
    wide = "f64" if dtype.name == "float64" else "f32"
    guesses = (SHARED.get(op.name), f"{product}_{dtype.short}", f"{product}_{wide}", op.name)
    if op.name == "bitcast":
        return "copy_dense"
    return next((name for name in guesses if name in names), None)


def _call(rnd, drawn, bound, run):
    """Call a bound kernel once; an index is refused exactly when one is out of range."""
    given, bad = _given(rnd, drawn, bound)
    targets = _targets(rnd, drawn.call, bound, given)
    inputs = [x for x in given if isinstance(x, native.Storage) and x not in targets]
    kept = (inputs, _contents(inputs)) if rnd.random() < CHECKED else ((), [])
    room = [x for x in targets if bad and x is not None]
    before = _contents(room)
    try:
        run(*given, *targets)
    except IndexError:
        assert bad, f"refused indices that are all in range: {drawn.call}"
        assert before == _contents(room), f"wrote before it refused an index: {drawn.call}"
    except ZeroDivisionError:
        assert drawn.call.op.name in ("div", "rem"), drawn.call
    except OverflowError:
        assert any(isinstance(x, type) for x in bound.ins), drawn.call
    else:
        assert not bad, f"took an index out of range: {drawn.call}"
    assert _contents(kept[0]) == kept[1], f"wrote to an operand: {drawn.call}"


def _given(rnd, drawn, bound):
    """Return (storages and numbers for the operands, whether an index is out of range)."""
    given, bad = [], False
    for k, x in enumerate(bound.ins):
        if isinstance(x, Sig):
            made, outside = filled(rnd, x, drawn.fills.get(k))
            bad = bad or outside
            given.append(made)
        elif x is not None:
            given.append(number(rnd, x))
    return given, bad


def _contents(storages):
    return [bytes(memoryview(x)) for x in storages]


def _targets(rnd, call, bound, given):
    """Return storages for the results: none (the kernel allocates), new ones, or operands."""
    kind = rnd.random()
    if call.op.category == "lists" and kind < 0.7:
        return _over_lists(rnd, call, given)
    if kind < 0.5:
        return []
    made = [storage(rnd, s.nbytes, s.dtype.itemsize) if w else None for s, w in zip(call.outs, call.want, strict=True)]
    if kind > 0.75 and bound.claim.inplace and call.op.category != "lists":
        k = rnd.randrange(len(made))
        same = [s for s, x in zip(given, bound.ins, strict=False) if _is_like(x, call.outs[k])]
        if same:
            made[k] = rnd.choice(same)
    return made


def _is_like(x, out):
    """Whether a result may be written over an operand."""
    return isinstance(x, Sig) and x.layout == "dense" and x.dtype is out.dtype and tuple(x.shape) == tuple(out.shape)


def _over_lists(rnd, call, given):
    """Return the operands that the results of a step replace, and room for what else there is."""
    n, lists = call.attrs["n"], [i.name for i in call.op.inputs if i.many]
    kept = [given[k * n : (k + 1) * n] for k, name in enumerate(lists) if name != "grads"]
    over = [s for part in kept for s in part if isinstance(s, type(given[0]))]
    rest = call.outs[len(over) :]
    return [*over[: len(call.outs)], *(storage(rnd, s.nbytes, s.dtype.itemsize) for s in rest)]
