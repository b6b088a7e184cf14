"""What lines a random program may have: each function draws a step, or None where nothing fits.

Which ops there are, on what types and with what attributes, is read from the declarations: elementwise ops take values
of any shapes that broadcast; ops that know their operand by axes take any value; all others are called as one of their
samples, with values of the program made to fit.
"""

from typing import Any

import numpy as np

from treadle import dtypes
from treadle._tensor import Tensor
from treadle.conformance.case import samples_for, tensors_in
from treadle.conformance.programs.places import PLACES, fits
from treadle.conformance.programs.program import Input, Ref, Step
from treadle.conformance.programs.session import ELEMENTS, Session
from treadle.dtypes import DType, bool_, float32, float64, int32, int64
from treadle.op import CATALOGUE, ELEMENTWISE, Op
from treadle.ops.samples import Arg

KINDS = {float32: 0.5, float64: 0.2, int64: 0.13, int32: 0.05, bool_: 0.12}  # of inputs, and how often
SIZES = (1, 2, 3, 4, 5, 7)
AXES = frozenset({"axis", "axes", "keepdims"})
SAMPLED = [op for op in CATALOGUE.values() if op.tier != "host" and op.category != "fused"]  # made of others by a pass
PLAIN = [op for op in SAMPLED if op.category in ELEMENTWISE]
ALONG = [
    op for op in SAMPLED
    if AXES & set(op.attrs) and all(n in AXES or not isinstance(d, type) for n, d in op.attrs.items())
    and op.tier != "view" and not any(i.name in ("i", "u") for i in op.inputs)
]  # fmt: skip
METHODS = [n for n in dir(Tensor) if n.endswith("_") and not n.endswith("__") and n[:-1] in CATALOGUE]
METHODS = [n for n in METHODS if CATALOGUE[n[:-1]].category in ELEMENTWISE]


