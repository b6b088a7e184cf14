"""Lower a Graph: give every Value a place in memory, bind kernels, and make of Nodes the steps that run.

Views and expands cost nothing here: they become the layout through which a step reads an operand. Copy ops become
copies into regions of their result, and an operand in a layout that its kernel does not take is copied first.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from treadle.ir.graph import Graph, Node, Number, Value
from treadle.runtime.backend import Bound, Call
from treadle.sig import Sig, dense_sig, sig_of


class Place(NamedTuple):
    """Where a Value lies: a buffer, the offset of its first element in bytes, and its layout."""

    buffer: int
    offset: int
    sig: Sig


class Buffer:
    """A piece of memory. kind: input or constant (index says which), output (index says which), temp."""

    __slots__ = ("index", "kind", "nbytes")

    def __init__(self, kind: str, nbytes: int, index: int = 0) -> None:
        self.kind, self.nbytes, self.index = kind, nbytes, index


class Step:
    """One kernel call, or without `call` a copy of ins[0] to outs[0].

    ins: Places, Python numbers, Numbers, None (absent). outs: Places, None (unwanted). bound: the backend's kernel, or
    None where the op has to be decomposed or run on the host.
    """

    __slots__ = ("bound", "call", "ins", "line", "lists", "outs")

    def __init__(
        self, call: Call | None, ins: list[Any], outs: list[Place | None], bound: Bound | None = None, lists: Any = ()
    ) -> None:
        self.call, self.ins, self.outs, self.bound = call, ins, outs, bound
        self.lists = lists  # of a list op: how long each list is
        self.line = ""  # the user's line that the node came from

    def reads(self) -> Iterator[int]:
        """Buffers that it reads."""
        return (p.buffer for p in self.ins if p.__class__ is Place)

    def writes(self) -> Iterator[int]:
        """Buffers that it writes to."""
        return (p.buffer for p in self.outs if p is not None)

    @property
    def inplace(self) -> bool:
        """Whether a result may lie exactly where an operand does."""
        return self.bound is not None and self.bound.claim.inplace

    def __repr__(self) -> str:
        return f"<step {self.call.op.name if self.call else 'copy'}>"


class Plan:
    """Buffers and steps of one Graph on one device.

    donated: output index -> input index; such an output ends in the memory of that input, whose old content is gone.
    """

    def __init__(self, graph: Graph, device: Any, donated: dict[int, int] | None = None) -> None:
        self.graph, self.device, self.donated = graph, device, donated or {}
        self.buffers: list[Buffer] = []
        self.steps: list[Step] = []
        self.places: dict[Value, Place] = {}
        self.constants: list[Any] = []
        self.inputs = [self._place(v, self._buffer("input", v.spec.nbytes, k)) for k, v in enumerate(graph.inputs)]
        for v, array in graph.constants.items():
            self._place(v, self._constant(array))
        for n in graph.nodes:
            self._lower(n)
        self.outputs = [self._dense(self.places[v]) for v in graph.outputs]
        self._donate()
        self._own_outputs()

    # ---- memory ----------------------------------------------------------------------------------------------------
    def _buffer(self, kind: str, nbytes: int, index: int = 0) -> int:
        self.buffers.append(Buffer(kind, nbytes, index))
        return len(self.buffers) - 1

    def _constant(self, array: Any) -> int:
        self.constants.append(array)
        return self._buffer("constant", array.nbytes, len(self.constants) - 1)

    def _temp(self, sig: Sig) -> Place:
        dense = dense_sig(sig.dtype, tuple(sig.shape), self.device)
        return Place(self._buffer("temp", dense.nbytes), 0, dense)

    def _place(self, v: Value, buffer: int) -> Place:
        """Let a Value fill a buffer, row-major."""
        found = self.places[v] = Place(buffer, 0, dense_sig(v.dtype, tuple(v.shape), self.device))
        return found

    def _new(self, v: Value) -> Place:
        return self._place(v, self._buffer("temp", v.spec.nbytes))

    def _dense(self, p: Place) -> Place:
        """A place with the same elements, row-major: p itself or a copy."""
        return p if p.sig.layout == "dense" else self._copied(p)

    def _copied(self, p: Place) -> Place:
        out = self._temp(p.sig)
        self._copy(p, out)
        return out

    def _copy(self, src: Place, dst: Place) -> None:
        if src.sig.size:
            self.steps.append(Step(None, [src], [dst]))

    # ---- nodes -----------------------------------------------------------------------------------------------------
    def _lower(self, n: Node) -> None:
        before = len(self.steps)
        if n.op.tier == "view":
            self._view(n)
        elif n.op.tier == "copy":
            self._assemble(n)
        elif n.op.tier == "control":
            self._control(n)
        else:
            self._kernel(n)
        for s in self.steps[before:]:
            s.line = n.line

    def _view(self, n: Node) -> None:
        (x,), (y,) = n.inputs, n.outputs
        p = self.places[x]
        layout = n.op.layout(p.sig.shape, p.sig.strides, **n.attrs)
        if layout is None:
            p = self._copied(p)
            layout = n.op.layout(p.sig.shape, p.sig.strides, **n.attrs)
        shape, strides, offset = layout
        sig = sig_of(p.sig.dtype, tuple(shape), tuple(strides), self.device)
        assert y is not None
        self.places[y] = Place(p.buffer, p.offset + (offset if sig.size else 0) * sig.dtype.itemsize, sig)

    def _assemble(self, n: Node) -> None:
        """concat, pad, write, copy: an optional fill, then each operand into its region."""
        y = n.outputs[0]
        assert y is not None
        operands = [v for x in n.inputs for v in (x if x.__class__ is tuple else (x,))]
        values = [v for v in operands if v.__class__ is Value]
        regions = n.op.layout(y.spec, *[v.spec for v in values], **n.attrs)
        out = self._new(y)
        if len(values) < len(operands):
            self._fill(out, operands[-1])
        for k, (shape, strides, offset) in regions:
            sig = sig_of(y.dtype, tuple(shape), tuple(strides), self.device)
            self._copy(self.places[values[k]], Place(out.buffer, (offset if sig.size else 0) * y.dtype.itemsize, sig))

    def _fill(self, out: Place, number: Any) -> None:
        kind, shape = out.sig.dtype, tuple(out.sig.shape)
        one = self._constant(np.asarray(number).astype(kind.np))
        self._copy(Place(one, 0, sig_of(kind, shape, (0,) * len(shape), self.device)), out)

    def _kernel(self, n: Node) -> None:
        results, specs = n.outputs, n.specs
        count = len(n.op.results)
        if n.op.aux and len(results) > count and all(v is None for v in results[count:]):
            results, specs = results[:count], specs[:count]  # no aux value is wanted: the plain call
        ins: list[Any] = []
        for x in n.inputs:
            if x.__class__ is tuple:
                ins += [self.places[v] for v in x]
            else:
                ins.append(self.places[x] if x.__class__ is Value else x)
        lists = [len(x) for x in n.inputs if x.__class__ is tuple]
        attrs = {**n.attrs, "n": lists[0]} if lists else n.attrs
        want = tuple(v is not None for v in results)
        call = Call(n.op, tuple(_seen(p) for p in ins), specs, attrs, want)
        bound = self.device.backend.bind(call)
        if bound is not None:
            for k, (p, need) in enumerate(zip(ins, bound.ins, strict=True)):
                if p.__class__ is Place and need is not p.sig:
                    ins[k] = self._copied(p)
            call = call._replace(ins=bound.ins)
        outs = [None if v is None else self._new(v) for v in results]
        self.steps.append(Step(call, ins, outs, bound, lists))

    def _control(self, n: Node) -> None:
        """A branch or a loop: one step over row-major operands, which the executor runs with graphs of its own."""
        values = [v for x in n.inputs for v in (x if x.__class__ is tuple else (x,))]
        ins = [self._dense(self.places[v]) for v in values]
        want = tuple(v is not None for v in n.outputs)
        call = Call(n.op, tuple(p.sig for p in ins), n.specs, n.attrs, want)
        lists = [len(x) for x in n.inputs if x.__class__ is tuple]
        self.steps.append(Step(call, ins, [None if v is None else self._new(v) for v in n.outputs], None, lists))

    # ---- outputs ---------------------------------------------------------------------------------------------------
    def _donate(self) -> None:
        """Let results that replace an input be computed right into it, where nobody reads the old content later."""
        reads: dict[int, int] = {}
        writers: dict[int, list[int]] = {}
        for k, s in enumerate(self.steps):
            reads.update(dict.fromkeys(s.reads(), k))
            for b in s.writes():
                writers.setdefault(b, []).append(k)
        ends = [p.buffer for p in self.outputs]
        moved: dict[int, int] = {}
        for out, k in self.donated.items():
            p, target = self.outputs[out], self.inputs[k]
            first = writers.get(p.buffer, [len(self.steps)])[0]
            whole = p.offset == 0 and p.sig is target.sig and self.buffers[p.buffer].nbytes == p.sig.nbytes
            last = reads.get(target.buffer, -1)
            alone = ends.count(p.buffer) == 1 and target.buffer not in ends and p.buffer not in moved
            temp = self.buffers[p.buffer].kind == "temp"
            if whole and alone and temp and (last < first or (last == first and self._exact(first, target))):
                moved[p.buffer] = target.buffer
        for s in self.steps:
            s.ins = [_moved(p, moved) for p in s.ins]
            s.outs = [_moved(p, moved) for p in s.outs]
        self.outputs = [_moved(p, moved) for p in self.outputs]
        self._save_outputs()
        for out, k in self.donated.items():
            if self.outputs[out].buffer != self.inputs[k].buffer:
                self._copy(self.outputs[out], self.inputs[k])
                self.outputs[out] = self.inputs[k]

    def _save_outputs(self) -> None:
        """Outputs that lie in an input are copied before another output's value is put there."""
        targets = {self.inputs[k].buffer: out for out, k in self.donated.items()}
        for out, p in enumerate(self.outputs):
            if targets.get(p.buffer, out) != out:
                self.outputs[out] = self._copied(p)

    def _exact(self, k: int, target: Place) -> bool:
        """Whether step k may overwrite an operand while reading it."""
        s = self.steps[k]
        return s.inplace and all(p == target for p in s.ins if p.__class__ is Place and p.buffer == target.buffer)

    def _own_outputs(self) -> None:
        """Outputs that are not donated get memory of their own, which the caller keeps."""
        taken: set[int] = set()
        for k, p in enumerate(self.outputs):
            if k in self.donated:
                continue
            b = self.buffers[p.buffer]
            if b.kind == "temp" and p.offset == 0 and b.nbytes == p.sig.nbytes and p.buffer not in taken:
                b.kind, b.index = "output", k
            else:
                own = Place(self._buffer("output", p.sig.nbytes, k), 0, p.sig)
                self._copy(p, own)
                self.outputs[k] = p = own
            taken.add(p.buffer)


def _seen(p: Any) -> Any:
    """What a backend sees of an operand at binding."""
    if p.__class__ is Place:
        return p.sig
    return None if p is None else p.kind if p.__class__ is Number else p.__class__


def _moved(p: Any, moved: dict[int, int]) -> Any:
    return p._replace(buffer=moved[p.buffer]) if p.__class__ is Place and p.buffer in moved else p
