"""Op: the declaration of one operation, and the context that says what calling it means.

An op knows nothing of what is done with it. Calling one goes through `fn`, which the eager engine installs; a current
interpreter (a context variable, never the type of an argument) may give the call another meaning.
"""

import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Any, NamedTuple

from treadle.dtypes import ALL, FLOATS, DType
from treadle.errors import ArgumentError
from treadle.spec import Spec

REQUIRED: Any = inspect.Parameter.empty
Rule = Any  # a function whose parameter names say what it needs, or an Op


class State:
    """Process-wide switch: how many non-default interpreters are active, so that the hot path tests one attribute."""

    __slots__ = ("special",)

    def __init__(self) -> None:
        self.special = 0


STATE = State()
INTERPRETER: ContextVar[Any] = ContextVar("treadle_interpreter", default=None)


class Interpreter:
    """What gives calls of ops another meaning while it is current. The defaults leave everything as it is."""

    lifts = False  # whether tensors from outside stand for something else inside: then writes come here too

    def __call__(self, op: "Op", args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Make one call of an op; attrs in the op's order, and `want` last where it has one."""
        return self.plainly(op, args, attrs)

    def plainly(self, op: "Op", args: tuple[Any, ...], attrs: tuple[Any, ...]) -> Any:
        """Make the call as if no interpreter were current."""
        names = [*op.attrs, "want"] if op.partial else list(op.attrs)
        with outside():
            return op.fn(*args, **dict(zip(names, attrs, strict=False)))

    def write(self, f: Callable[..., Any], x: Any, *args: Any) -> Any:
        """Run f(x, ...), which writes into x in place."""
        raise NotImplementedError

    def watched(self, op: "Op", args: Any, attrs: dict[str, Any], call: Callable[[], Any]) -> Any:
        """Make a call of an op that is about to run as in eager."""
        return call()

    def executed(self, part: Any, operands: tuple[Any, ...]) -> Any:
        """Run an executable."""
        return part.run(*operands)

    def lift(self, x: Any) -> Any:
        """Return what stands for a tensor inside."""
        return x

    def place(self, device: Any) -> Any:
        """Return where a tensor that is made inside, asked for on a device, really goes."""
        return device

    def touch(self, leaf: Any) -> None:
        """The `.grad` of a leaf is looked at or about to be replaced."""

    def guard(self, owner: Any, attribute: str) -> None:
        """What is being done depends on an attribute of an object from outside."""

    def random_state(self, generator: Any, device: Any) -> Any:
        """Return the state of the next random call, or None to draw it now."""
        return None

    def again(self) -> AbstractContextManager[Any]:
        """Context manager: what runs inside has run before, and is to be computed again although it is known."""
        return nullcontext()

    def apply(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Apply a user function that has its own gradient (args are lifted); NotImplemented to have it run as usual."""
        return NotImplemented

    def each(self, f: Callable[..., Any], args: Any) -> Any:
        """Call f, which knows nothing of interpreters, with tensors (or None); it returns a tuple of tensors."""
        with outside():
            return f(*args)


def tracing() -> bool:
    """Whether a function is being traced: what Python does now happens once, what ops do happens at every run."""
    return bool(STATE.special) and getattr(INTERPRETER.get(), "lifts", False)


def depends_on(owner: Any, attribute: str) -> None:
    """Say that what Python does now depends on an attribute: if it changes, a trace of this no longer holds."""
    interpreter = INTERPRETER.get()
    if interpreter is not None:
        interpreter.guard(owner, attribute)


class Live(NamedTuple):
    """Numbers that are read anew every time: `read()` gives as many as there are kinds (int or float)."""

    read: Callable[[], list[Any]]
    kinds: tuple[type, ...]


class outside:
    """Context manager: no interpreter is current inside."""

    def __enter__(self) -> None:
        self.token = INTERPRETER.set(None)

    def __exit__(self, *exc: object) -> None:
        INTERPRETER.reset(self.token)


class interpreting:
    """Context manager: calls of ops inside go to `interpreter(op, inputs, attrs)`."""

    def __init__(self, interpreter: Any) -> None:
        self.interpreter = interpreter

    def __enter__(self) -> Any:
        STATE.special += 1
        self.token = INTERPRETER.set(self.interpreter)
        return self.interpreter

    def __exit__(self, *exc: object) -> None:
        INTERPRETER.reset(self.token)
        STATE.special -= 1


class Input(NamedTuple):
    """One operand of a signature: `x`, `b?` (may be None), `xs*` (a list), `lr#` (a Python number, passed by value)."""

    name: str
    optional: bool = False
    many: bool = False
    number: bool = False


class Sample(NamedTuple):
    """One call of an op for tests: operands are described (see ops.samples), so that any dtype and device can be made
    of them."""

    args: tuple[Any, ...]
    attrs: dict[str, Any]
    name: str = ""


class ErrorCase(NamedTuple):
    """A call that must raise `error` with a text matching `match`, before any kernel runs."""

    sample: Sample
    error: type[Exception]
    match: str


class Num(NamedTuple):
    """Numeric class: how far a kernel may be from the float64 reference (CONTRACT: Numerics)."""

    kind: str  # exact | ulp | contract | mixed | stepwise
    limit: float = 0.0


EXACT = Num("exact")
CONTRACT_CLASS = Num("contract", 4.0)
MIXED = Num("mixed", 4.0)  # where terms cancel: within limit * eps * the size of the terms
STEPWISE = Num("stepwise", 4.0)  # contract, but every step rounds to the element type: updates that land one by one


def ulp(limit: float) -> Num:
    return Num("ulp", limit)


CATALOGUE: dict[str, "Op"] = {}
ELEMENTWISE = frozenset({"unary", "binary", "elementwise"})  # categories of ops whose operands broadcast
WIDE = frozenset({"mean", "rstd", "var", "lse"})  # statistics may be float32 beside a half-precision operand
GRAPH_OPS: dict[str, "GraphOp"] = {}  # control flow: in Graphs only, never called
FN: dict[str, Callable[..., Any]] = {}  # the ops' functions themselves: one frame less than calling the op
INSTALLERS: list[
    Callable[["Op"], None]
] = []  # the eager engine adds itself here; ops declared later are installed at once


class Op:
    """One operation, declared once: everything else (function, method, checks, gradients, tests, docs) is made from
    this.

    Calling an op runs it under the current interpreter: operands by position, attributes by position or keyword.
    """

    __slots__ = (
        "attrs", "aux", "aux_names", "batch", "c_expr", "canon", "category", "check", "cost", "decompose",
        "differentiable", "doc",
        "dtypes", "errors", "fn", "inplace", "inputs", "int_to_float", "kinks", "layout", "main", "name", "num",
        "promote",
        "reference", "results", "samples", "since", "spec", "tier", "version", "vjp",
    )  # fmt: skip

    name: str
    inputs: tuple[Input, ...]
    results: tuple[str, ...]
    attrs: dict[str, Any]  # name -> default, in order
    fn: Callable[..., Any]
    doc: str
    version: int
    since: int
    main: int
    dtypes: frozenset[DType]
    promote: Any
    int_to_float: bool
    num: Num
    samples: Any
    errors: Any
    aux: Any
    aux_names: tuple[str, ...]
    spec: Any
    check: Any
    canon: Any
    layout: Any
    reference: Any
    decompose: Any
    c_expr: Any
    vjp: Any
    batch: Any
    kinks: Any
    cost: Any
    differentiable: bool
    inplace: bool

    def __init__(self, name: str, signature: str, *, tier: str, category: str = "composite", **fields: Any) -> None:
        left, right = signature.split("->")
        self.name, self.tier, self.category = name, tier, category
        self.inputs = tuple(_input(word) for word in left.split())
        self.results = tuple(right.split())
        self.aux, names = fields.pop("aux", (None, ""))
        self.aux_names = tuple(names.split())
        for key, default in _DEFAULTS.items():
            setattr(self, key, fields.pop(key, default))
        if fields:
            raise ArgumentError(f"op {name}: unknown fields {sorted(fields)}")
        self.attrs = self._find_attrs()
        self.main = self._find_main()
        self.doc = inspect.cleandoc(self.doc)
        self.fn = self._not_installed
        self._register()

    def _register(self) -> None:
        CATALOGUE[self.name] = self
        for install in INSTALLERS:
            install(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        operands = " ".join(i.name + "?" * i.optional + "*" * i.many + "#" * i.number for i in self.inputs)
        return f"<op {self.name}: {operands} -> {' '.join(self.results)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return CATALOGUE.__getitem__, (self.name,)

    def _not_installed(self, *args: Any, **kwargs: Any) -> Any:
        raise ArgumentError(f"op {self.name}: no engine is installed; import treadle first")

    def _find_attrs(self) -> dict[str, Any]:
        if self.category in ELEMENTWISE:
            return {}
        sources = (self.decompose, self.reference, self.layout, self.spec)
        source = next((f for f in sources if inspect.isfunction(f)), None)
        known = (
            {i.name for i in self.inputs}
            | set(self.aux_names)
            | ({"shape", "strides"} if self.tier == "view" else set())
        )
        found = {} if source is None else dict(inspect.signature(source).parameters)
        return {n: p.default for n, p in found.items() if n not in known and p.kind is not p.VAR_POSITIONAL}

    def _find_main(self) -> int:
        """Index of the operand whose dtype kernels are claimed by."""
        for i, operand in enumerate(self.inputs):
            if not operand.number and operand.name not in ("c", "i"):
                return i
        return 0

    def flops(self, ins: Any, outs: Any, attrs: dict[str, Any]) -> int:
        """Arithmetic operations of one call, by the declared cost; else one per element of the larger side.

        ins, outs: Specs (numbers and None among the operands); views and copies do none.
        """
        made = [o for o in outs if o is not None]
        if self.tier in ("view", "copy") or not made:
            return 0
        if self.cost is not None:
            return int(self.cost(made[0], *ins, **{k: v for k, v in attrs.items() if k in self.attrs}))
        return max(x.size for x in [*made, *ins] if isinstance(x, Spec))

    @property
    def partial(self) -> bool:
        """Whether a caller may ask for some results only (a gradient of several operands)."""
        return len(self.results) > 1 and self.name.endswith("_grad")


class GraphOp(Op):
    """An op with Graphs among its attributes: control flow. Nodes have it; what users call is `td.cond` and its like.

    It is not in CATALOGUE: no backend owes it, the executor runs it. `spec(*specs, **attrs)` gives all results.
    """

    __slots__ = ()

    def __init__(self, name: str, signature: str, **fields: Any) -> None:
        super().__init__(name, signature, tier="control", category="control", vjp={}, **fields)

    def _register(self) -> None:
        GRAPH_OPS[self.name] = self

    def __reduce__(self) -> tuple[Any, ...]:
        return GRAPH_OPS.__getitem__, (self.name,)

    def _not_installed(self, *args: Any, **kwargs: Any) -> Any:
        raise ArgumentError(f"{self.name}: this op is for graphs; call td.{self.name}")

    @property
    def partial(self) -> bool:
        """Any of its results may be unwanted."""
        return True


def op_named(name: str) -> Op | None:
    """The op of a name, in the catalogue or among those of graphs."""
    return CATALOGUE.get(name) or GRAPH_OPS.get(name)


def _input(word: str) -> Input:
    name = word.rstrip("?*#")
    return Input(name, "?" in word, "*" in word, "#" in word)


def _nothing(*args: Any, **attrs: Any) -> None:
    return None


_DEFAULTS: dict[str, Any] = {
    "version": 1, "since": 0,  # semantic revision; contract minor that introduced the op
    "dtypes": frozenset(ALL),  # allowed for the main operand after promotion
    "promote": False,  # operands are promoted to one dtype and broadcast to one shape
    "int_to_float": False,  # integers are computed in the default float type
    "spec": None,  # (*specs, **attrs) -> Spec or tuple of Specs; raises for operands that do not fit
    "check": _nothing,  # (*specs, **attrs): extra preconditions
    "canon": None,  # (*specs, **attrs) -> attrs in canonical form
    "layout": None,  # view ops: (shape, strides, **attrs) -> (shape, strides, offset) or None
    "reference": None, "decompose": None, "c_expr": None,
    "vjp": None,  # {"x w": rule}; {} = no gradient at all; None = through the decomposition
    # what the op does with operands of which some have a batch axis in front (treadle.batching.rules): a text that says
    # where the batch goes, or (operands, which of them are batched, attrs, want) -> results; None = by category
    "batch": None,
    "differentiable": True, "inplace": False,
    "samples": (), "errors": (), "num": CONTRACT_CLASS, "kinks": None, "cost": None, "doc": "",
}  # fmt: skip


def same(x: Spec, *rest: Spec, **attrs: Any) -> Spec:
    return x


def boolean(x: Spec, *rest: Spec, **attrs: Any) -> Spec:
    return Spec(x.shape, ALL[0])


def elementwise(
    name: str, operands: str, c_expr: Any, reference: Any, vjp: Any = None, tier: str = "kernel", **fields: Any
) -> Op:
    """Declare an op that works element by element on operands promoted to one dtype and broadcast to one shape."""
    fields = {"spec": same, "promote": True, "num": EXACT, **fields}
    category = {1: "unary", 2: "binary"}.get(len(operands.split()), "elementwise")
    result = "gx" if operands.startswith("g ") else "y"
    return Op(
        name, f"{operands} -> {result}", tier=tier, category=category, c_expr=c_expr, reference=reference, vjp=vjp,
        **fields
    )  # fmt: skip


def unary(name: str, c_expr: Any, reference: Any, vjp: Any = None, **fields: Any) -> Op:
    return elementwise(name, "x", c_expr, reference, vjp, **fields)


def unary_float(name: str, c_expr: Any, reference: Any, vjp: Any = None, **fields: Any) -> Op:
    defaults: dict[str, Any] = {"dtypes": FLOATS, "int_to_float": True, "num": ulp(4)}
    return elementwise(name, "x", c_expr, reference, vjp, **defaults | fields)


def binary(name: str, c_expr: Any, reference: Any, vjp: Any = None, **fields: Any) -> Op:
    return elementwise(name, "a b", c_expr, reference, vjp, **fields)


def composite(name: str, signature: str, decompose: Any, vjp: Any = None, **fields: Any) -> Op:
    """Declare an op that has a decomposition over other ops and that a backend may claim natively."""
    return Op(name, signature, tier="composite", decompose=decompose, vjp=vjp, **{"dtypes": FLOATS} | fields)


def view(name: str, signature: str, layout: Any, **fields: Any) -> Op:
    """Declare an op that only reads the same storage through another layout."""
    return Op(name, signature, tier="view", category="view", layout=layout, **{"num": EXACT} | fields)


def host(name: str, signature: str, reference: Any, **fields: Any) -> Op:
    """Declare an op whose result shape depends on data: its NumPy reference runs on the host unless a backend claims
    it."""
    return Op(name, signature, tier="host", category="host", reference=reference, **{"vjp": {}, "num": EXACT} | fields)


def names(dtypes: Iterable[DType]) -> str:
    return ", ".join(sorted(d.name for d in dtypes))