class Draw:
    """The random choices of one program."""

    def __init__(self, rng: np.random.Generator, session: Session, gradient: bool) -> None:
        self.rng, self.session, self.gradient = rng, session, gradient
        rank = int(rng.choice(5, p=[0.05, 0.25, 0.4, 0.2, 0.1]))
        self.shape = tuple(int(rng.choice(SIZES)) for _ in range(rank))  # what inputs are like
        if rank and rng.random() < 0.06:
            at = int(rng.integers(rank))
            self.shape = (*self.shape[:at], 0, *self.shape[at + 1 :])

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, choices: Any) -> Any:
        """One of a list, equally likely."""
        return choices[int(self.rng.integers(len(choices)))]

    def value(self, fit: Any = None) -> str | None:
        """The name of a value (the later, the likelier) for which `fit(tensor)` holds."""
        names = [n for n, v in self.session.values.items() if fit is None or fit(v)]
        if not names:
            return None
        return names[-1 - min(int(self.rng.geometric(0.25)) - 1, len(names) - 1)]

    # ---- inputs ------------------------------------------------------------------------------------------------
    def first_inputs(self) -> None:
        """One to three inputs of about the program's shape."""
        for _ in range(int(self.rng.integers(1, 4))):
            kind = self.pick_kind()
            self.input(Arg(self.about()), kind)

    def pick_kind(self) -> DType:
        return list(KINDS)[int(self.rng.choice(len(KINDS), p=list(KINDS.values())))]

    def about(self) -> tuple[int, ...]:
        """The program's shape, or one that broadcasts to it."""
        shape = self.shape
        if self.chance(0.4):
            shape = tuple(1 if self.chance(0.3) else n for n in shape)
            shape = shape[int(self.rng.integers(len(shape) + 1)) :] if self.chance(0.4) else shape
        return shape

    def input(self, arg: Arg, kind: DType) -> str:
        """A new input as an operand of a sample is described, lying in memory in one of several ways."""
        a = np.asarray(arg.make(self.rng, kind))
        if a.dtype.kind == "f" and arg.kind == "main" and self.chance(0.6):
            a = rounded(a)  # short in print, and equal values meet
        place = "dense"
        if self.chance(0.35):
            place = self.pick(list(PLACES))
            a = np.ascontiguousarray(np.broadcast_to(a[:1], a.shape)) if place == "expanded" and a.ndim else a
            place = place if fits(place, a) else "dense"
        leaf = self.gradient and a.dtype.kind == "f" and self.chance(0.7)
        closed = self.chance(0.15) and any(not x.closed for x in self.session.inputs)
        return self.session.add_input(Input(self.session.name("c" if closed else "x"), a, place, leaf, closed))

    def put(self, form: str, what: str, args: Any, attrs: Any = None) -> str | None:
        """Make a step on the way to another; the name of its result."""
        name = self.session.name("v")
        done = self.session.try_step(Step(form, what, tuple(args), attrs or {}, (name,)))
        return name if done else None

    # ---- operands ----------------------------------------------------------------------------------------------
    def operand(self, arg: Any, kind: DType) -> Any:
        """A value of the program for an operand of a sample, made to fit, or a new input."""
        if arg.__class__ is list:
            return [self.operand(a, kind) for a in arg]
        if not isinstance(arg, Arg):
            return arg
        wanted = {"bool": bool_, "int64": int64, "int32": int32, "uint32": dtypes.uint32}.get(arg.kind, kind)
        found = self.value(lambda v: v.shape == arg.shape and v.dtype is wanted)
        if found is not None and self.inside(found, arg) and self.chance(0.85):
            return Ref(found)
        if arg.kind == "main" and wanted.kind == "f" and self.chance(0.8):
            name = self.value(lambda v: v.dtype.kind != "b" and self.reaches(v, arg.shape))
            if name is not None:
                shaped = self.shaped(name, arg.shape)
                if shaped is not None and self.session.values[shaped].dtype is not wanted:
                    shaped = self.put("op", "cast", [Ref(shaped)], {"dtype": wanted})
                if shaped is not None:
                    return Ref(shaped)
        return Ref(self.input(arg, kind))

    def inside(self, name: str, arg: Arg) -> bool:
        """Whether a value's elements are what the sample asks for."""
        a = self.session.array(name)
        if arg.kind == "positive":
            return bool((a >= 0.05).all())
        if arg.kind == "unit":
            return bool((np.abs(a) < 1).all())
        return arg.kind in ("main", "bool") or bool(((a >= arg.low) & (a < arg.high)).all())

    @staticmethod
    def reaches(v: Any, shape: tuple[int, ...]) -> bool:
        """Whether a view of a value can have a shape."""
        count = int(np.prod(shape))
        larger = v.ndim == len(shape) and all(n >= m for n, m in zip(v.shape, shape, strict=True))
        return bool(v.sig.size == count or larger or _broadcasts(v.shape, shape))

    def shaped(self, name: str, shape: tuple[int, ...]) -> str | None:
        v = self.session.values[name]
        if v.shape == shape:
            return name
        if _broadcasts(v.shape, shape):
            return self.put("op", "expand", [Ref(name)], {"to": shape})
        if v.sig.size == int(np.prod(shape)):
            return self.put("op", "reshape", [Ref(name)], {"to": shape})
        return self.put("index", "", [Ref(name), tuple(slice(0, n) for n in shape)])

    def number(self, whole: bool) -> Any:
        """A Python number."""
        return int(self.rng.integers(-3, 4)) if whole else float(self.rng.integers(-8, 9)) / 4

    def finish(self, form: str, what: str, args: Any, attrs: Any = None, results: int = 1) -> Step:
        names = tuple(self.session.name("v") for _ in range(results))
        return Step(form, what, tuple(args), attrs or {}, names)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether a tensor of a shape can be expanded to another."""
    lead = len(to) - len(shape)
    return lead >= 0 and all(n in (1, m) for n, m in zip(shape, to[lead:], strict=True)) and shape != to


def _meet(shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The shape that shapes broadcast to."""
    try:
        out = np.broadcast_shapes(*shapes)
    except ValueError:
        return None
    return out if int(np.prod(out)) <= ELEMENTS else None


def rounded(a: Any) -> Any:
    """Floats as quarters, without a negative zero."""
    return np.asarray(np.round(a * 4) / 4 + 0.0).astype(a.dtype)


# ---- lines ---------------------------------------------------------------------------------------------------------
def elementwise(d: Draw) -> Step | None:
    """An elementwise op on values that broadcast, sometimes of different types, sometimes with a number."""
    op = d.pick(PLAIN)
    shape: tuple[int, ...] = ()
    args: list[Any] = []
    for operand in op.inputs:
        if args and operand.name != "c" and any(isinstance(a, Ref) for a in args) and d.chance(0.2):
            args.append(d.number(d.chance(0.5)))
            continue
        name = _joining(d, op, operand.name, shape)
        if name is None:
            return None
        shape = _meet([shape, d.session.values[name].shape]) or ()
        args.append(Ref(name))
    if op.name == "clamp" and args[1] == args[2]:  # nothing lies between: a gradient by convention, no slope
        return None
    return d.finish("op", op.name, args)


