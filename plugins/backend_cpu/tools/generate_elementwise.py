"""Write csrc/elementwise_*.inc: loops and kernels for every op of the core with a C expression.

Also csrc/fused_*.inc, the stages of fused regions, from the same expressions and the lists in kernels/fused_code.py.

    python tools/generate_elementwise.py            rewrite the files that changed
    python tools/generate_elementwise.py --check    exit with 1 if one would change; a test does so

An op's c_expr uses its operands' names, C operators, plain literals and functions (exp, max ...).
Here it is parsed, typed and written again with the names of mathf.h, mathd.h and integer.h: float16
and bfloat16 share the loops of float32, wrapping integer arithmetic is done unsigned, ops that only
move bits are compiled once per size, and what comes out as the same C is compiled once."""

import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

from treadle import ops
from treadle.dtypes import ALL
from treadle.spec import Spec

SOURCE = Path(__file__).resolve().parents[1] / "src" / "treadle_backend_cpu"
CSRC = SOURCE / "csrc"
MACHINE = runpy.run_path(str(SOURCE / "kernels" / "fused_code.py"))  # not as a module of the package: that needs csrc
CTYPE = {
    "b1": "uint8_t", "i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "int64_t",
    "u8": "uint8_t", "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t",
    "f32": "float", "f64": "double",
}  # fmt: skip
SIZE = {
    "b1": 1,
    "i8": 1,
    "i16": 2,
    "i32": 4,
    "i64": 8,
    "u8": 1,
    "u16": 2,
    "u32": 4,
    "u64": 8,
    "f32": 4,
    "f64": 8,
}
CATEGORY = {"b": "bool", "i": "int", "u": "uint", "f": "float"}
HEAVY = {
    "exp",
    "exp2",
    "log",
    "expm1",
    "log1p",
    "sin",
    "cos",
    "tanh",
    "erf",
    "pow",
    "atan2",
    "rem",
    "trunc_div",
    "trunc_rem",
}
GRAIN, HEAVY_GRAIN = 32768, 8192  # elements of a task
FAR = {"f32": {"sin", "cos", "rem"}, "f64": {"sin", "cos"}}  # need a second look at some arguments
MACROS = {"select", "isnan"}


class Node(NamedTuple):
    """A parsed expression: kind is name, number, call, unary or operator; value is its text."""

    kind: str
    value: str
    args: tuple = ()


# ---- parsing -------------------------------------------------------------------------------------------------------
TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)|([A-Za-z_]\w*)|(<=|>=|==|!=|[-+*/%&|^~!<>(),]))")
PRECEDENCE = {
    "|": 1, "^": 2, "&": 3, "==": 4, "!=": 4, "<": 5, "<=": 5, ">": 5, ">=": 5,
    "+": 6, "-": 6, "*": 7, "/": 7,
}  # fmt: skip
COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}


class Parser:
    """Precedence climbing over the tokens of one expression."""

    def __init__(self, text):
        self.text, self.tokens, at = text, [], 0
        text = text.strip()
        while at < len(text):
            match = TOKEN.match(text, at)
            if not match:
                sys.exit(f"cannot read the expression {text!r} at {text[at:]!r}")
            self.tokens.append(next((i, g) for i, g in enumerate(match.groups()) if g))
            at = match.end()

    def peek(self):
        return self.tokens[0][1] if self.tokens else None

    def take(self, expected=None):
        if not self.tokens or expected not in (None, self.tokens[0][1]):
            sys.exit(f"cannot read the expression {self.text!r}: {expected or 'more'} expected")
        return self.tokens.pop(0)

    def parse(self):
        node = self.binary(0)
        if self.tokens:
            sys.exit(f"cannot read the expression {self.text!r}: {self.peek()!r} is left over")
        return node

    def binary(self, floor):
        left = self.unary()
        while PRECEDENCE.get(self.peek(), 0) > floor:
            operator = self.take()[1]
            left = Node("operator", operator, (left, self.binary(PRECEDENCE[operator])))
        return left

    def unary(self):
        if self.peek() in ("-", "~", "!"):
            return Node("unary", self.take()[1], (self.unary(),))
        kind, text = self.take()
        if text == "(":
            node = self.binary(0)
            self.take(")")
            return node
        if kind == 0:
            return Node("number", text)
        if self.peek() != "(":
            return Node("name", text)
        self.take("(")
        args = [self.binary(0)]
        while self.peek() == ",":
            self.take()
            args.append(self.binary(0))
        self.take(")")
        return Node("call", text, tuple(args))


def walk(node):
    """Yield a node and all below it."""
    yield node
    for arg in node.args:
        yield from walk(arg)


def functions(node):
    return {n.value for n in walk(node) if n.kind == "call"}


