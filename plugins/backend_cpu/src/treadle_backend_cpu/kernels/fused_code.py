"""Code of fused regions: from the body of a `fused` op to the words that fused.c runs.

The machine has operands (inputs, results, constants, slots) and an accumulator, a block in registers. Its stages change
the accumulator, with an operand or a number beside it. A few functions are loops instead, from operands to an operand;
they end a run of stages, and the accumulator with it. The order of the body is kept; a value is stored where it is
needed after the accumulator has gone on to another one."""

from typing import NamedTuple

import numpy as np

from treadle.dtypes import dtype as find_dtype

# What fused.c knows, by position; tools/generate_elementwise.py makes its lists of these.
PLAIN = ("end", "load", "store", "stream", "not", "truth", "number", "where_c", "where_a", "where_b")
BOTH, ALL_WAYS = ("", "NUMBER"), ("", "NUMBER", "FROM", "FROM_NUMBER")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
WAYS = {  # functions of two: what is beside the accumulator, and (FROM) whether that comes first
    "and": ("",), "or": ("",), "xor": ("",), **dict.fromkeys(COMPARISONS, BOTH),
    **dict.fromkeys(("add", "mul", "maximum", "minimum"), BOTH), **dict.fromkeys(("sub", "div"), ALL_WAYS),
    **dict.fromkeys(("relu_grad", "tanh_grad", "sigmoid_grad", "silu_grad", "gelu_grad", "gelu_tanh_grad"),
        ("", "FROM")),
}  # fmt: skip
UNARY = (
    "neg", "abs", "sign", "floor", "round", "sqrt", "rsqrt", "square", "exp", "log", "expm1", "log1p", "tanh", "erf",
    "relu", "sigmoid", "silu", "gelu", "gelu_tanh", "softplus",
)  # fmt: skip
ROUNDING = ("round_f16", "round_bf16")  # of float32
TWO = [f"{name}_{way.lower()}".rstrip("_") for name, ways in WAYS.items() for way in ways]
STAGES = (*PLAIN, *TWO, *UNARY, *ROUNDING)
CODE = {name: k for k, name in enumerate(STAGES)}
LOOPS = ("sin", "cos", "rem", "pow", "atan2")  # these stay loops from operand to operand
STEP_STAGES, STEP_LOOP = range(2)
FORMS = {"float32": 0, "float64": 0, "float16": 1, "bfloat16": 2, "bool": 3}  # how fused.c stores an operand
MAX_INPUTS, MAX_OPERANDS, MAX_WORDS = 8, 40, 512

COMMUTATIVE = frozenset({"add", "mul", "maximum", "minimum", "eq", "ne", "and", "or", "xor"})
EXCHANGED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}
LOGIC = {
    "bit_and": "and", "mul": "and", "minimum": "and", "bit_or": "or", "add": "or", "maximum": "or", "bit_xor": "xor",
    "ne": "xor",
}  # fmt: skip
HALVES = {"float16": "round_f16", "bfloat16": "round_bf16"}
EXACT = frozenset({"neg", "abs", "relu", "relu_grad", "maximum", "minimum", "where", "sign", "floor", "round"})
HEAVY = frozenset(WAYS) - {"and", "or", "xor", "add", "mul", "sub", "maximum", "minimum", "relu_grad", *COMPARISONS}
HEAVY |= frozenset(UNARY[5:]) - {"square", "relu"}
STAGE_COST, HEAVY_COST, LOOP_COST, OPERAND_COST = 0.02, 0.3, 1.0, 0.04  # nanoseconds for one element, about


class Declined(Exception):
    """The machine cannot run this body."""


class Code(NamedTuple):
    """words: the steps. staged: these are stages only. late: all inputs are read before a result is written.
    constants: their bits. slots: how many. cost: nanoseconds for one element, about. results: their dtypes."""

    words: tuple
    staged: bool
    late: bool
    constants: tuple
    slots: int
    cost: float
    results: list


class Number(NamedTuple):
    """A number among operands; plain ones would be mistaken for values, as 1.0 == 1."""

    value: float


def code_of(kinds, body, results, kind, large=False):
    """Return the Code of a body over inputs of these dtypes, computed in float32 or float64; Declined if there is none.

    kinds, kind: names of dtypes. large: results will be written past the caches, so they are not read again."""
    return Writer(kinds, *_simple(len(kinds), body, results), kind, large).code()