def _joining(d: Draw, op: Op, operand: str, shape: tuple[int, ...]) -> str | None:
    """A value that an elementwise op takes and that broadcasts with what is there."""

    def suits(v: Any) -> bool:
        right = v.dtype is bool_ if operand == "c" else v.dtype in op.dtypes or op.int_to_float
        return right and _meet([shape, v.shape]) is not None

    found = d.value(suits)
    if found is not None or operand != "c":
        return found
    other = d.value(lambda v: _meet([shape, v.shape]) is not None and v.dtype.kind != "b")
    return None if other is None else d.put("op", "lt", [Ref(other), 0])


def along_axes(d: Draw) -> Step | None:
    """A reduction, a softmax, a join: ops that take a value of any shape and say along which axes."""
    op = d.pick(ALONG)
    name = d.value(lambda v: v.dtype in op.dtypes and v.ndim > 0)
    if name is None:
        return None
    x = d.session.values[name]
    args: list[Any] = [Ref(name)] * len(op.inputs)
    if op.inputs[0].many:
        like = lambda v: v.shape == x.shape and v.dtype is x.dtype
        args = [[Ref(d.value(like) or name) for _ in range(int(d.rng.integers(1, 4)))]]
    return d.finish("op", op.name, args, _attributes(d, op, x.ndim), len(op.results))


def _attributes(d: Draw, op: Op, rank: int) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    if "axis" in op.attrs:
        attrs["axis"] = int(d.rng.integers(rank))
    if "axes" in op.attrs:
        attrs["axes"] = tuple(a for a in range(rank) if d.chance(0.6))
    if "keepdims" in op.attrs and d.chance(0.5):
        attrs["keepdims"] = True
    return attrs


def sampled(d: Draw) -> Step | None:
    """Any op, called as one of its samples."""
    op = d.pick(SAMPLED)
    kinds = [k for k in KINDS if k in op.dtypes] or [k for k in op.dtypes if k.itemsize > 2]
    kind = d.pick(kinds)
    small = [s for _, s in samples_for(op, kind) if _elements(s) <= ELEMENTS]
    if not small:
        return None
    sample = d.pick(small)
    args = [d.operand(a, kind) for a in sample.args]
    lists = op.category == "lists"
    if lists:
        count = sum(len(sample.args[0]) if r.endswith("*") else 1 for r in op.results)
        return d.finish("op", op.name, args, sample.attrs, count)
    return d.finish("op", op.name, args, sample.attrs, len(op.results))


def _elements(sample: Any) -> int:
    return sum(int(np.prod(a.shape)) for a in tensors_in(sample.args))


def view(d: Draw) -> Step | None:
    """A view of any value."""
    name = d.value()
    assert name is not None
    x = d.session.values[name]
    form = d.pick(("index", "index", "permute", "reshape", "expand", "flip", "windows"))
    if form == "index":
        return d.finish("index", "", [Ref(name), _items(d, x.shape)])
    attrs = VIEWS[form](d, tuple(x.shape))
    return None if attrs is None else d.finish("op", form, [Ref(name)], attrs)