# ---- choosing types ------------------------------------------------------------------------------------------------
def only_moves(node):
    """Tell whether an expression copies operands bit by bit: names, select by a condition."""
    if node.kind == "call" and node.value == "select":
        return node.args[0] == Node("name", "c") and all(map(only_moves, node.args[1:]))
    return node.kind == "name"


def sign_matters(node):
    """Tell whether integer arithmetic differs between signed and unsigned operands."""
    same = {"+", "-", "*", "~", "!", "&", "|", "^", "==", "!=", "select"}
    return any(n.value not in same for n in walk(node) if n.kind not in ("name", "number"))


def compute_type(node, dtype):
    """Return the short name of the type an expression is computed in for operands of a dtype."""
    if only_moves(node):
        return f"u{8 * dtype.itemsize}"
    if dtype.kind == "f":
        return "f64" if dtype.short == "f64" else "f32"
    if dtype.kind == "i" and not sign_matters(node):
        return f"u{8 * dtype.itemsize}"
    return dtype.short


# ---- writing C -----------------------------------------------------------------------------------------------------
def number(text, short):
    if short == "f64":
        return text if re.search(r"[.eE]", text) else text + ".0"
    if short == "f32":
        return number(text, "f64") + "f"
    return f"({CTYPE[short]}){text}"


def write_operator(node, short, write):
    one, call = node.args
    if node.value == "+" and one == Node("number", "1") and call.kind == "call" and call.value == "exp2":
        return f"td_exp2_plus_1_{short}({write(call.args[0])})"  # cheaper than what exp2 alone would need
    left, right = (write(arg) for arg in node.args)
    text = f"({left} {node.value} {right})"
    if short[0] == "f" or node.value in COMPARISONS:
        return text
    if node.value in ("+", "-", "*"):
        wide = "uint64_t" if SIZE[short] == 8 else "uint32_t"
        text = f"(({wide}){left} {node.value} ({wide}){right})"
    elif node.value not in ("&", "|", "^"):
        sys.exit(f"operator {node.value} has no meaning for integers: use a function")
    return f"({CTYPE[short]}){text}"


def write_unary(node, short, write):
    operand = write(node.args[0])
    if node.value == "!":
        return f"(!{operand})"
    if short[0] == "f":
        return f"(-{operand})"
    if node.value == "-":
        return f"({CTYPE[short]})(0u - {operand})"
    return f"({CTYPE[short]})~{operand}"


def write_call(node, short, write, near):
    args = [write(arg) for arg in node.args]
    if node.value == "select":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if node.value in FAR.get(short, ()):
        way, more = ("_near", ["&far"]) if near else ("", [])
        return f"td_{node.value}{way}_{short}({', '.join(args + more)})"
    return f"td_{node.value}_{short}({', '.join(args)})"


def write_c(node, short, near=True):
    """Return the C text of an expression in a type; near=False: the slow form of far functions."""

    def write(n):
        if n.kind == "name":
            return n.value
        if n.kind == "number":
            return number(n.value, short)
        if n.kind == "operator":
            return write_operator(n, short, write)
        if n.kind == "unary":
            return write_unary(n, short, write)
        return write_call(n, short, write, near)

    return write(node)


# ---- ops, loops, kernels -------------------------------------------------------------------------------------------
class File:
    """The lines of one generated file; a loop that is already there is used again."""

    def __init__(self):
        self.loops, self.lines, self.kernels = {}, [], []
        self.names = {}  # op -> its loop

    def loop(self, name, head, operands, texts):
        """Return the name of the loop for these texts, adding it if there is none yet."""
        names = [o[1] for o in operands]
        places = {n: f"${i}" for i, n in enumerate(names)}
        plain = [re.sub(r"\b\w+\b", lambda m: places.get(m[0], m[0]), t) for t in texts]
        key = (head, tuple(o[0] for o in operands), tuple(plain))
        if key not in self.loops:
            kind = "EW_FAR" if len(texts) == 2 else "EW_LOOP"
            flat = ", ".join(f"{ctype}, {operand}" for ctype, operand in operands)
            self.lines.append(f"{kind}{len(operands)}({name}, {head}, {flat}, {', '.join(texts)})")
            self.loops[key] = name
        return self.loops[key]


def file_of(short):
    return "f32" if short == "f32" else "f64" if short == "f64" else "int"


def stored(dtype, short):
    """Return how a kernel names the stored form of an operand: f16, bf16 or a size."""
    return dtype.short if short == "f32" and dtype.itemsize == 2 else str(dtype.itemsize)


def expression(op, dtype):
    """Return the C expression of an op for a dtype, or None."""
    if not isinstance(op.c_expr, dict):
        return op.c_expr
    return op.c_expr.get(CATEGORY[dtype.kind])


