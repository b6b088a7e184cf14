"""The function that runs one traced signature, generated from what the trace found: no loop decides anything per call.

def run(leaves):
    x0 = leaves[0]
    out = EXECUTE(x0.storage, X1.storage if X1.sig is S1 else DENSE(X1, S1), *N0())
    X1._version += 1
    return Tensor(out[0], O0, None)
"""

from typing import Any

from treadle import tape
from treadle._tensor import Tensor, is_leaf_node
from treadle.compiler.joint import refusing
from treadle.errors import DeviceError, TraceError
from treadle.runtime import dispatch
from treadle.tree import LEAF


def dense(x: Tensor, sig: Any) -> Any:
    """The elements of an input as the executable takes them, row-major; errors when it is another kind of tensor."""
    if x.device is not sig.device:
        raise DeviceError(f"compile: a tensor on {x.device} meets a function compiled for {sig.device}")
    if x.dtype is not sig.dtype or x.shape != sig.shape:
        raise TraceError(f"compile: a tensor that was {sig} when the function was traced is now {x.sig}")
    storage = dispatch.allocate(sig.device, sig.nbytes, "compiled function")
    dispatch.copy_into(sig.device, storage, sig, x.storage, x.sig)
    return storage


def _mark(x: Tensor) -> None:
    if not is_leaf_node(x.root.node):
        tape.mark_stale(x.root.node)


class Writer:
    """Collects the text of a function and the objects it names."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {"Tensor": Tensor, "DENSE": dense, "MARK": _mark, "COPY": dispatch.copy_into}

    def name(self, letter: str, k: int, value: Any) -> str:
        self.scope[f"{letter}{k}"] = value
        return f"{letter}{k}"

    def line(self, text: str) -> None:
        self.lines.append("    " + text)

    def make(self, head: str) -> Any:
        source = "\n".join([head, *self.lines])
        exec(compile(source, "<compiled function>", "exec"), self.scope)
        return self.scope[head.split("(")[0].removeprefix("def ")]


def make_holds(guards: list[Any], grads: list[Any], same: list[Any], apart: list[Any]) -> Any:
    """A function of the leaves that says whether what the trace depended on beside their signatures is still so.

    same: (leaf, leaf or tensor) that were one object. apart: (leaf, leaf or ids of tensors) that may not share memory.
    """
    w, tests = Writer(), []
    for k, (leaf, other) in enumerate(same):
        tests.append(f"leaves[{leaf}] is {f'leaves[{other}]' if other.__class__ is int else w.name('T', k, other)}")
    for k, (leaf, other) in enumerate(apart):
        root = f"leaves[{leaf}].root"
        alone = f"{root} is not leaves[{other}].root" if other.__class__ is int else None
        tests.append(alone or f"id({root}) not in {w.name('R', k, other)}")
    for k, (owner, attribute, value) in enumerate(guards):
        tests.append(f"{w.name('G', k, owner)}.{attribute} == {w.name('V', k, value)}")
    for k, (leaf, sig) in enumerate(grads):
        g = f"{w.name('L', k, leaf)}.grad"
        tests.append(f"{g} is None" if sig is None else f"{g} is not None and {g}.sig is {w.name('S', k, sig)}")
    w.line(f"return {' and '.join(tests) or 'True'}")
    return w.make("def holds(leaves):")


def make_run(entry: Any, leaves: list[Any], execute: Any = None) -> Any:
    """The function from the leaves of the arguments to the result of a call. execute: instead of the executable."""
    w, found, part = Writer(), entry.found, entry.forward
    tensors, storages = [], []
    for k, (source, sig) in enumerate(zip(found.sources, part.sigs, strict=True)):
        x = _fetch(w, k, source)
        tensors.append(x)
        s = w.name("S", k, sig)
        if source.kind == "arg" and leaves[source.what].sig is sig:  # the signature says so
            text = f"{x}.storage"
        else:
            text = f"{x}.storage if {x}.sig is {s} else DENSE({x}, {s})"
        if found.backward is not None or k in entry.written:
            w.line(f"s{k} = {text}")
            text = f"s{k}"
        storages.append(text)
    for k in entry.written:
        w.line(f"if {tensors[k]}.root.node is not None: MARK({tensors[k]})")
    readers = [n.read for n in found.graph.numbers if n.read is not None]
    operands = storages + [f"*{w.name('N', k, read)}()" for k, read in enumerate(readers)]
    w.scope["EXECUTE"] = execute or part.run
    w.line(f"out = EXECUTE({', '.join(operands)})")
    for k in entry.written:
        x, s = tensors[k], f"S{k}"
        w.line(f"if {x}.sig is not {s}: COPY({s}.device, {x}.storage, {x}.sig, s{k}, {s})")
        w.line(f"{x}._version += 1")
    outputs = _effects(w, found.effects, part.outs)
    if found.backward is not None:
        w.scope["RECORD"] = entry.record
        given = ["[" + ", ".join(names) + "]" for names in (outputs, tensors, [f"s{k}" for k in range(len(tensors))])]
        w.line(f"RECORD({', '.join(given)}, out)")
    for k, text in found.refused.items():
        w.line(f"{outputs[k]}.node = {w.name('E', k, refusing(text))}()")
    _result(w, found, outputs)
    return w.make("def run(leaves):")


def _fetch(w: Writer, k: int, source: Any) -> str:
    kind, what = source
    if kind == "state":
        return w.name("X", k, what)
    if kind == "arg":
        w.line(f"x{k} = leaves[{what}]")
    elif kind == "grad":
        w.line(f"x{k} = {w.name('L', k, what)}.grad")
    else:
        w.line(f"x{k} = {w.name('F', k, what)}()")
    return f"x{k}"


def _effects(w: Writer, effects: list[Any], sigs: list[Any]) -> list[str]:
    """Lines that put gradients where they belong and make the results; their names."""
    outputs: list[str] = []
    n = 0
    for k, (kind, what, value) in enumerate(effects):
        if kind not in ("output", "grad"):
            continue
        made = "None"
        if value is not None:
            made = f"Tensor(out[{n}], {w.name('O', n, sigs[n])}, None)"
            n += 1
        if kind == "grad":
            w.line(f"{w.name('A', k, what)}.grad = {made}")
        else:
            w.line(f"y{len(outputs)} = {made}")
            outputs.append(f"y{len(outputs)}")
    return outputs


def _result(w: Writer, found: Any, outputs: list[str]) -> None:
    parts = []
    for k, (kind, what) in enumerate(found.results):
        if kind == "value":
            parts.append(outputs[what])
        else:
            parts.append(f"leaves[{what}]" if kind == "arg" else w.name("C", k, what))
    structure = found.structure
    if structure == LEAF:
        w.line(f"return {parts[0]}")
    elif structure.kind is tuple and all(c == LEAF for c in structure.children):
        w.line(f"return ({''.join(p + ', ' for p in parts)})")
    else:
        w.scope["BUILD"] = structure.build
        w.line(f"return BUILD(iter([{', '.join(parts)}]))")
