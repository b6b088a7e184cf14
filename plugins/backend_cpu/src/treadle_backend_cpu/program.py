"""A lowered Graph as one call into C: steps over a planned arena, with no Python in between."""

import numpy as np

from treadle.compiler.lower import Place
from treadle.compiler.memory import arena, lives, rooms
from treadle.dtypes import ALL
from treadle.ir.graph import Number
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.copy import bound_copy

NATIVE = type(native.alloc)
ARENA, ARGUMENT, CONSTANT, NUMBER, OUTPUT, UNWANTED = range(6)  # where an operand lies: see program.c


class Builder:
    """Turns a plan into the arguments of native.program."""

    def __init__(self, plan):
        self.plan = plan
        alive, self.owner = lives(plan)
        self.offsets, self.arena_bytes = arena(alive)
        self.rooms = rooms(alive, self.offsets, self.arena_bytes, len(plan.steps))
        self.numbers = {n: k for k, n in enumerate(plan.graph.numbers)}
        self.outputs = [k for k in range(len(plan.outputs)) if k not in plan.donated]
        self.constants = [_storage(a.tobytes()) for a in plan.constants]
        self.known = {}  # (dtype code, number) -> its constant

    def build(self):
        steps = tuple(self._step(s) for s in self.plan.steps)
        return native.program(
            steps,
            self.arena_bytes,
            tuple(p.sig.nbytes for p in self.plan.inputs),
            tuple(self.plan.outputs[k].sig.nbytes for k in self.outputs),
            tuple(self.constants),
            len(self.numbers),
            tuple(n for room in self.rooms for n in room),
        )

    def _step(self, step):
        if step.call is None:
            (src,), (dst,) = step.ins, step.outs
            run = bound_copy(dst.sig.shape, dst.sig.strides, src.sig.strides, src.sig.dtype.itemsize)
        else:
            run = kernel_of(step)
        operands = [x for x in step.ins if x is not None]
        codes = run.__self__.scalars
        slots = [self._place(p) if p.__class__ is Place else self._number(p, codes[k]) for k, p in enumerate(operands)]
        slots += [(UNWANTED, 0, 0) if p is None else self._place(p) for p in step.outs]
        return run, tuple(n for slot in slots for n in slot)

    def _place(self, p):
        buffer = self.plan.buffers[p.buffer]
        if buffer.kind == "temp":
            return ARENA, 0, self.offsets[self.owner[p.buffer]] + p.offset
        if buffer.kind == "output":
            return OUTPUT, self.outputs.index(buffer.index), p.offset
        return ARGUMENT if buffer.kind == "input" else CONSTANT, buffer.index, p.offset

    def _number(self, x, code):
        """A number that is read at every call, or one that is known now: an element of the kernel's type."""
        if x.__class__ is Number:
            return NUMBER, self.numbers[x], 0
        key = code, x.__class__, repr(x)
        if key not in self.known:
            self.known[key] = len(self.constants)
            element = next(d for d in ALL if d.code == code)
            self.constants.append(_storage(np.asarray(x).astype(element.np).tobytes()))
        return CONSTANT, self.known[key], 0


def kernel_of(step):
    """The native kernel of a step, or None where it has none."""
    run = getattr(step.bound.run, "run", step.bound.run) if step.bound is not None else None
    return run if isinstance(run, NATIVE) else None


def compile_plan(plan):
    """Return `run(*storages, *numbers) -> storages of the outputs that are not donated`, one call into C.

    None when a step is no kernel of ours.
    """
    if any(s.call is not None and kernel_of(s) is None for s in plan.steps):
        return None
    return Builder(plan).build()


def _storage(data):
    storage = native.alloc(len(data))
    memoryview(storage)[: len(data)] = data
    return storage