def _items(d: Draw, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """What stands in the brackets: slices, integers, None, an ellipsis."""
    items: list[Any] = []
    for n in shape[: int(d.rng.integers(len(shape) + 1))]:
        if n and d.chance(0.25):
            items.append(int(d.rng.integers(-n, n)))
        elif d.chance(0.75):
            items.append(_slice(d, n))
        else:
            items.append(slice(None))
        items += [None] * d.chance(0.08)
    return (..., *items) if d.chance(0.1) and len(items) == len(shape) and None not in items else tuple(items)


def _slice(d: Draw, n: int) -> slice:
    step = int(d.rng.choice([1, 1, 1, 2, -1]))
    if step < 0:
        return slice(None, None, -1)
    low = int(d.rng.integers(0, n + 1)) if d.chance(0.6) else None
    high = int(d.rng.integers((low or 0), n + 1)) if d.chance(0.6) else None
    return slice(low, high, step)


def _reshape(d: Draw, shape: tuple[int, ...]) -> dict[str, Any]:
    count = int(np.prod(shape))
    if count and d.chance(0.7):
        first = d.pick([n for n in range(1, count + 1) if count % n == 0])
        rest = count // first
        return {"to": d.pick([(first, rest), (first, 1, rest), (rest, first)])}
    return {"to": d.pick([(count,), (1, *shape), (*shape, 1)])}


def _windows(d: Draw, shape: tuple[int, ...]) -> dict[str, Any] | None:
    if not shape or min(shape) == 0:
        return None
    axis = int(d.rng.integers(len(shape)))
    size, dilation = int(d.rng.integers(1, shape[axis] + 1)), int(d.rng.integers(1, 3))
    if dilation * (size - 1) + 1 > shape[axis]:
        dilation = 1
    return {"axis": axis, "size": size, "step": int(d.rng.integers(1, 3)), "dilation": dilation}


VIEWS: dict[str, Any] = {
    "permute": lambda d, shape: {"axes": tuple(int(a) for a in d.rng.permutation(len(shape)))},
    "reshape": _reshape,
    "expand": lambda d, shape: {"to": (*((2,) if d.chance(0.5) else ()), *(3 if n == 1 else n for n in shape))},
    "flip": lambda d, shape: {"axes": tuple(a for a in range(len(shape)) if d.chance(0.5))},
    "windows": _windows,
}


def write(d: Draw) -> Step | None:
    """A write into a value that was made before: `x[items] = y` or `x.add_(y)`."""
    name = d.value(lambda v: v.sig.size > 0 or d.chance(0.2))
    if name is None or d.session.root[name] in d.session.frozen:
        return None
    x = d.session.values[name]
    whole = x.dtype.kind != "f"
    if d.chance(0.5):
        items = _items(d, tuple(x.shape))
        shape = np.empty(x.shape, bool)[(*items, ...)].shape if Ellipsis not in items else tuple(x.shape)
        y = d.value(lambda v: _fits_into(v, x, shape)) if d.chance(0.75) else None
        return Step("assign", "", (Ref(name), items, _number_for(d, x) if y is None else Ref(y)))
    method = d.pick((*METHODS, "copy_", "fill_", "zero_", "add_", "mul_"))
    if method in ("zero_", "fill_"):
        return Step("method", method, (Ref(name), *([_number_for(d, x)] if method == "fill_" else [])))
    others: list[Any] = []
    for _ in range(1 if method == "copy_" else len(CATALOGUE[_op_of(method)].inputs) - 1):
        y = d.value(lambda v: _fits_into(v, x, tuple(x.shape))) if d.chance(0.7) or method == "copy_" else None
        others.append(d.number(whole) if y is None else Ref(y))
    if method == "copy_" and not isinstance(others[0], Ref):
        return None
    return Step("method", method, (Ref(name), *others))


def _op_of(method: str) -> str:
    return method[:-1]


def _number_for(d: Draw, x: Any) -> Any:
    if x.dtype is bool_:
        return d.chance(0.5)
    number = d.number(x.dtype.kind != "f")
    return abs(number) if x.dtype.kind == "u" else number


def _fits_into(v: Any, x: Any, shape: tuple[int, ...]) -> bool:
    """Whether a value can be written over a region: NumPy and the tensors agree on what that is for these types."""
    order = "buif"
    return order.index(v.dtype.kind) <= order.index(x.dtype.kind) and (v.shape == shape or _broadcasts(v.shape, shape))


def constant(d: Draw) -> Step | None:
    """A tensor that is made inside of the program."""
    a = np.asarray(Arg(d.about()).make(d.rng, d.pick_kind()))
    a = rounded(a) if a.dtype.kind == "f" else a
    return d.finish("constant", "", [a]) if a.size <= 24 else None


def again(d: Draw) -> Step | None:
    """A line that is there already: a common subexpression."""
    pure = [s for s in d.session.steps if s.form == "op"]
    if not pure:
        return None
    step = d.pick(pure)
    return step._replace(results=tuple(d.session.name("v") for _ in step.results))


FORMS = [(elementwise, 0.38), (along_axes, 0.12), (sampled, 0.16), (view, 0.16), (write, 0.12), (constant, 0.03),
    (again, 0.03)]  # fmt: skip