def add_kernel(files, op, dtype):
    """Add the kernel of an op for a dtype, and its loop."""
    node = Parser(expression(op, dtype)).parse()
    short = compute_type(node, dtype)
    names = [operand.name for operand in op.inputs]
    result = op.spec(*[Spec((), ALL[0] if n == "c" else dtype) for n in names]).dtype
    logical = result.kind == "b" and dtype.kind != "b"
    operands = [("uint8_t" if n == "c" else CTYPE[short], n) for n in names]
    forms = ["1" if n == "c" else stored(dtype, short) for n in names]
    head_type = "uint8_t" if logical else CTYPE[short]
    narrowest = min([1 if n == "c" else SIZE[short] for n in names] + [1 if logical else SIZE[short]])
    block = 64 // narrowest
    texts = [write_c(node, short)]
    if functions(node) & FAR.get(short, set()):
        texts.append(write_c(node, short, near=False))
    file = files[file_of(short)]
    loop = file.loop(f"{op.name}_{short}_loop", f"{block}, {head_type}", operands, texts)
    file.names[op.name] = loop
    grain = HEAVY_GRAIN if functions(node) & HEAVY else GRAIN
    forms = forms + ["0"] * (4 - len(forms)) + ["1" if logical else stored(dtype, short)]
    name = f"{op.name}_{dtype.short}"
    file.kernels.append(
        f"EW_KERNEL({name}, {loop}, {len(names)}, {block}, {grain}, {divisor(node, names)}, {', '.join(forms)})"
    )


def divisor(node, names):
    """Return the index of the integer operand that is divided by, or -1."""
    for n in walk(node):
        if n.kind == "call" and n.value in ("trunc_div", "trunc_rem"):
            if n.args[1].kind != "name":
                sys.exit("an integer divisor must be an operand")
            return names.index(n.args[1].value)
    return -1


def elementwise_ops():
    """Return the ops that declare a C expression, in the order of the catalogue."""
    return [op for op in ops.CATALOGUE.values() if op.c_expr is not None]


def generate():
    """Return the text of every generated file by its name."""
    files = {"f32": File(), "f64": File(), "int": File()}
    for op in elementwise_ops():
        for dtype in ALL:
            if dtype in op.dtypes and expression(op, dtype) is not None:
                add_kernel(files, op, dtype)
    for key in ("f32", "f64"):
        files[key].kernels += [f"EW_FUSED({files[key].names[name]})" for name in MACHINE["LOOPS"]]
    made = {f"elementwise_{key}.inc": "\n".join(f.lines + f.kernels) + "\n" for key, f in files.items()}
    made |= {f"fused_{key}.inc": "\n".join(stages(key)) + "\n" for key in ("f32", "f64")} | {"fused_codes.h": codes()}
    head = "/* Made by tools/generate_elementwise.py from the core's declarations: change those. */\n"
    return {name: head + text for name, text in made.items()}


# ---- fused regions: their stages, in the order of their codes (kernels/fused_code.py) ------------------------------
def stages(short):
    """Yield the lines of fused_<type>.inc."""
    for name in MACHINE["PLAIN"]:
        yield f"FUSED_STAGE({name})"
    for name, ways in MACHINE["WAYS"].items():
        if name in ops.CATALOGUE and name not in MACHINE["COMPARISONS"]:
            yield function(ops.CATALOGUE[name], short)
        yield from (f"FUSED_{way or 'WITH'}({name})" for way in ways)
    for name in MACHINE["UNARY"]:
        yield function(ops.CATALOGUE[name], short)
    for half in ("f16", "bf16") if short == "f32" else ():
        yield f"FUSED_UNARY(round_{half}, x, td_{half}_to_f32(td_f32_to_{half}(x)))"


def function(op, short):
    """Return the line of an op's function."""
    node = Parser(expression(op, next(d for d in ALL if d.short == short))).parse()
    names = ", ".join(operand.name for operand in op.inputs)
    return f"FUSED_{'UNARY' if len(op.inputs) == 1 else 'BINARY'}({op.name}, {names}, {write_c(node, short)})"


def codes():
    """Return what the driver knows of the stages."""
    names = ", ".join(f"FUSED_{name.upper()} = {MACHINE['STAGES'].index(name)}" for name in ("store", "stream"))
    return f"enum {{ {names}, FUSED_CODES = {len(MACHINE['STAGES'])} }};\n"


def main():
    check = "--check" in sys.argv[1:]
    stale = []
    for name, text in generate().items():
        path = CSRC / name
        if path.exists() and path.read_text() == text:
            continue
        stale.append(name)
        if not check:
            path.write_text(text)
    print("stale:" if check else "written:", ", ".join(stale) or "nothing")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
