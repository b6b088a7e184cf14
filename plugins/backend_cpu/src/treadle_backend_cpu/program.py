"""A lowered Graph as one call into C: steps over a planned arena, with no Python in between."""

from treadle.compiler.lower import Place
from treadle.compiler.memory import arena, lives
from treadle.ir.graph import Number
from treadle_backend_cpu import _native as native
from treadle_backend_cpu.kernels.copy import bound_copy

NATIVE = type(native.alloc)
ARENA, ARGUMENT, CONSTANT, NUMBER, OUTPUT, UNWANTED = range(6)  # where an operand lies: see program.c


class Program:
    """An executable: `run(storages, numbers) -> storages of the outputs that are not donated`."""

    def __init__(self, plan):
        self.plan = plan
        self.offsets, self.arena_bytes = arena(lives(plan))
        self.numbers = {n: k for k, n in enumerate(plan.graph.numbers)}
        self.immediates = []
        self.outputs = [k for k in range(len(plan.outputs)) if k not in plan.donated]
        steps = tuple(self._step(s) for s in plan.steps)
        self.run = native.program(
            steps,
            self.arena_bytes,
            tuple(p.sig.nbytes for p in plan.inputs),
            tuple(plan.outputs[k].sig.nbytes for k in self.outputs),
            tuple(_storage(a) for a in plan.constants),
            len(self.numbers) + len(self.immediates),
        )

    def __call__(self, storages, numbers=()):
        return self.run(*storages, *numbers, *self.immediates)

    def _step(self, step):
        if step.call is None:
            (src,), (dst,) = step.ins, step.outs
            run = bound_copy(dst.sig.shape, dst.sig.strides, src.sig.strides, src.sig.dtype.itemsize)
        else:
            run = kernel_of(step)
        operands = [x for x in step.ins if x is not None]
        return run, tuple(n for p in (*operands, *step.outs) for n in self._slot(p))

    def _slot(self, p):
        if p is None:
            return UNWANTED, 0, 0
        if p.__class__ is not Place:
            return NUMBER, self._number(p), 0
        buffer = self.plan.buffers[p.buffer]
        if buffer.kind == "temp":
            return ARENA, 0, self.offsets[p.buffer] + p.offset
        if buffer.kind == "output":
            return OUTPUT, self.outputs.index(buffer.index), p.offset
        return ARGUMENT if buffer.kind == "input" else CONSTANT, buffer.index, p.offset

    def _number(self, x):
        if x.__class__ is Number:
            return self.numbers[x]
        self.immediates.append(x)
        return len(self.numbers) + len(self.immediates) - 1


def kernel_of(step):
    """The native kernel of a step, or None where it has none."""
    run = getattr(step.bound.run, "run", step.bound.run) if step.bound is not None else None
    return run if isinstance(run, NATIVE) else None


def compile_plan(plan):
    """Return a Program, or None when a step is no kernel of ours."""
    if any(s.call is not None and kernel_of(s) is None for s in plan.steps):
        return None
    return Program(plan)


def _storage(array):
    data = memoryview(array.tobytes())
    storage = native.alloc(len(data))
    memoryview(storage)[: len(data)] = data
    return storage