def _simple(n_in, body, results):
    """The body without ops that are made of others, and without instructions that nothing needs."""
    now, out = {k: k for k in range(n_in)}, []
    needed = _needed(n_in, body, results)

    def put(name, *operands):
        out.append((name, *operands))
        return n_in + len(out) - 1

    for k, (name, *operands) in enumerate(body):
        if n_in + k not in needed:
            continue
        xs = [now[x] if x.__class__ is int else Number(x) if x.__class__ is float else x for x in operands]
        if name == "clamp":
            made = put("minimum", put("maximum", xs[0], xs[1]), xs[2])
        elif name == "reciprocal":
            made = put("div", Number(1.0), xs[0])
        elif name == "mul" and xs[0] == xs[1]:
            made = put("square", xs[0])
        else:
            made = put({"true_div": "div"}.get(name, name), *xs)
        now[n_in + k] = made
    return out, [now[v] for v in results]


def _needed(n_in, body, results):
    """Values that lead to a result."""
    found = set(results)
    for v in range(n_in + len(body) - 1, n_in - 1, -1):
        if v in found:
            found.update(x for x in body[v - n_in][1:] if x.__class__ is int)
    return found


class Writer:
    """Writes the code of one body. Values are numbered: inputs, then instructions."""

    def __init__(self, kinds, body, results, kind, large):
        self.kinds, self.kind, self.large = list(kinds), kind, large
        self.n_in, self.results = len(kinds), results
        self.home = {v: ("input", v) for v in range(self.n_in)}  # value -> the operand that holds it
        self.acc = None  # the value in the accumulator
        self.stages = []  # those since the last loop: codes and arguments
        self.written, self.late = False, True
        self.steps, self.constants, self.free, self.slots, self.cost = [], {}, [], 0, 0.0
        self.left = dict.fromkeys(range(self.n_in + len(body)), 0)  # uses to come
        for _, *operands in body:
            for x in operands:
                if x.__class__ is int:
                    self.left[x] += 1
        for v, (name, *operands) in enumerate(body, self.n_in):
            self.kinds.append(self._kind(name, operands))
            self._instruction(v, name, operands)
        for v in dict.fromkeys(v for v in results if v < self.n_in):
            self._deliver(v)
        self._close()

    def code(self):
        """What has been written, with operands by number."""
        n_out = len(self.results)
        starts = {"input": 0, "result": self.n_in, "constant": self.n_in + n_out}
        starts["slot"] = starts["constant"] + len(self.constants)

        def number(x):
            if x.__class__ is int:
                return x
            return starts[x[0]] + x[1] if x[0].__class__ is str else number(x[0]) | number(x[1]) << 16

        words = []
        for step, arguments in self.steps:
            words += [step, len(arguments), *map(number, arguments)]
        if self.n_in > MAX_INPUTS or starts["slot"] + self.slots > MAX_OPERANDS or len(words) > MAX_WORDS:
            raise Declined("too much")
        if not set(self.kinds) <= {*HALVES, "bool", "float32"} and not set(self.kinds) <= {"bool", "float64"}:
            raise Declined("dtypes")
        staged = [step for step, _ in self.steps] == [STEP_STAGES]
        cost = self.cost + OPERAND_COST * (self.n_in + n_out)
        results = [self.kinds[v] for v in self.results]
        return Code(tuple(words), staged, self.late, tuple(self.constants), self.slots, cost, results)

    # ---- values ----------------------------------------------------------------------------------------------------
    def _kind(self, name, operands):
        """The dtype of an instruction's result."""
        if name == "cast":
            return operands[1]
        return "bool" if name in COMPARISONS else self._computed(name, operands)

    def _computed(self, name, operands):
        """The dtype of the operands, but for a condition."""
        own = [self.kinds[x] for x in (operands[1:] if name == "where" else operands) if x.__class__ is int]
        return own[0] if own else self.kind

    def _bits(self, x, kind):
        """The bits of a number that stands beside operands of a dtype; those of float32 twice."""
        with np.errstate(over="ignore"):
            element = np.asarray(x.value).astype(find_dtype(kind).np).astype(self.kind)
        return int(np.repeat(element, 8 // element.itemsize).view(np.int64)[0])

    def _slot(self):
        if self.free:
            return self.free.pop()
        self.slots += 1
        return "slot", self.slots - 1

    def _release(self, values):
        """Give back the slots of values that nobody needs."""
        for x in dict.fromkeys(values):
            if not self.left[x] and self.home.get(x, ("",))[0] == "slot":
                self.free.append(self.home.pop(x))

    def _operand(self, x, kind):
        """The operand that holds a value or number; the accumulator is stored if nothing does."""
        if x.__class__ is Number:
            return "constant", self.constants.setdefault(self._bits(x, kind), len(self.constants))
        if x not in self.home:
            self._store()
        return self.home[x]

    def _store(self):
        self.home[self.acc] = self._slot()
        self._stage("store", self.home[self.acc])

    def _keep(self):
        """Store the accumulator if it is needed later and nothing else holds it: it is about to change."""
        if self.acc is not None and self.left[self.acc] and self.acc not in self.home:
            self._store()

    def _take(self, x):
        """Bring a value into the accumulator, and keep it if it is needed again."""
        if self.acc != x:
            self._keep()
            self._stage("load", self.home[x])
            self.acc = x
        self._keep()

    def _deliver(self, v):
        """Store a value in the results that it is."""
        for o, r in enumerate(self.results):
            if r == v and self.home.get(v) != ("result", o):
                self._take(v)
                self._stage("store", ("result", o))
                if not self.large:
                    self.home.setdefault(v, ("result", o))

    # ---- steps -----------------------------------------------------------------------------------------------------
    def _touch(self, read, written):
        """Note which operands are read, and which one is written then."""
        self.late &= not (self.written and any(kind == "input" for kind, _ in read))
        self.written |= written is not None and written[0] == "result"

    def _stage(self, name, argument=0):
        self.stages += [CODE[name], argument]
        if name == "store":
            self._touch((), argument)
        elif argument.__class__ is tuple:
            self._touch((argument,) if argument[0].__class__ is str else argument, None)
        self.cost += HEAVY_COST if name.split("_number")[0].split("_from")[0] in HEAVY else STAGE_COST

    def _close(self):
        """End a run of stages: the accumulator is gone."""
        self._keep()
        if self.stages:
            self.steps.append((STEP_STAGES, [*self.stages, CODE["end"], 0]))
        self.stages, self.acc = [], None

    def _instruction(self, v, name, operands):
        values = [x for x in operands if x.__class__ is int]
        for x in values:
            self.left[x] -= 1
        if name == "cast":
            self._cast(*operands)
        elif name == "where":
            self._where(operands, self.kinds[v])
        elif (kind := self._computed(name, operands)) == "bool":
            self._logic(name, *operands)
        elif name in LOOPS:
            self._loop(v, name, operands, kind)
        elif name in UNARY:
            self._take(operands[0])
            self._stage(name)
        elif name in WAYS:
            self._binary(name, *operands, kind)
        else:
            raise Declined(name)
        if v not in self.home:
            self.acc = v
        self._release(values)
        rounding = HALVES.get(self.kinds[v])  # one that is a result only is rounded when it is put away
        if rounding and self.left[v] and self._inexact(name, operands):
            self._rounded(v, rounding)
        self._deliver(v)

    def _inexact(self, name, operands):
        """Whether the result of an op on halves may be none."""
        return self.kinds[operands[0]] != "bool" if name == "cast" else name not in EXACT

    def _rounded(self, v, rounding):
        if self.acc != v:
            self._stage("load", self.home[v])
            self.free += [p for p in [self.home.pop(v)] if p[0] == "slot"]
        self._stage(rounding)
        self.acc = v

    def _loop(self, v, name, operands, kind):
        """A function that is a loop; its result may lie where an operand did."""
        places = [self._operand(x, kind) for x in operands]
        self._close()
        self._release([x for x in operands if x.__class__ is int])
        self.home[v] = ("result", self.results.index(v)) if v in self.results else self._slot()
        self._touch(places, self.home[v])
        self.steps.append((STEP_LOOP + LOOPS.index(name), [*places, self.home[v]]))
        self.cost += LOOP_COST

    # ---- instructions that leave their result in the accumulator ----------------------------------------------------
    def _binary(self, name, x, y, kind):
        if x.__class__ is Number or (self.acc == y != x):
            name = name if name in COMMUTATIVE else EXCHANGED.get(name, f"{name}_from")
            x, y = y, x
        if y.__class__ is Number and f"{name}_number" in CODE:
            self._take(x)
            self._stage(f"{name}_number", self._bits(y, kind))
        else:
            place = self._operand(y, kind)
            self._take(x)
            self._stage(name, place)

    def _where(self, operands, kind):
        here = operands.index(self.acc) if self.acc in operands else 0
        places = tuple(self._operand(x, kind) for k, x in enumerate(operands) if k != here)
        self._take(operands[here])
        self._stage(("where_c", "where_a", "where_b")[here], places)

    def _cast(self, x, to):
        self._take(x)
        if to == "bool" and self.kinds[x] != "bool":
            self._stage("truth")
        elif to != "bool" and self.kinds[x] == "bool":
            self._stage("number")

    def _logic(self, name, x, y=None):
        if name == "bit_not":
            self._take(x)
        elif name == "eq" or name in LOGIC:
            self._binary(LOGIC.get(name, "xor"), x, y, "bool")
        else:
            raise Declined(name)
        if name in ("bit_not", "eq"):
            self._stage("not")
